"""The log's folder: segments, the head, and what was kept aside. Every path is opened below one descriptor."""

from __future__ import annotations

import errno
import fcntl
import os
import re
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from leasehold.core.errors import AuditError
from leasehold.core.limits import LIMITS

_HEAD = "head.json"
_LOCK = "lock"
_SEGMENT = re.compile(r"[0-9]{12}\.jsonl\Z")
_PENDING = ".pending"
_KEPT = ".kept"


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One line of one segment: with its line end, unless it is torn. ``end``: bytes from the segment's start."""

    segment: str
    number: int
    data: bytes
    end: int


def segment_name(seq: int) -> str:
    """A segment is named by the number of its first record."""
    return f"{seq:012}.jsonl"


class Store:
    """The folder itself. It is 0700 and ours, its files are 0600 and never followed through links."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.mkdir(mode=0o700, exist_ok=True)
        self._dir = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        status = os.fstat(self._dir)
        if status.st_uid != os.geteuid() or status.st_mode & 0o077:
            os.close(self._dir)
            raise AuditError(
                f"{path} is open to others (mode {stat.S_IMODE(status.st_mode):04o}, uid {status.st_uid})",
                hint="make it yours alone (chmod 700), and ask who changed it",
            )

    def close(self) -> None:
        """Give the folder's descriptor back."""
        if self._dir >= 0:
            os.close(self._dir)
            self._dir = -1

    def lock(self) -> int:
        """Be the one writer, over all processes, as long as the descriptor is open; ``AuditError`` if another is."""
        fd = self.open(_LOCK, os.O_RDWR | os.O_CREAT)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(fd)
        else:
            return fd
        raise AuditError(f"another process writes {self.path}", hint="only one broker of a user may run")

    def open(self, name: str, flags: int) -> int:
        """Open a regular file of the folder."""
        fd = os.open(name, flags | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK, 0o600, dir_fd=self._dir)
        if stat.S_ISREG(os.fstat(fd).st_mode):
            return fd
        os.close(fd)
        raise OSError(errno.EINVAL, "not a regular file", name)

    def segments(self) -> list[str]:
        """Names of the segments, oldest first."""
        return sorted(filter(_SEGMENT.match, self._names()))

    def size(self, name: str) -> int:
        """Bytes in a file."""
        return os.stat(name, dir_fd=self._dir, follow_symlinks=False).st_size

    def is_open_at(self, fd: int, name: str, size: int) -> bool:
        """Whether ``fd`` still is the file of that name, and as long as we left it."""
        ours, there = os.fstat(fd), os.stat(name, dir_fd=self._dir, follow_symlinks=False)
        return (ours.st_dev, ours.st_ino, ours.st_size) == (there.st_dev, there.st_ino, size)

    def lines(self, name: str, start: int = 0) -> Iterator[Line]:
        """The lines of a segment from byte ``start`` on, numbered from there. What is too long comes as if torn."""
        with os.fdopen(self.open(name, os.O_RDONLY), "rb") as file:
            file.seek(start)
            number, end = 0, start
            while data := file.readline(LIMITS.audit_line_bytes_max):
                number, end = number + 1, end + len(data)
                yield Line(segment=name, number=number, data=data, end=end)

    def line_ending_at(self, name: str, end: int) -> bytes:
        """The line of a segment whose line end is the byte before ``end``; empty when there is none."""
        with os.fdopen(self.open(name, os.O_RDONLY), "rb") as file:
            start = max(0, end - LIMITS.audit_line_bytes_max)
            file.seek(start)
            data = file.read(end - start)
        return data[data.rfind(b"\n", 0, -1) + 1 :] if len(data) == end - start else b""

    def head(self) -> bytes | None:
        """The stored head, or ``None`` when there is none."""
        try:
            fd = self.open(_HEAD, os.O_RDONLY)
        except FileNotFoundError:
            return None
        with os.fdopen(fd, "rb") as file:
            return file.read(LIMITS.audit_line_bytes_max)

    def put_head(self, data: bytes) -> None:
        """Replace the head in one step; durable before it takes the old one's place."""
        temporary = f"{_HEAD}.new"
        with os.fdopen(self.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.rename(temporary, _HEAD, src_dir_fd=self._dir, dst_dir_fd=self._dir)

    def sync(self) -> None:
        """Make the names in the folder durable."""
        os.fsync(self._dir)

    def keep_aside(self, segment: str, start: int) -> int:
        """Move what stands from byte ``start`` on into a file of its own, durably; returns its size in bytes.

        The file is ``pending`` until :meth:`kept` is told that the log speaks of it, so a crash between hides nothing.
        """
        fd = self.open(segment, os.O_RDWR)
        try:
            size = os.fstat(fd).st_size - start
            target = self.open(self._aside_name(segment, start), os.O_WRONLY | os.O_CREAT | os.O_EXCL)
            with os.fdopen(target, "wb") as file:
                for offset in range(start, start + size, 1 << 20):
                    file.write(os.pread(fd, min(1 << 20, start + size - offset), offset))
                file.flush()
                os.fsync(file.fileno())
            self.sync()
            os.ftruncate(fd, start)
            os.fsync(fd)
        finally:
            os.close(fd)
        return size

    def remove_empty(self, segment: str) -> None:
        """Remove a segment that holds nothing."""
        if self.size(segment) == 0:
            os.unlink(segment, dir_fd=self._dir)

    def pending(self) -> list[str]:
        """Files kept aside that no record speaks of yet, by the name that they will have."""
        names = sorted(name for name in self._names() if name.endswith(_PENDING))
        return [name.removesuffix(_PENDING) + _KEPT for name in names]

    def kept(self, names: list[str]) -> None:
        """A record speaks of these files now."""
        for name in names:
            os.rename(name.removesuffix(_KEPT) + _PENDING, name, src_dir_fd=self._dir, dst_dir_fd=self._dir)
        self.sync()

    def _names(self) -> list[str]:
        if self._dir < 0:  # scandir would take it for the working folder
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        with os.scandir(self._dir) as entries:
            return [entry.name for entry in entries]

    def _aside_name(self, segment: str, start: int) -> str:
        there = set(self._names())
        number = 1
        while True:
            stem = f"{segment.removesuffix('.jsonl')}-{start}-{number}"
            if not {stem + _PENDING, stem + _KEPT} & there:
                return stem + _PENDING
            number += 1
