"""Reads and changes below one folder without ever following a link out of it, or any link at all (BOUNDARY F1, F2).

Whoever writes in that folder may swap a name for a link at any moment. So each component is opened by itself, relative
to the one before, and what is looked at is what was opened.
"""

from __future__ import annotations

import os
import stat
from contextlib import contextmanager

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import TracebackType

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_LINKS_MAX = 40


class Folder:
    """One folder, opened by its canonical absolute path. Paths below are relative, without ``.`` and ``..``; the
    empty path is the folder itself. Close it, or use it as a context."""

    def __init__(self, path: str) -> None:
        """``OSError`` when it is no folder, or a part of its path is a link."""
        self.path = path
        self.fd = os.open("/", _FOLDER)
        try:
            for name in path.split("/"):
                if name:
                    self.fd = _exchange(self.fd, name)
        except OSError:
            self.close()
            raise

    def __enter__(self) -> Folder:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Idempotent."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    @contextmanager
    def inside(self, path: str) -> Iterator[int]:
        """A descriptor of the folder ``path`` while the context lasts; ``OSError`` when there is none."""
        fd = os.open(".", _FOLDER, dir_fd=self.fd)
        try:
            for name in path.split("/"):
                if name:
                    fd = _exchange(fd, name)
            yield fd
        finally:
            os.close(fd)

    @contextmanager
    def above(self, path: str) -> Iterator[tuple[int, str]]:
        """A descriptor of the folder that ``path`` lies in, and the last name; ``OSError`` when there is none."""
        parent, _, name = path.rpartition("/")
        if not parent:
            yield self.fd, name
            return
        with self.inside(parent) as fd:
            yield fd, name

    def status(self, path: str) -> os.stat_result | None:
        """What is there, itself when it is a link; ``None`` when nothing is, or it cannot be looked at."""
        try:
            with self.above(path) as (fd, name):
                return os.lstat(name or ".", dir_fd=fd)
        except OSError:
            return None

    def names(self, path: str) -> list[str]:
        """The names in a folder, sorted; none when it is no folder or cannot be read."""
        try:
            with self.inside(path) as fd:
                return sorted(os.listdir(fd))
        except OSError:
            return []

    def link(self, path: str) -> str | None:
        """Where a link points; ``None`` when it is none."""
        try:
            with self.above(path) as (fd, name):
                return os.readlink(name, dir_fd=fd)
        except OSError:
            return None

    def read(self, path: str, bytes_max: int) -> bytes | None:
        """The first ``bytes_max`` bytes of a regular file; ``None`` when it is none, or cannot be read."""
        try:
            with self.above(path) as (fd, name):
                return read_file(fd, name, bytes_max)
        except OSError:
            return None

    def resolve(self, path: str) -> str | None:
        """The path without links; ``None`` when it leads out of the folder, nowhere, or round in a circle."""
        todo, done, links = path.split("/")[::-1], list[str](), 0
        while todo:
            name = todo.pop()
            if name in ("", "."):
                continue
            if name == "..":
                if not done:
                    return None
                done.pop()
                continue
            at = "/".join((*done, name))
            status = self.status(at)
            if status is None:
                return None
            if not stat.S_ISLNK(status.st_mode):
                done.append(name)
                continue
            links += 1
            target = self.link(at)
            if target is None or links > _LINKS_MAX:
                return None
            if target.startswith("/"):
                if not f"{target}/".startswith(f"{self.path}/"):
                    return None
                done, target = [], target[len(self.path) :]
            todo += target.split("/")[::-1]
        return "/".join(done)


def read_file(fd: int, name: str, bytes_max: int) -> bytes | None:
    """The first ``bytes_max`` bytes of the regular file ``name`` in the folder ``fd``; ``None`` when it is none.

    Never waits: a pipe that somebody left there has no say.
    """
    file = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC, dir_fd=fd)
    try:
        if not stat.S_ISREG(os.fstat(file).st_mode):
            return None
        content = b""
        while len(content) < bytes_max and (part := os.read(file, bytes_max - len(content))):
            content += part
        return content
    finally:
        os.close(file)


def _exchange(fd: int, name: str) -> int:
    """The folder ``name`` in ``fd``, which is closed only when that works."""
    new = os.open(name, _FOLDER, dir_fd=fd)
    os.close(fd)
    return new
