"""Makes harmless what came or changed during a run, and would run later, outside (BOUNDARY F1, F4, F5, F7).

What is taken out of the way stays beside its place under a name that nothing reads. What was there before and is still
the same file is left alone: it could not be changed.
"""

from __future__ import annotations

import os
import posixpath
import stat

from leasehold.node.guard.journal import known
from leasehold.node.sandbox import gitconfig, gitfolders
from leasehold.node.sandbox.mask import GIT, HIDDEN, INSTALLED, READ_ONLY, RUNS, SECRET
from leasehold.node.sandbox.runnable import QUARANTINE
from leasehold.node.sandbox.survey import Survey

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from leasehold.node.guard.journal import Journal, Places

# A run leaves at most some tens of millions of files in its hours; it must not hide behind a limit.
_ENTRIES_MAX = 100_000_000
_TODO_BYTES_MAX = 1 << 20
_SLACK_NS = 2_000_000_000
_TRIES = 1000
_EMPTY_CONFIG = "[core]\n\trepositoryformatversion = 0\n"


class Neutraliser:
    """One hand-back. The lists hold paths, absolute ones for git folders outside of the workspace."""

    def __init__(self, journal: Journal, places: Places) -> None:
        self.neutralised: list[str] = []
        self.found: list[str] = []
        self.replaced: list[str] = []
        self.failed: list[str] = []
        self._journal = journal
        self._places = places
        self._folder = places.workspace
        self._new_packages: list[str] = []
        self._there = {before.inode for before in journal.known.values() if before.why in (GIT, RUNS, INSTALLED)}
        self._there |= {point.inode for point in journal.points if point.inode is not None}
        self._done: set[str] = set()

    def run(self) -> None:
        seen = Survey(
            self._folder,
            enter=lambda path: not self._same(path),
            strict=False,
            entries_max=_ENTRIES_MAX,
        )
        for path in _inner_first({*seen.git, *seen.gitfiles, *seen.runs, *seen.installed}):
            if path in seen.git:
                self._try(self._git, path)
            elif path in seen.gitfiles:
                self._try(self._gitfile, path)
            elif path in seen.installed:
                self._try(self._installed, path)
            else:
                self._try(self._held_if_new, path)
        for root in self._places.elsewhere:
            self._try(self._git, root)
        for path in seen.told:
            self._try(self._told, path)
        for path in seen.bytecode:
            self._try(self._bytecode, path)
        self.found += [f"{path}: could not be looked into" for path in (*seen.closed, *seen.unseen)]
        self._masked()
        for path in self._new_packages:
            if not any(path.startswith(f"{other}/") for other in self._new_packages):
                self.found.append(f"{path}: installed during the run; install it again before you rely on it")

    def _try(self, step: Callable[[str], None], path: str) -> None:
        try:
            step(path)
        except OSError as error:
            self.failed.append(f"{path}: {error.strerror}")

    def _same(self, path: str) -> bool:
        """Whether it is the very file or folder that was there before the run, perhaps in a folder of another name (its
        masks go with it when that is moved), or a mount point that stays because another task needs it."""
        folder, inner = self._places.find(path)
        status = folder.status(inner)
        if status is None or stat.S_ISLNK(status.st_mode):
            before = self._journal.known.get(path)
            return before is not None and before.target is not None and before.target == folder.link(inner)
        return (status.st_dev, status.st_ino) in self._there

    def _unchanged(self, path: str) -> bool:
        """Whether what was only watched is as it was."""
        before = self._journal.known.get(path)
        folder, inner = self._places.find(path)
        status = folder.status(inner)
        return before is not None and status is not None and known(before.why, status, folder.link(inner)) == before

    def _hold(self, path: str) -> None:
        """Rename it out of the way. A link that was there before is put back in its place."""
        folder, inner = self._places.find(path)
        with folder.above(inner) as (fd, name):
            target = _free(fd, name)
            os.rename(name, target, src_dir_fd=fd, dst_dir_fd=fd)
            before = self._journal.known.get(path)
            if before is not None and before.target is not None:
                os.symlink(before.target, name, dir_fd=fd)
        self.neutralised.append(path)

    def _held_if_new(self, path: str) -> None:
        if not self._same(path):
            self._hold(path)

    def _installed(self, path: str) -> None:
        """Packages that were not there. What makes a folder a Python environment is held as whatever runs is."""
        if not self._same(path):
            self._new_packages.append(path)

    def _told(self, path: str) -> None:
        if not self._unchanged(path):
            what = "changed" if path in self._journal.known else "new"
            self.found.append(f"{path}: {what}; a pipeline or an agent acts on it")

    def _bytecode(self, path: str) -> None:
        """Python believes a compiled file whose date fits. Those in a cache are made anew by themselves."""
        with self._folder.above(path) as (fd, name):
            status = os.lstat(name, dir_fd=fd)
            if status.st_ctime_ns < self._journal.started_ns - _SLACK_NS:
                return
            if "/__pycache__/" in f"/{path}":
                os.unlink(name, dir_fd=fd)
                return
        self._hold(path)

    def _masked(self) -> None:
        """A mask falls off when its place is replaced from outside: then the agent has seen what came."""
        for path, before in self._journal.known.items():
            folder, inner = self._places.find(path)
            status = folder.status(inner)
            inode = before.inode if status is None else (status.st_dev, status.st_ino)
            if before.why in (SECRET, HIDDEN, READ_ONLY, INSTALLED) and before.inode != inode:
                self.replaced.append(path)

    def _gitfile(self, path: str) -> None:
        """A ``.git`` that is no folder. It may lead to a folder that was looked at; nowhere else."""
        if self._same(path):
            return
        named = gitfolders.pointer(self._folder.read(path, gitfolders.POINTER_BYTES_MAX + 1))
        target = None if named is None else posixpath.normpath(posixpath.join(self._folder.path, path, "..", named))
        inside = target and target.startswith(f"{self._folder.path}/")
        if target and any(target.startswith(f"{root}/") for root in self._places.elsewhere):
            return
        resolved = self._folder.resolve(target[len(self._folder.path) + 1 :]) if target and inside else None
        if resolved and self._folder.names(resolved):
            self._git(resolved)
        else:
            self._hold(path)

    def _git(self, path: str) -> None:
        """A git folder and the ones in it: only harmless configuration, no hooks, and nothing that leads elsewhere."""
        if path in self._done:
            return
        self._done.add(path)
        at = f"{path}/" if path else ""
        folder, inner = self._places.find(path)
        self._hooks(f"{at}hooks")
        for name in ("config", "config.worktree"):
            self._config(f"{at}{name}", path)
        self._commondir(f"{at}commondir", path)
        attributes = self._status(f"{at}info/attributes")
        if attributes is not None and (attributes.st_size or not stat.S_ISREG(attributes.st_mode)):
            self._held_if_new(f"{at}info/attributes")
        self._todo(f"{at}{gitfolders.REBASE_STEPS}")
        prefix = path.removesuffix(inner) if inner or not path else f"{path}/"
        for below in [*gitfolders.nested(folder, inner)]:
            self._git(prefix + below)

    def _status(self, path: str) -> os.stat_result | None:
        folder, inner = self._places.find(path)
        return folder.status(inner)

    def _read(self, path: str, bytes_max: int) -> bytes | None:
        folder, inner = self._places.find(path)
        return folder.read(inner, bytes_max)

    def _hooks(self, path: str) -> None:
        status = self._status(path)
        if status is None or self._same(path):
            return
        folder, inner = self._places.find(path)
        if not stat.S_ISDIR(status.st_mode) or any(not name.endswith(".sample") for name in folder.names(inner)):
            self._hold(path)

    def _config(self, path: str, git: str) -> None:
        if self._status(path) is None or self._same(path):
            return
        folder, inner = self._places.find(path)
        entries = gitfolders.read_config(folder, inner)
        before = self._journal.configs.get(path, frozenset())
        kept = [entry for entry in entries or () if entry in before or self._harmless(entry, git)]
        if entries is None or kept != entries:
            self._rewrite(path, gitconfig.emit(kept) or _EMPTY_CONFIG)

    def _harmless(self, entry: gitconfig.Entry, git: str) -> bool:
        """As for any configuration; and a working tree may be named that lies in the workspace."""
        if entry.name != "core.worktree":
            return gitconfig.harmless(entry)
        base = git if git.startswith("/") else f"{self._folder.path}/{git}"
        tree = posixpath.normpath(posixpath.join(base, entry.value or "/"))
        return f"{tree}/".startswith(f"{self._folder.path}/")

    def _rewrite(self, path: str, text: str) -> None:
        self._hold(path)
        folder, inner = self._places.find(path)
        with folder.above(inner) as (fd, name):
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            file = os.open(name, flags, 0o644, dir_fd=fd)
            with os.fdopen(file, "wb") as stream:
                stream.write(text.encode("utf-8", "surrogateescape"))

    def _commondir(self, path: str, git: str) -> None:
        if self._status(path) is None or self._same(path):
            return
        tree = git.rpartition("/")[0].endswith("worktrees")
        expected = (b"../..",) if tree else (b".",)
        if (self._read(path, gitfolders.POINTER_BYTES_MAX) or b"").strip() not in expected:
            self._hold(path)

    def _todo(self, path: str) -> None:
        """The rest of an interactive rebase: `git rebase --continue` would execute its commands."""
        content = self._read(path, _TODO_BYTES_MAX + 1)
        if content is None or self._unchanged(path):
            return
        lines = content.decode("utf-8", "surrogateescape").split("\n")
        calm = [f"# {line}" if line.split(None, 1)[:1] in (["exec"], ["x"]) else line for line in lines]
        if len(content) > _TODO_BYTES_MAX:
            self._hold(path)
        elif calm != lines:
            self._rewrite(path, "\n".join(calm))


def _inner_first(paths: Iterable[str]) -> list[str]:
    """So that a folder is renamed only after what lies in it."""
    return sorted(paths, key=lambda path: path.split("/"), reverse=True)


def _free(fd: int, name: str) -> str:
    """A name beside ``name`` that is not taken."""
    taken = {*os.listdir(fd)}
    names = (f"{name}{QUARANTINE}{number or ''}" for number in range(_TRIES))
    return next((free for free in names if free not in taken), f"{name}{QUARANTINE}-{os.urandom(8).hex()}")
