"""The workspace is given back: our mount points go, and what would run later outside is made harmless.

Before the first mount point is made, a journal stands in the state folder, so that after ``kill -9`` the daemon, or the
next one, does the same. Nothing here follows a link, or runs git.
"""

from __future__ import annotations

import json
import os
import re

from leasehold.core.errors import SandboxError
from leasehold.core.record import record
from leasehold.core.text import printable
from leasehold.node.sandbox.gitfiles import harmless
from leasehold.node.sandbox.protected import RUN_LATER_FILES, RUN_LATER_FOLDERS, walk

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from leasehold.node.sandbox.protected import Mask

QUARANTINE = ".leasehold-quarantine"
_TASK = re.compile(r"[a-z0-9]{1,32}\Z")
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_CONFIG_MAX = 1 << 20


@record
class Point:
    """A mount point that we make: a folder, or a file with ``content``."""

    path: str
    folder: bool
    content: str


@record
class Journal:
    """What has to be put right for one task. ``known``: inodes of the repositories and other protected paths that were
    there; they stay the same when a folder above is renamed, and cannot be deleted while they are mount points."""

    file: str
    task: str
    workspace: str
    points: tuple[Point, ...]
    known: tuple[int, ...]


@record
class HandbackReport:
    """What was found. ``neutralised``: can no longer run; ``found``: new, and for a person to look at."""

    task: str
    neutralised: tuple[str, ...] = ()
    found: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, object]:
        return {"task": self.task, "neutralised": list(self.neutralised), "found": list(self.found)}

    def lines(self) -> list[str]:
        """For people; nothing in them can move a cursor."""
        made = [f"made harmless: {path} (the original has {QUARANTINE} in its name)" for path in self.neutralised]
        return [printable(line) for line in made + [f"new, may run outside: {path}" for path in self.found]]


def begin(state_dir: str, task: str, workspace: str, masks: Sequence[Mask]) -> Journal:
    """Write the journal durably, then make the missing mount points."""
    folder = _journals(state_dir)
    points = tuple(
        Point(path=mask.path, folder=mask.kind == "empty-dir", content=mask.content.decode())
        for mask in masks
        if mask.absent
    )
    known = tuple(inode for _, inode in _run_later(workspace))
    journal = Journal(file=f"{folder}/{task}.json", task=task, workspace=workspace, points=points, known=known)
    _write(journal)
    for point in points:
        _make(workspace, point)
    return journal


def finish(journal: Journal) -> HandbackReport:
    """Remove our mount points, make new repositories harmless, and forget the journal. Can be done again."""
    for point in reversed(journal.points):
        _remove(journal.workspace, point)
    neutralised: list[str] = []
    found: list[str] = []
    for path, inode in _run_later(journal.workspace):
        repository, known = path.rpartition("/")[2].lower() == ".git", inode in journal.known
        if repository and known:
            neutralised += _neutralise_modules(journal.workspace, path)
        elif repository:
            neutralised += _neutralise(journal.workspace, path)
        elif not known:
            found.append(path)
    os.unlink(journal.file)
    return HandbackReport(task=journal.task, neutralised=tuple(neutralised), found=tuple(found))


def recover(state_dir: str | Path, task: str | None = None) -> list[HandbackReport]:
    """Finish what was left by a launcher that was killed: of ``task``, or of all. For the daemon, when none runs."""
    folder = _journals(str(state_dir))
    reports = []
    for name in sorted(os.listdir(folder)):
        journal = _read(f"{folder}/{name}") if name.endswith(".json") and task in (None, name[:-5]) else None
        if journal is not None:
            reports.append(finish(journal))
    return reports


def _journals(state_dir: str) -> str:
    folder = f"{state_dir}/workspaces"
    os.makedirs(folder, mode=0o700, exist_ok=True)
    return folder


def _write(journal: Journal) -> None:
    if not _TASK.match(journal.task):
        raise SandboxError(f"{journal.task!a} is no task", hint="this is a defect in Leasehold; please report it")
    content = {
        "task": journal.task,
        "workspace": journal.workspace,
        "points": [[point.path, point.folder, point.content] for point in journal.points],
        "known": list(journal.known),
    }
    fresh = f"{journal.file}.new"
    fd = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    with os.fdopen(fd, "w", encoding="utf-8", errors="surrogateescape") as file:
        json.dump(content, file)
        file.flush()
        os.fdatasync(fd)
    os.rename(fresh, journal.file)


def _read(file: str) -> Journal | None:
    """A journal as it was written; ``None`` when it has gone meanwhile."""
    try:
        with open(file, encoding="utf-8", errors="surrogateescape") as stream:
            content = json.load(stream)
    except FileNotFoundError:
        return None
    points = tuple(Point(path=path, folder=folder, content=text) for path, folder, text in content["points"])
    return Journal(
        file=file, task=content["task"], workspace=content["workspace"], points=points, known=tuple(content["known"])
    )


def _run_later(workspace: str) -> Iterable[tuple[str, int]]:
    """Repositories, and other paths that something outside would run or believe, each with its inode."""
    wanted = {".git", *RUN_LATER_FOLDERS, *RUN_LATER_FILES}
    for folder, entries in walk(workspace):
        for entry in entries:
            if entry.name.lower() in wanted:
                yield f"{folder}{entry.name}", entry.inode()


def _parent(workspace: str, path: str) -> tuple[int, str]:
    """A descriptor of the folder that holds ``path``, reached without following a link, and the last name."""
    *folders, name = path.split("/")
    fd = os.open(workspace, _FOLDER)
    for folder in folders:
        try:
            below = os.open(folder, _FOLDER, dir_fd=fd)
        finally:
            os.close(fd)
        fd = below
    return fd, name


def _make(workspace: str, point: Point) -> None:
    try:
        parent, name = _parent(workspace, point.path)
        try:
            if point.folder:
                os.mkdir(name, 0o755, dir_fd=parent)
                return
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            with os.fdopen(os.open(name, flags, 0o644, dir_fd=parent), "w") as file:
                file.write(point.content)
        finally:
            os.close(parent)
    except OSError as e:
        reason = e.strerror
    else:
        return
    raise SandboxError(
        f"{point.path} in {workspace} cannot be protected: {reason}", hint="the workspace must be yours to write"
    )


def _remove(workspace: str, point: Point) -> None:
    """Take a mount point away when it is as we made it; whatever else is there now is not ours."""
    try:
        parent, name = _parent(workspace, point.path)
    except OSError:
        return
    try:
        if point.folder:
            os.rmdir(name, dir_fd=parent)
        else:
            with os.fdopen(os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)) as file:
                same = file.read(len(point.content) + 1) == point.content
            if same:
                os.unlink(name, dir_fd=parent)
    except OSError:
        return  # not empty, no longer there, or something else: not ours
    finally:
        os.close(parent)


def _neutralise(workspace: str, path: str) -> list[str]:
    """A repository that came during the run: its hooks do not run, its configuration says nothing but the harmless."""
    found = []
    try:
        parent, name = _parent(workspace, f"{path}/config")
    except OSError:
        return []  # a file or a link called .git: git outside finds nothing of ours through it
    try:
        if _reduce(parent, name):
            found.append(f"{path}/config")
        for other in ("config.worktree", "commondir"):
            if _exists(parent, other):
                os.rename(other, other + QUARANTINE, src_dir_fd=parent, dst_dir_fd=parent)
                found.append(f"{path}/{other}")
        if any(not hook.endswith(".sample") for hook in _listed(parent, "hooks")):
            os.rename("hooks", "hooks" + QUARANTINE, src_dir_fd=parent, dst_dir_fd=parent)
            found.append(f"{path}/hooks")
    finally:
        os.close(parent)
    return found + _neutralise_modules(workspace, path)


def _neutralise_modules(workspace: str, path: str) -> list[str]:
    """The repositories of submodules below ``path``/modules."""
    found: list[str] = []
    waiting = [f"{path}/modules"]
    while waiting:
        folder = waiting.pop()
        try:
            parent, _ = _parent(workspace, f"{folder}/x")
        except OSError:
            continue
        try:
            names = os.listdir(parent)
        finally:
            os.close(parent)
        if "HEAD" in names and "config" in names:
            found += _neutralise(workspace, folder)
        else:
            waiting += [f"{folder}/{name}" for name in names if QUARANTINE not in name]
    return found


def _reduce(parent: int, name: str) -> bool:
    """Rewrite a configuration when it says more than what is harmless; the original is kept beside it."""
    try:
        fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=parent)
    except FileNotFoundError:
        return False
    except OSError:
        content, clean = b"?", b""  # a link, or nothing to read: it is moved away
    else:
        with os.fdopen(fd, "rb") as file:
            content = file.read(_CONFIG_MAX + 1)
        clean = harmless(content) if len(content) <= _CONFIG_MAX else b""
    if clean == content:
        return False
    os.rename(name, name + QUARANTINE, src_dir_fd=parent, dst_dir_fd=parent)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    with os.fdopen(os.open(name, flags, 0o644, dir_fd=parent), "wb") as file:
        file.write(clean)
    return True


def _exists(parent: int, name: str) -> bool:
    try:
        os.lstat(name, dir_fd=parent)
    except FileNotFoundError:
        return False
    return True


def _listed(parent: int, name: str) -> list[str]:
    """The names in a folder; a link or a file in its place counts as something to move away."""
    try:
        fd = os.open(name, _FOLDER, dir_fd=parent)
    except FileNotFoundError:
        return []
    except OSError:
        return [name]
    try:
        return os.listdir(fd)
    finally:
        os.close(fd)
