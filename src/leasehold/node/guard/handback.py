"""Step 10: the workspace is given back. Our mount points go; what would run later outside, and came or changed during
the run, is made harmless and named.

Before the first mount point is made a journal is durable, so that after ``kill -9`` whoever comes next does the same.
Nothing here follows a link, or runs git.
"""

from __future__ import annotations

import os
import stat
import time

from leasehold.core.errors import SandboxError
from leasehold.core.record import record
from leasehold.core.text import printable
from leasehold.node.guard import journal as journals
from leasehold.node.guard.journal import Journal, Places, Point
from leasehold.node.sandbox import gitfolders
from leasehold.node.sandbox.mask import GIT
from leasehold.node.sandbox.runnable import QUARANTINE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from leasehold.node.sandbox.mask import Mask

__all__ = ["HandbackReport", "Journal", "begin", "finish", "recover"]

_LINES_MAX = 40
_WAIT_S = 2.0
_POLL_S = 0.02
_TASK_CHARS = frozenset("abcdefghijklmnopqrstuvwxyz0123456789-")


@record
class HandbackReport:
    """What was found, as paths in the workspace. ``neutralised``: can no longer run; the original is beside it.
    ``found``: new or changed, and for a person to look at, with a word on why. ``replaced``: was masked, and was
    replaced from outside during the run, so that the agent may have read or changed it. ``discarded``: folders of
    installed packages that the agent changed; its changes are gone. ``failed``: what could not be put right, and why.
    """

    task: str
    neutralised: tuple[str, ...] = ()
    found: tuple[str, ...] = ()
    replaced: tuple[str, ...] = ()
    discarded: tuple[str, ...] = ()
    failed: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, object]:
        """For JSON."""
        names = ("neutralised", "found", "replaced", "discarded", "failed")
        return {"task": self.task, **{name: list(getattr(self, name)) for name in names}}

    def lines(self) -> list[str]:
        """For people: short, and nothing in them can move a cursor."""
        all_lines = [
            *(f"could not be put right: {text}" for text in self.failed),
            *(f"replaced outside while the agent ran, which may have read or changed it: {p}" for p in self.replaced),
            *(f"made harmless: {path} (the original has {QUARANTINE} in its name)" for path in self.neutralised),
            *(f"look at: {text}" for text in self.found),
            *(f"not kept: what was installed in {path}; install it yourself" for path in self.discarded),
        ]
        if len(all_lines) > _LINES_MAX:
            all_lines[_LINES_MAX - 1 :] = [f"and {len(all_lines) - _LINES_MAX + 1} more (--json names them all)"]
        return [printable(line) for line in all_lines]


def begin(state_dir: str, task: str, workspace: str, masks: Sequence[Mask]) -> Journal:
    """Write the journal durably, then make the missing mount points and the folders for private layers.

    ``SandboxError`` when the workspace has changed since the masks were made, or a mount point cannot be made; then
    nothing is left of it.
    """
    if not task or not _TASK_CHARS.issuperset(task):
        raise SandboxError(f"{task!a} is no task", hint="this is a defect in Leasehold; please report it")
    with journals.Turn(state_dir):
        journal = journals.create(state_dir, task, workspace)
        try:
            _prepare(journal, masks)
        except OSError as error:
            name, reason = str(error.filename or error.args[0]), error.strerror or "it has gone"
        else:
            return journal
        journal.points = [point for point in journal.points if point.inode is not None]
        if journal.points:
            with Places(workspace, journal.elsewhere) as places:
                _remove_points(journal, places)
        _forget(journal)
    raise SandboxError(
        f"{name} in {workspace} cannot be protected: {reason}",
        hint="the workspace must be yours to write to, and not change while a run starts; start it again",
    )


def _prepare(journal: Journal, masks: Sequence[Mask]) -> None:
    journal.elsewhere = tuple(journals.roots(masks))
    journal.private = tuple(mask.path for mask in masks if mask.kind == "private")
    with Places(journal.workspace, journal.elsewhere) as places:
        journals.remember(journal, places, masks)
        shared = journals.others(journal)
        for mask in masks:
            if mask.path in shared:
                journal.points.append(shared[mask.path])
            elif mask.absent:
                folder = mask.kind in ("empty-dir", "rw-bind", "private")
                journal.points.append(Point(path=mask.path, folder=folder, content=mask.content))
        for mask in masks:
            if mask.why == GIT and not mask.absent:
                folder_of, path = places.find(mask.path)
                journal.configs[mask.path] = frozenset(gitfolders.read_config(folder_of, path) or ())
        journals.write(journal)
        for i, point in enumerate(journal.points):
            journal.points[i] = _make(places, point, shared=point.path in shared)
        journals.note_made(journal)
    for overlay in journal.overlays:
        os.makedirs(overlay.upper, mode=0o700)
        os.makedirs(overlay.work, mode=0o700)


def _make(places: Places, point: Point, *, shared: bool) -> Point:
    """Make a mount point; ``OSError`` when something is there that no other task has made."""
    folder, path = places.find(point.path)
    with folder.above(path) as (fd, name):
        try:
            if point.folder:
                os.mkdir(name, 0o755, dir_fd=fd)
            else:
                flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
                with os.fdopen(os.open(name, flags, 0o644, dir_fd=fd), "wb") as file:
                    file.write(point.content)
        except FileExistsError as error:
            if not shared:
                raise FileExistsError(error.errno, "it came into being meanwhile", point.path) from error
        status = os.lstat(name, dir_fd=fd)
    return Point(path=point.path, folder=point.folder, content=point.content, inode=(status.st_dev, status.st_ino))


def finish(journal: Journal) -> HandbackReport:
    """Remove our mount points, make harmless what would run, drop the private layers and the journal. When no process
    of the compartment is left. Never raises for what lies in the workspace: that is reported."""
    from leasehold.node.guard.neutralise import Neutraliser

    failed: list[str] = []
    work: Neutraliser | None = None
    try:
        with Places(journal.workspace, journal.elsewhere) as places:
            with journals.Turn(os.path.dirname(os.path.dirname(journal.file))):
                _remove_points(journal, places)
                journals.note_removed(journal)
            work = Neutraliser(journal, places)
            work.run()
    except OSError as error:
        failed.append(f"{journal.workspace}: {error.strerror}")
    discarded = tuple(overlay.path for overlay in journal.overlays if _listed(overlay.upper))
    failed += _forget(journal)
    return HandbackReport(
        task=journal.task,
        neutralised=tuple(sorted(work.neutralised)) if work else (),
        found=tuple(sorted(work.found)) if work else (),
        replaced=tuple(sorted(work.replaced)) if work else (),
        discarded=discarded,
        failed=(*failed, *(sorted(work.failed) if work else ())),
    )


def recover(state_dir: str | Path, task: str | None = None) -> list[HandbackReport]:
    """Finish what a killed launcher has left: of ``task``, or of all whose launcher is gone. For the broker."""
    folder = journals.folder_of(str(state_dir))
    reports = []
    until = time.monotonic() + (_WAIT_S if task is not None else 0)
    for file in journals.files(folder) if task is None else [f"{folder}/{task}.json"]:
        journal = journals.read(file)
        while journal is None and os.path.exists(file) and time.monotonic() < until:
            time.sleep(_POLL_S)  # its compartment is still being taken down
            journal = journals.read(file)
        if journal is not None:
            reports.append(finish(journal))
    return reports


def _remove_points(journal: Journal, places: Places) -> None:
    """Take away what is as we made it and what no other task needs; anything else that is there now is not ours."""
    needed = journals.others(journal)
    mine = [point for point in journal.points if point.path not in needed]
    journal.points = [point for point in journal.points if point.path in needed]
    for point in reversed(mine):
        folder, path = places.find(point.path)
        status = folder.status(path)
        if status is None or (point.inode is not None and point.inode != (status.st_dev, status.st_ino)):
            continue
        try:
            with folder.above(path) as (fd, name):
                if point.folder and stat.S_ISDIR(status.st_mode):
                    os.rmdir(name, dir_fd=fd)
                elif not point.folder and folder.read(path, len(point.content) + 1) == point.content:
                    os.unlink(name, dir_fd=fd)
        except OSError:  # no longer empty: what has come there is looked at as everything else
            continue


def _forget(journal: Journal) -> list[str]:
    """Drop the private layers and the journal; what could not be dropped, and why."""
    failed = []
    try:
        remove_tree(journal.scratch)
    except OSError as error:
        failed.append(f"{journal.scratch}: {error.strerror}")
    os.unlink(journal.file)
    journal.close()
    return failed


def _listed(path: str) -> list[str]:
    try:
        return os.listdir(path)
    except OSError:
        return []


def remove_tree(path: str) -> None:
    """Remove a folder of ours and what an agent has put in it: any depth, any mode, any links. Without recursion: what
    lies deep is moved up first. Safe to call again after a crash."""
    gone = f"{path}.gone"
    if os.path.isdir(path):
        os.makedirs(gone, exist_ok=True)
        os.rename(path, f"{gone}/{os.urandom(8).hex()}")
    elif not os.path.isdir(gone):
        return
    todo = [f"{gone}/{name}" for name in os.listdir(gone)]
    while todo:
        current = todo.pop()
        os.chmod(current, 0o700)
        with os.scandir(current) as entries:
            for entry in list(entries):
                if entry.is_dir(follow_symlinks=False):
                    os.chmod(entry.path, 0o700)
                    todo.append(f"{gone}/{os.urandom(8).hex()}")
                    os.rename(entry.path, todo[-1])
                else:
                    os.unlink(entry.path)
        os.rmdir(current)
    os.rmdir(gone)
