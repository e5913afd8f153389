"""Looks for secret values where they must not be: in what a run has left in the workspace, and in transcripts that stay
(BOUNDARY D11, J7).

A value is found as it is, reversed, in base64 (at any offset, both alphabets), in hex and percent-encoded (either
case), in UTF-16, in names of files, and in what git or gzip compressed. Who splits or enciphers it gets through: a
search is no boundary, only a witness.
"""

from __future__ import annotations

import os
import stat
import zlib
from base64 import b64encode

from leasehold.core.record import record
from leasehold.node.sandbox.beneath import Folder

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from leasehold.core.secret import Secret

_CHUNK = 1 << 20
_LENGTH_MIN = 6
_SLACK_NS = 2_000_000_000
_DEPTH_MAX = 200
PIECES_MAX = 1000
_OPEN = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_UNRESERVED = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~")


@record
class Finding:
    """``name``: of the secret. ``form``: how it was written. ``in_name``: in the path itself, not in the content."""

    path: str
    name: str
    form: str
    in_name: bool = False


@record
class SearchResult:
    """``unread``: files and folders that were not, or not wholly, looked at because of a limit or a permission."""

    findings: tuple[Finding, ...]
    unread: tuple[str, ...]


class Needles:
    """The forms of some values. Values under 6 bytes are left out: they stand everywhere by chance."""

    def __init__(self, secrets: Mapping[str, Secret]) -> None:
        self._exact: list[tuple[str, str, bytes]] = []
        self._folded: list[tuple[str, str, bytes]] = []
        for name, secret in secrets.items():
            value = secret.reveal()
            if len(value) >= _LENGTH_MIN:
                self._exact += [(name, form, text) for form, text in _exact(value)]
                self._folded += [(name, form, text.lower()) for form, text in _folded(value)]
        self.longest = max((len(text) for _, _, text in (*self._exact, *self._folded)), default=0)

    def within(self, content: bytes) -> set[tuple[str, str]]:
        """(name, form) of everything that is found."""
        found = {(name, form) for name, form, text in self._exact if text in content}
        low = content.lower() if self._folded else b""
        return found | {(name, form) for name, form, text in self._folded if text in low}

    def masked(self, content: bytes) -> bytes:
        """The content, as long as before, with asterisks for every occurrence."""
        for needles, fold in ((self._exact, False), (self._folded, True)):
            for _, _, text in needles:
                at = -1
                while (at := (content.lower() if fold else content).find(text, at + 1)) >= 0:
                    content = content[:at] + b"*" * len(text) + content[at + len(text) :]
        return content


def _exact(value: bytes) -> Iterator[tuple[str, bytes]]:
    yield "raw", value
    yield "reversed", value[::-1]
    yield "utf-16", value.decode("latin-1").encode("utf-16-le")
    for shift in range(3):
        # What three bytes become does not depend on their neighbours; the beginning and the end do, and are left out.
        whole = (len(value) + shift) // 3 * 3 - shift
        encoded = b64encode(bytes(shift) + value[:whole])[4 if shift else 0 :]
        if len(encoded) >= _LENGTH_MIN:
            yield "base64", encoded
            yield "base64", encoded.translate(bytes.maketrans(b"+/", b"-_"))


def _folded(value: bytes) -> Iterator[tuple[str, bytes]]:
    yield "hex", value.hex().encode()
    yield "percent", b"".join(b"%%%02x" % byte for byte in value)
    partly = b"".join(bytes([byte]) if byte in _UNRESERVED else b"%%%02x" % byte for byte in value)
    if partly != value:
        yield "percent", partly


def search(
    path: str,
    secrets: Mapping[str, Secret],
    *,
    since_ns: int = 0,
    mask: bool = False,
    files_max: int = 1_000_000,
    bytes_max: int = 2 << 30,
) -> SearchResult:
    """Look through the folder ``path`` (absolute, canonical), without following links.

    ``since_ns``: only files that changed since then (status change, nanoseconds of the file system's clock).
    ``mask``: overwrite what is found in files with asterisks, and give those files mode 0600.
    """
    needles = Needles(secrets)
    looking = _Search(needles, since_ns - _SLACK_NS, mask, files_max, bytes_max)
    if needles.longest:
        with Folder(path) as folder:
            looking.folder(folder.fd, "", 0)
    return SearchResult(findings=tuple(looking.findings), unread=tuple(looking.unread))


class _Search:
    def __init__(self, needles: Needles, since_ns: int, mask: bool, files_max: int, bytes_max: int) -> None:
        self.findings: list[Finding] = []
        self.unread: list[str] = []
        self._needles = needles
        self._since_ns = since_ns
        self._mask = mask
        self._files_left = files_max
        self._bytes_left = bytes_max

    def folder(self, fd: int, prefix: str, depth: int) -> None:
        with os.scandir(fd) as entries:
            for entry in sorted(entries, key=lambda entry: entry.name):
                self._files_left -= 1
                path = prefix + entry.name
                if self._files_left < 0 or depth > _DEPTH_MAX:
                    self.unread.append(prefix)
                    return
                self._name(path, entry.name)
                try:
                    if entry.is_dir(follow_symlinks=False):
                        inner = os.open(entry.name, _OPEN, dir_fd=fd)
                        try:
                            self.folder(inner, f"{path}/", depth + 1)
                        finally:
                            os.close(inner)
                    elif entry.is_file(follow_symlinks=False):
                        self._file(fd, entry.name, path)
                except OSError:
                    self.unread.append(path)

    def _name(self, path: str, name: str) -> None:
        for found, form in sorted(self._needles.within(os.fsencode(name))):
            self.findings.append(Finding(path=path, name=found, form=form, in_name=True))

    def _file(self, fd: int, name: str, path: str) -> None:
        flags = (os.O_RDWR if self._mask else os.O_RDONLY) | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        file = os.open(name, flags, dir_fd=fd)
        try:
            status = os.fstat(file)
            if not stat.S_ISREG(status.st_mode) or status.st_ctime_ns < self._since_ns:
                return
            if status.st_size > self._bytes_left:
                self.unread.append(path)
                return
            self._bytes_left -= status.st_size
            found = self._content(_chunks(file))
            packed = self._content(_unpacked(file)) if _is_packed(file) else set[tuple[str, str]]()
            self.findings += [Finding(path=path, name=n, form=form) for n, form in sorted(found)]
            self.findings += [Finding(path=path, name=n, form=f"{form}, compressed") for n, form in sorted(packed)]
            if self._mask and found:
                self._overwrite(file, status.st_size)
        finally:
            os.close(file)

    def _content(self, chunks: Iterable[bytes]) -> set[tuple[str, str]]:
        found: set[tuple[str, str]] = set()
        tail = b""
        for chunk in chunks:
            window = tail + chunk
            found |= self._needles.within(window)
            tail = window[-self._needles.longest :]
        return found

    def _overwrite(self, file: int, size: int) -> None:
        os.fchmod(file, 0o600)
        step = max(_CHUNK, 4 * self._needles.longest)
        for at in range(0, size, step):
            window = os.pread(file, step + self._needles.longest, at)
            clean = self._needles.masked(window)
            if clean != window:
                os.pwrite(file, clean, at)


def _chunks(file: int) -> Iterator[bytes]:
    at = 0
    while chunk := os.pread(file, _CHUNK, at):
        yield chunk
        at += len(chunk)


def _is_packed(file: int) -> bool:
    """Whether it begins as gzip (RFC 1952) or zlib (RFC 1950) do."""
    head = os.pread(file, 2, 0)
    return head == b"\x1f\x8b" or (len(head) == 2 and head[0] == 0x78 and (head[0] << 8 | head[1]) % 31 == 0)


def _unpacked(file: int) -> Iterator[bytes]:
    """What it holds, in bounded pieces, and not for ever: it may be made to burst whoever unpacks it."""
    unpacker = zlib.decompressobj(wbits=47)
    pieces = PIECES_MAX
    for chunk in _chunks(file):
        data = chunk
        while data and pieces > 0 and not unpacker.eof:
            try:
                yield unpacker.decompress(data, _CHUNK)
            except zlib.error:
                return
            data = unpacker.unconsumed_tail
            pieces -= 1
