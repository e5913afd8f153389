"""What has to be put right when a task ends, on disk before the first change (BOUNDARY F1).

One file per task in the state folder. The launcher holds a lock on it for as long as it lives, so whoever recovers
knows which tasks have nobody left.
"""

from __future__ import annotations

import fcntl
import json
import os

from leasehold.core.record import record
from leasehold.node.sandbox.beneath import Folder
from leasehold.node.sandbox.mask import GIT, RUNS
from leasehold.node.sandbox.overlay import Overlay

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

    from leasehold.node.sandbox.gitconfig import Entry
    from leasehold.node.sandbox.mask import Mask

_VERSION = 1
_FLAGS = os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC
_PINS_MAX = 256


@record
class Point:
    """A mount point that was made: a folder, or a file with ``content``. ``inode``: (device, inode) once there."""

    path: str
    folder: bool
    content: bytes = b""
    inode: tuple[int, int] | None = None


@record
class Known:
    """What was at a protected path. ``target``: of a link. ``changed_ns``, ``size``: only to tell of changes."""

    why: str
    inode: tuple[int, int]
    target: str | None
    changed_ns: int
    size: int


class Journal:
    """``file``: the journal itself, locked by ``fd``. ``overlays``: to be laid by the launcher. ``elsewhere``: git
    folders outside of the workspace. ``configs``: what git's configuration said before; only in memory, because it can
    hold secrets. ``started_ns``: on the file system's clock."""

    def __init__(
        self,
        *,
        file: str,
        fd: int,
        task: str,
        workspace: str,
        points: Sequence[Point],
        known: Mapping[str, Known],
        private: Sequence[str],
        elsewhere: Sequence[str],
        started_ns: int,
    ) -> None:
        self.file, self.fd, self.task, self.workspace = file, fd, task, workspace
        self.points, self.known = list(points), dict(known)
        self.private, self.elsewhere = tuple(private), tuple(elsewhere)
        self.started_ns = started_ns
        self.configs: dict[str, frozenset[Entry]] = {}
        self.pins: list[int] = []

    @property
    def scratch(self) -> str:
        """The folder for the task's own layers."""
        return f"{os.path.dirname(os.path.dirname(self.file))}/layers/{self.task}"

    @property
    def overlays(self) -> tuple[Overlay, ...]:
        return tuple(
            Overlay(path=path, upper=f"{self.scratch}/{i}/upper", work=f"{self.scratch}/{i}/work")
            for i, path in enumerate(self.private)
        )

    def close(self) -> None:
        """Give the lock up; idempotent."""
        for fd in (*self.pins, self.fd):
            if fd >= 0:
                os.close(fd)
        self.pins, self.fd = [], -1


def folder_of(state_dir: str) -> str:
    """Where the journals are; made when it is missing."""
    folder = f"{state_dir}/workspaces"
    os.makedirs(folder, mode=0o700, exist_ok=True)
    return folder


def create(state_dir: str, task: str, workspace: str) -> Journal:
    """A new journal, locked and still empty; ``FileExistsError`` when the task has one."""
    file = f"{folder_of(state_dir)}/{task}.json"
    fd = os.open(file, _FLAGS | os.O_CREAT | os.O_EXCL, 0o600)
    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    return Journal(
        file=file, fd=fd, task=task, workspace=workspace, points=(), known={}, private=(), elsewhere=(),
        started_ns=os.fstat(fd).st_ctime_ns,
    )  # fmt: skip


def remember(journal: Journal, places: Places, masks: Sequence[Mask]) -> None:
    """Look at what is at the masked paths now, and hold on to it: an inode that is open is not given to another file.
    ``FileNotFoundError`` names a path that has gone since it was looked at."""
    for mask in masks:
        if mask.absent:
            continue
        folder, path = places.find(mask.path)
        status = folder.status(path)
        if status is None:
            raise FileNotFoundError(mask.path)
        journal.known[mask.path] = known(mask.why, status, folder.link(path))
        if mask.why in (GIT, RUNS) and path and len(journal.pins) < _PINS_MAX:
            with folder.above(path) as (fd, name):
                journal.pins.append(os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=fd))


def known(why: str, status: os.stat_result, target: str | None) -> Known:
    return Known(
        why=why,
        inode=(status.st_dev, status.st_ino),
        target=target,
        changed_ns=status.st_ctime_ns,
        size=status.st_size,
    )


def write(journal: Journal) -> None:
    """Make it durable. Afterwards changes may be made."""
    content = {
        "version": _VERSION,
        "task": journal.task,
        "workspace": journal.workspace,
        "started_ns": journal.started_ns,
        "points": [[p.path, p.folder, p.content.decode("ascii")] for p in journal.points],
        "known": [[path, k.why, k.inode, k.target, k.changed_ns, k.size] for path, k in journal.known.items()],
        "private": journal.private,
        "elsewhere": journal.elsewhere,
    }
    os.write(journal.fd, json.dumps(content).encode() + b"\n")
    os.fsync(journal.fd)
    folder = os.open(os.path.dirname(journal.file), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def note_made(journal: Journal) -> None:
    """Add which inodes the mount points became. After a loss of power without it, only emptiness speaks for them."""
    made = [[point.path, point.inode] for point in journal.points]
    os.write(journal.fd, json.dumps({"made": made}).encode() + b"\n")


def note_removed(journal: Journal) -> None:
    """The mount points are no longer this task's affair."""
    os.write(journal.fd, b'{"removed": true}\n')


def read(file: str) -> Journal | None:
    """A journal that nobody holds, now locked by us; ``None`` when somebody does, it has gone, or it was never written
    to the end, so that nothing was changed (and then it is removed)."""
    try:
        fd = os.open(file, _FLAGS)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        gone = os.fstat(fd).st_nlink == 0
    except BlockingIOError:
        gone = True
    if gone:
        os.close(fd)
        return None
    journal = _parse(file, fd)
    if journal is None:
        os.unlink(file)
        os.close(fd)
    return journal


def others(journal: Journal) -> dict[str, Point]:
    """The mount points that other tasks in the same workspace need: whoever ends last removes them."""
    found: dict[str, Point] = {}
    for file in files(os.path.dirname(journal.file)):
        if file != journal.file:
            try:
                content = _content(file)
            except (OSError, ValueError):  # gone, or not yet written
                continue
            if content["workspace"] == journal.workspace:
                found |= {point.path: point for point in _points(content)}
    return found


def files(folder: str) -> list[str]:
    """The journals in a folder of :func:`folder_of`."""
    return [f"{folder}/{name}" for name in sorted(os.listdir(folder)) if name.endswith(".json")]


class Places:
    """The folders that a task may change, opened: the workspace, and git folders that lie elsewhere."""

    def __init__(self, workspace: str, elsewhere: Sequence[str]) -> None:
        """``OSError`` when one of them is not there."""
        self.workspace = Folder(workspace)
        self.elsewhere: dict[str, Folder] = {}
        try:
            for path in elsewhere:
                self.elsewhere[path] = Folder(path)
        except OSError:
            self.close()
            raise

    def __enter__(self) -> Places:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        for folder in (self.workspace, *self.elsewhere.values()):
            folder.close()

    def find(self, path: str) -> tuple[Folder, str]:
        """The folder that a mask's path belongs to, and the path in it."""
        if not path.startswith("/"):
            return self.workspace, path
        for root, folder in self.elsewhere.items():
            if path == root or path.startswith(f"{root}/"):
                return folder, path[len(root) + 1 :]
        raise FileNotFoundError(path)


def roots(masks: Sequence[Mask]) -> list[str]:
    """The git folders outside of the workspace among the masks: those absolute paths that lie in no other."""
    found: list[str] = []
    for mask in masks:
        if mask.path.startswith("/") and not any(mask.path.startswith(f"{root}/") for root in found):
            found.append(mask.path)
    return found


class Turn:
    """While it is held, no other task makes or removes mount points."""

    def __init__(self, state_dir: str) -> None:
        self._file = f"{folder_of(state_dir)}/lock"
        self._fd = -1

    def __enter__(self) -> None:
        self._fd = os.open(self._file, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        fcntl.flock(self._fd, fcntl.LOCK_EX)

    def __exit__(self, *_: object) -> None:
        os.close(self._fd)


def _content(file: str) -> dict[str, Any]:
    """A journal as it was written, with what was noted later; ``ValueError`` when its first line does not end."""
    with open(file, encoding="ascii") as stream:
        first, *later = stream.read().split("\n")
    content: dict[str, Any] = json.loads(first)
    notes: dict[str, Any] = {}
    for line in later[:-1]:  # what comes after the last line end was not written to its own end
        notes |= json.loads(line)
    made = dict(notes.get("made", ()))
    points = [] if "removed" in notes else content["points"]
    content["points"] = [(path, folder, text, made.get(path)) for path, folder, text in points]
    return content


def _parse(file: str, fd: int) -> Journal | None:
    try:
        content = _content(file)
    except ValueError:
        return None
    remembered = {
        path: Known(why=why, inode=(inode[0], inode[1]), target=target, changed_ns=changed, size=size)
        for path, why, inode, target, changed, size in content["known"]
    }
    return Journal(
        file=file,
        fd=fd,
        task=content["task"],
        workspace=content["workspace"],
        points=_points(content),
        known=remembered,
        private=content["private"],
        elsewhere=content["elsewhere"],
        started_ns=content["started_ns"],
    )


def _points(content: dict[str, Any]) -> list[Point]:
    return [
        Point(path=path, folder=folder, content=text.encode("ascii"), inode=_pair(inode))
        for path, folder, text, inode in content["points"]
    ]


def _pair(inode: Sequence[int] | None) -> tuple[int, int] | None:
    return None if inode is None else (inode[0], inode[1])
