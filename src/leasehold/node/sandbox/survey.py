"""One look at a whole workspace: what in it matters, by name. Used before a run and at the hand-back.

It follows no link, and it is bounded: a workspace that is too large or too deep to be looked at is an error, because
what was not seen would not be protected.
"""

from __future__ import annotations

import os
import re
import stat

from leasehold.core.errors import SandboxError
from leasehold.node.sandbox import runnable, secretfiles
from leasehold.node.sandbox.patterns import any_match

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from leasehold.node.sandbox.beneath import Folder
    from leasehold.node.sandbox.patterns import Pattern

ENTRIES_MAX = 2_000_000
DEPTH_MAX = 100
FOLDER = "folder"
_OPEN = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC

# What a name must have for a closer look; the loop over all files does nothing else.
_NAMES = runnable.FILES | runnable.TOLD | secretfiles.NAMES.keys() | {".git", "config", "pyvenv.cfg", "commondir"}
_ENDINGS = runnable.ENDINGS | secretfiles.ENDINGS.keys() | {"pyc"}
_DATA = secretfiles.DATA_ENDINGS
_WORD = re.compile("secret|cred|passw|account|firebase|tfstate|tfvars|config")
_STARTS = (".env", "id_")

# The kinds of folder that a thing lies in.
_RUNS, _TOLD, _ENVIRONMENT, _LIBRARY = "runs", "told", "environment", "library"


class Survey:
    """Paths relative to the workspace. ``links``: those of all the lists that are symbolic links.

    ``git``: git folders, called ``.git`` or of that shape. ``gitfiles``: ``.git`` that are no folders. ``runs``,
    ``told``, ``installed``: see :mod:`leasehold.node.sandbox.runnable`; the topmost folder of each. ``secrets``: (path,
    rule), the rule of a whole folder being :data:`FOLDER`. ``special``: sockets, pipes and devices. ``closed``: folders
    that cannot be looked into. ``hidden``, ``read_only``: what the configuration's patterns match. ``bytecode``:
    compiled Python. ``unseen``: folders at which a limit was reached. ``led``: links in a ``runs`` folder; ``shared``:
    (device, inode) of files there that have other names too.
    """

    def __init__(
        self,
        folder: Folder,
        *,
        hide: Sequence[Pattern] = (),
        read_only: Sequence[Pattern] = (),
        enter: Callable[[str], bool] = lambda _path: False,
        strict: bool = True,
        entries_max: int = ENTRIES_MAX,
    ) -> None:
        """Look. ``enter``: whether to look into this folder of installed packages too. At a limit ``SandboxError`` or,
        when not ``strict``, a folder in ``unseen``."""
        self.git: list[str] = []
        self.gitfiles: list[str] = []
        self.runs: list[str] = []
        self.told: list[str] = []
        self.installed: list[str] = []
        self.secrets: list[tuple[str, str]] = []
        self.special: list[str] = []
        self.closed: list[str] = []
        self.hidden: list[str] = []
        self.read_only: list[str] = []
        self.bytecode: list[str] = []
        self.unseen: list[str] = []
        self.led: list[str] = []
        self.shared: set[tuple[int, int]] = set()
        self.links: set[str] = set()
        self._hide, self._read_only, self._enter = hide, read_only, enter
        self._left, self._strict = entries_max, strict
        self._folder(folder.fd, "", "", "", 0)

    def _folder(self, fd: int, prefix: str, own: str, zone: str, depth: int) -> None:
        """Look into the folder ``fd``. ``prefix``: its path with a slash; ``own``: its folded name; ``zone``: the kind
        of folder that it lies in."""
        if depth > DEPTH_MAX or self._left < 0:
            self.unseen.append(prefix[:-1])
            if self._strict:
                raise SandboxError(
                    f"the workspace cannot be looked at as a whole, and so not protected: it holds too many files, or"
                    f" {prefix!a} lies more than {DEPTH_MAX} folders deep",
                    hint="give the agent a smaller workspace: --workspace DIR",
                )
            return
        folders, files = self._names(fd, prefix, everything=zone in (_RUNS, _TOLD))
        names = {low for _, low in folders} | {low for _, low, _ in files}
        if _is_git(fd, names):
            self.git.append(prefix.removesuffix("/"))
        if not runnable.ENVIRONMENT_MARKS.isdisjoint(names):
            if own in runnable.ENVIRONMENTS and zone != _RUNS:
                self.installed.append(prefix[:-1])
                if not self._enter(prefix[:-1]):
                    return
            zone = zone or _ENVIRONMENT
        for name, low, kind in files:
            self._file(prefix + name, low, kind, own, zone)
            if zone == _RUNS:
                self._other_names(fd, name, prefix + name)
        for name, low in folders:
            inner = self._below(prefix + name, low, own, zone)
            if inner is not None:
                self._open(fd, name, prefix + name, low, inner, depth)

    def _names(
        self, fd: int, prefix: str, *, everything: bool
    ) -> tuple[list[tuple[str, str]], list[tuple[str, str, str]]]:
        """(name, folded name) of folders, and (name, folded name, kind) of the other things that need a closer look:
        ``file``, ``link`` or ``special``. What the patterns hide is not among them."""
        folders: list[tuple[str, str]] = []
        files: list[tuple[str, str, str]] = []
        patterns = bool(self._hide or self._read_only)
        left = self._left
        with os.scandir(fd) as entries:
            for entry in entries:
                left -= 1
                name = entry.name
                low = name.lower()
                if not low.isascii() or low[-1] in " .":
                    low = runnable.folded(name)
                if entry.is_dir(follow_symlinks=False):
                    if not patterns or not self._matched(prefix + name, is_folder=True, link=False):
                        folders.append((name, low))
                    continue
                is_file = entry.is_file(follow_symlinks=False)
                link = not is_file and entry.is_symlink()
                if patterns and self._matched(prefix + name, is_folder=False, link=link):
                    continue
                ending = low.rpartition(".")[2]
                if (
                    not is_file
                    or low in _NAMES
                    or ending in _ENDINGS
                    or everything
                    or low.startswith(_STARTS)
                    or (ending in _DATA and _WORD.search(low))
                ):
                    files.append((name, low, "file" if is_file else "link" if link else "special"))
        self._left = left
        return folders, files

    def _matched(self, path: str, *, is_folder: bool, link: bool) -> bool:
        """Note what the configuration's patterns match; whether it is hidden."""
        if any_match(self._hide, path, is_folder=is_folder):
            self._found(self.hidden, path, link=link)
            return True
        if any_match(self._read_only, path, is_folder=is_folder):
            self._found(self.read_only, path, link=link)
        return False

    def _found(self, where: list[str], path: str, *, link: bool) -> None:
        where.append(path)
        if link:
            self.links.add(path)

    def _file(self, path: str, low: str, kind: str, own: str, zone: str) -> None:
        link = kind == "link"
        ending = low.rpartition(".")[2]
        if low == ".git":
            self._found(self.gitfiles, path, link=link)
        elif low in runnable.FILES or ending in runnable.ENDINGS or (link and low in runnable.FOLDERS):
            self._found(self.runs, path, link=link)
        elif zone == _TOLD or low in runnable.TOLD:
            self._found(self.told, path, link=link)
        elif link and low in runnable.INSTALLED:
            self._found(self.installed, path, link=True)
        elif ending == "pyc" and kind == "file":
            self.bytecode.append(path)
        if kind == "special":
            self.special.append(path)
            return
        rule = secretfiles.rule_for(low, own)
        if rule is None and zone == _RUNS and ending in secretfiles.SETTINGS:
            rule = secretfiles.TEXT
        if rule is not None:
            self.secrets.append((path, rule))
            if link:
                self.links.add(path)

    def _other_names(self, fd: int, name: str, path: str) -> None:
        try:
            status = os.lstat(name, dir_fd=fd)
        except OSError:  # gone since it was listed
            return
        if stat.S_ISLNK(status.st_mode):
            self.led.append(path)
        elif status.st_nlink > 1:
            self.shared.add((status.st_dev, status.st_ino))

    def _below(self, path: str, low: str, own: str, zone: str) -> str | None:
        """Note the folder; the zone of what lies in it, or ``None`` when it is not to be looked into."""
        if low == ".git":
            self.git.append(path)
            return None
        if low in secretfiles.HIDDEN_FOLDERS:
            self.secrets.append((path, FOLDER))
            return None
        if zone == _RUNS:
            return zone
        if low in runnable.FOLDERS or low in runnable.FILES:
            self.runs.append(path)
            return _RUNS
        if low in runnable.ENVIRONMENT_MARKS:
            self.runs.append(path)
            return None
        if zone == _ENVIRONMENT and low in ("lib", "lib64"):
            return _LIBRARY
        if zone == _ENVIRONMENT and low in ("bin", "scripts"):
            self.installed.append(path)
            return ""
        library = zone == _LIBRARY and low.startswith(("python", "site-packages"))
        if low in runnable.INSTALLED or library or (low == "bundle" and own == "vendor"):
            self.installed.append(path)
            return "" if self._enter(path) else None
        if zone == _TOLD or low in runnable.TOLD_FOLDERS or f"{own}/{low}" in runnable.TOLD_FOLDERS:
            return _TOLD
        return ""

    def _open(self, fd: int, name: str, path: str, low: str, zone: str, depth: int) -> None:
        try:
            inner = os.open(name, _OPEN, dir_fd=fd)
        except PermissionError:
            self.closed.append(path)
            return
        except OSError:  # swapped for something else since it was listed, which has no contents to look at
            return
        try:
            self._folder(inner, path + "/", low, zone, depth + 1)
        finally:
            os.close(inner)


def same_files(folder: Folder, wanted: set[tuple[int, int]]) -> list[tuple[str, tuple[int, int]]]:
    """Every name in the workspace of these files, given by (device, inode): a hard link is no less the file."""
    numbers = {number for _, number in wanted}
    found: list[tuple[str, tuple[int, int]]] = []

    def look(fd: int, prefix: str, depth: int) -> None:
        folders = []
        with os.scandir(fd) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    folders.append(entry.name)
                elif entry.inode() in numbers:
                    status = entry.stat(follow_symlinks=False)
                    if (status.st_dev, status.st_ino) in wanted:
                        found.append((prefix + entry.name, (status.st_dev, status.st_ino)))
        for name in folders:
            if prefix.endswith(".git/") and name == "objects":
                continue
            try:
                inner = os.open(name, _OPEN, dir_fd=fd)
            except OSError:  # closed to its owner too, or swapped for something else
                continue
            try:
                look(inner, f"{prefix}{name}/", depth + 1)
            finally:
                os.close(inner)

    look(folder.fd, "", 0)
    return found


def _is_git(fd: int, names: set[str]) -> bool:
    """Whether git would take the folder for a repository without a working tree (gitrepository-layout(5))."""
    if not {"objects", "refs"} <= names and "commondir" not in names:
        return False
    try:
        os.lstat("HEAD", dir_fd=fd)
    except OSError:
        return False
    return True
