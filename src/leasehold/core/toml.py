"""Strict reading of TOML 1.0: every complaint names file, line and key, and what was expected and found.

``tomllib`` gives a line for errors of syntax only, so :func:`key_lines` finds the line of each key by itself. It
also bounds the nesting, because one of the files lies in an agent's reach and ``tomllib`` takes quadratic time over
long dotted keys.
"""

from __future__ import annotations

import os
import re
import stat
import tomllib
from collections.abc import Callable
from contextlib import suppress
from difflib import get_close_matches
from pathlib import Path
from typing import Any, TypeVar

from leasehold.core.errors import ConfigError
from leasehold.core.limits import LIMITS
from leasehold.core.text import printable

T = TypeVar("T")
D = TypeVar("D")
Place = tuple[str | int, ...]
"""Where a value stands: keys of tables and indices of lists, from the outside in."""

DEPTH_MAX = 16
_MANUAL = "docs/configuration.md lists every key"
_KINDS = {str: "a text", int: "a number", bool: "true or false", list: "a list", dict: "a table", float: "a fraction"}
_AT = re.compile(r" \((?:at line (\d+), column \d+|at end of document)\)\Z")


class Wrong(ValueError):
    """A value that a check refuses, with a way on."""

    def __init__(self, message: str, hint: str = _MANUAL) -> None:
        super().__init__(message)
        self.hint = hint


class Table:
    """A table of a file. Whatever is asked for is known; :meth:`done` refuses everything else that stands there."""

    def __init__(self, file: str, lines: dict[Place, int], place: Place, values: dict[str, Any]) -> None:
        self._file, self._lines, self._place = file, lines, place
        self._values = values
        self._known: dict[str, None] = {}

    def error(self, message: str, hint: str, *keys: str | int) -> ConfigError:
        """The error for a key of this table (and an index in its list), or for the table itself."""
        place = (*self._place, *keys)
        known = next(place[:n] for n in range(len(place), -1, -1) if place[:n] in self._lines or n == 0)
        where = "".join(f"[{part + 1}]" if isinstance(part, int) else f".{part}" for part in place)[1:]
        said = f"{where}: {message}" if where else message
        return ConfigError(printable(f"{self._file}:{self._lines.get(known, 1)}: {said}"), hint=printable(hint))

    def names(self) -> tuple[str, ...]:
        """The keys that stand there."""
        return tuple(self._values)

    def has(self, key: str) -> bool:
        self._known[key] = None
        return key in self._values

    def line(self, *keys: str | int) -> int:
        """The line of a key of this table."""
        return self._lines.get((*self._place, *keys), self._lines.get(self._place, 1))

    def text(self, key: str, check: Callable[[str], T]) -> T:
        """``check`` of the text at ``key``, which has to be there."""
        if not self.has(key):
            raise self.error(f"the key {key} is missing", _MANUAL)
        return self._checked(check, self._take(key, str), key)

    def text_or(self, default: D, key: str, check: Callable[[str], T]) -> T | D:
        """The same for a key that may be left out."""
        return self.text(key, check) if self.has(key) else default

    def number(self, key: str, check: Callable[[int], int], default: int) -> int:
        value = self._take(key, int)
        return self._checked(check, value, key) if value is not None else default

    def flag(self, key: str) -> bool:
        """False when it is not there."""
        return self._take(key, bool) is True

    def texts(self, key: str, check: Callable[[str], str] = str) -> tuple[str, ...]:
        """The checked texts of a list, empty when there is no such key; twice the same is an error."""
        values = self._list(key, str)
        found: dict[str, int] = {}
        for i, value in enumerate(values):
            item = self._checked(check, value, key, i)
            if item in found:
                raise self.error(f"{item!a} stands there twice", "leave one out", key, i)
            found[item] = i
        return tuple(found)

    def some(self, key: str, check: Callable[[str], str]) -> tuple[str, ...]:
        """Like :meth:`texts`, but an empty list is an error: as a limit it would let nothing through."""
        found = self.texts(key, check)
        if self.has(key) and not found:
            raise self.error("expected at least one, found none", f"leave {key} out, or name what is meant", key)
        return found

    def table(self, key: str) -> Table:
        """The table at ``key``; an empty one when there is none."""
        values = self._take(key, dict)
        return Table(self._file, self._lines, (*self._place, key), {} if values is None else values)

    def tables(self, key: str) -> tuple[Table, ...]:
        """The tables of a list, empty when there is no such key."""
        place = (*self._place, key)
        return tuple(Table(self._file, self._lines, (*place, i), v) for i, v in enumerate(self._list(key, dict)))

    def others(self) -> tuple[tuple[str, Any], ...]:
        """The keys that nobody has asked for, with their values as they stand there: for a reader of its own."""
        found = tuple((key, value) for key, value in self._values.items() if key not in self._known)
        self._known.update(dict.fromkeys(key for key, _ in found))
        return found

    def done(self) -> None:
        """Refuse every key that nobody asked for."""
        for key in self._values:
            if key not in self._known:
                near = get_close_matches(key, self._known, 1)
                known = f"known here: {', '.join(self._known)}" if self._known else "nothing may stand here"
                raise self.error("unknown key", f"did you mean {near[0]}?" if near else known, key)

    def _list(self, key: str, kind: type) -> list[Any]:
        values = self._take(key, list) or []
        if len(values) > LIMITS.config_list_max:
            message = f"expected at most {LIMITS.config_list_max} entries, found {len(values)}"
            raise self.error(message, "use a wider pattern", key)
        for i, value in enumerate(values):
            self._expect(value, kind, key, i)
        return list(values)

    def _take(self, key: str, kind: type) -> Any:
        if not self.has(key):
            return None
        self._expect(self._values[key], kind, key)
        return self._values[key]

    def _expect(self, value: object, kind: type, *keys: str | int) -> None:
        if type(value) is not kind:
            found = _KINDS.get(type(value), "a date or a time")
            raise self.error(f"expected {_KINDS[kind]}, found {found}", _MANUAL, *keys)

    def _checked(self, check: Callable[[Any], T], value: object, *keys: str | int) -> T:
        try:
            return check(value)
        except ValueError as e:
            reason, hint = str(e), e.hint if isinstance(e, Wrong) else _MANUAL
        # Raised here, where no exception is left that carries the value.
        raise self.error(reason, hint, *keys)


def parse(file: str, data: bytes) -> Table:
    """The whole document; ``ConfigError`` names ``file`` and the line where it is no TOML. Pure."""
    try:
        text = data.decode()
        return Table(file, key_lines(text), (), tomllib.loads(text))
    except UnicodeDecodeError as e:
        problem, line = "expected UTF-8, found something else", data.count(b"\n", 0, e.start) + 1
    except ValueError as e:
        at = _AT.search(str(e))
        problem, line = _AT.sub("", str(e)), int(at[1]) if at and at[1] else data.count(b"\n") + 1
    raise ConfigError(printable(f"{file}:{line}: {problem}"), hint="the file must be TOML 1.0 (toml.io)")


def read_bytes(path: Path, *, bytes_max: int, reachable: bool) -> bytes:
    """The content of an ordinary file; ``ConfigError`` says why it cannot be had.

    ``reachable``: the file lies in an agent's reach and may be anybody's, but is not followed to another place. One
    that does not may be a link, and nobody but its owner, who is the caller or root, may write to it.
    """
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY | (os.O_NOFOLLOW if reachable else 0)
    hint = "it must be an ordinary file that you may read"
    try:
        fd = os.open(path, flags)
        try:
            info = os.fstat(fd)
            problem = _unfit(info, reachable=reachable)
            data = b"" if problem else _read(fd, bytes_max + 1)
        finally:
            os.close(fd)
        if not problem and len(data) <= bytes_max:
            return data
        if not problem:
            problem, hint = f"expected at most {bytes_max} bytes, found more", "is it the right file?"
        elif stat.S_ISREG(info.st_mode):
            hint = f"make it yours, and chmod go-w {path}"
    except FileNotFoundError:
        problem, hint = "there is no such file", "`leasehold init` writes a first one"
    except OSError as e:
        linked = reachable and path.is_symlink()
        problem = "a link is not followed from a workspace" if linked else f"cannot be read: {e.strerror}"
    raise ConfigError(printable(f"{path}: {problem}"), hint=printable(hint))


def _read(fd: int, count: int) -> bytes:
    with open(fd, "rb", closefd=False) as file:
        return file.read(count)


def _unfit(info: os.stat_result, *, reachable: bool) -> str:
    """What keeps us from trusting an opened file, or nothing."""
    if not stat.S_ISREG(info.st_mode):
        return "expected an ordinary file, found something else"
    if reachable:
        return ""
    if info.st_uid not in (os.getuid(), 0):
        return f"expected a file of uid {os.getuid()} or of root, found one of uid {info.st_uid}"
    # A group of one's own (umask 002) is what some distributions give every user.
    if info.st_mode & stat.S_IWOTH or (info.st_mode & stat.S_IWGRP and info.st_gid != os.getgid()):
        return f"others may write to it (mode {stat.S_IMODE(info.st_mode):04o})"
    return ""


def key_lines(text: str) -> dict[Place, int]:
    """The line, from 1, of each key and list entry of a valid document.

    Of an invalid one: of what stands before the fault. ``ValueError`` for nesting deeper than ``DEPTH_MAX``.
    """
    scanner = _Scanner(text)
    with suppress(_Nonsense):  # tomllib says it better
        scanner.document()
    return scanner.lines


class _Nonsense(Exception):
    """The text is no TOML from here on."""


_GAP = re.compile(r"(?:[ \t\r\n]|#[^\n]*)*")
_SPACE = re.compile(r"[ \t]*")
_NAME = re.compile(r"""[A-Za-z0-9_-]+|"(?:[^"\\\n]|\\.)*"|'[^'\n]*'""")
# Up to two quotes may stand before the three that close.
_STRING = re.compile(
    r'''"""(?:[^\\]|\\.)*?"""(?:""?(?!"))?|\'\'\'.*?\'\'\'(?:\'\'?(?!\'))?|"(?:[^"\\\n]|\\.)*"|'[^'\n]*\'''', re.DOTALL
)
_SCALAR = re.compile(r"[^,\]}#\n]*")


class _Scanner:
    """Walks through a document once, in linear time, and notes where each key begins."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0
        self._line, self._counted = 1, 0
        self._entries: dict[Place, int] = {}
        self.lines: dict[Place, int] = {}

    def document(self) -> None:
        table: Place = ()
        while self._skip(_GAP) < len(self._text):
            start = self._at
            if self._eat("[["):
                *outer, last = self._key()
                self._expect("]]")
                place = (*self._resolved(outer, start), last)
                self._entries[place] = self._entries.get(place, -1) + 1
                table = (*place, self._entries[place])
                self._mark(place, start)
                self._mark(table, start)
            elif self._eat("["):
                table = self._resolved(self._key(), start)
                self._expect("]")
            else:
                self._pair(table)

    def _resolved(self, key: list[str], start: int) -> Place:
        """A header's key as a place: what is in a list of tables is in its last one."""
        place: Place = ()
        for part in key:
            place += (part,)
            self._mark(place, start)
            if place in self._entries:
                place += (self._entries[place],)
        return place

    def _pair(self, table: Place) -> None:
        start = self._at
        key = self._key()
        for n in range(len(key)):
            self._mark((*table, *key[: n + 1]), start)
        self._expect("=")
        self._value((*table, *key))

    def _key(self) -> list[str]:
        parts: list[str] = []
        while not parts or self._eat("."):
            self._skip(_SPACE)
            parts.append(_unquoted(self._match(_NAME)))
            self._skip(_SPACE)
            self._bound(len(parts))
        return parts

    def _value(self, place: Place) -> None:
        self._bound(len(place))
        self._skip(_SPACE)
        if self._eat("["):
            self._items(place, "]", indexed=True)
        elif self._eat("{"):
            self._items(place, "}", indexed=False)
        elif self._text[self._at : self._at + 1] in ('"', "'"):
            self._match(_STRING)
        else:
            self._match(_SCALAR)

    def _items(self, place: Place, end: str, *, indexed: bool) -> None:
        count = 0
        self._skip(_GAP)
        while not self._eat(end):
            if indexed:
                self._mark((*place, count), self._at)
                self._value((*place, count))
            else:
                self._pair(place)
            count += 1
            self._skip(_GAP)
            if not self._eat(","):
                self._expect(end)
                return
            self._skip(_GAP)

    def _bound(self, depth: int) -> None:
        if depth > DEPTH_MAX:
            raise ValueError(f"expected at most {DEPTH_MAX} levels of nesting, found more")

    def _mark(self, place: Place, at: int) -> None:
        """Note the line of ``at``, which never goes back."""
        if place not in self.lines:
            self._line += self._text.count("\n", self._counted, at)
            self._counted = at
            self.lines[place] = self._line

    def _eat(self, token: str) -> bool:
        found = self._text.startswith(token, self._at)
        self._at += len(token) * found
        return found

    def _expect(self, token: str) -> None:
        if not self._eat(token):
            raise _Nonsense

    def _skip(self, pattern: re.Pattern[str]) -> int:
        self._match(pattern)
        return self._at

    def _match(self, pattern: re.Pattern[str]) -> str:
        match = pattern.match(self._text, self._at)
        if match is None:
            raise _Nonsense
        self._at = match.end()
        return match[0]


def _unquoted(name: str) -> str:
    if name[0] == '"' and "\\" in name:
        with suppress(tomllib.TOMLDecodeError):
            unescaped: str = tomllib.loads(f"k={name}")["k"]
            return unescaped
        raise _Nonsense
    return name[1:-1] if name[0] in "\"'" else name
