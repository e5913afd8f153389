"""The strict reader: each complaint names file, line and key; nothing that stands in a file costs much time."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from leasehold.core import toml
from leasehold.core.endpoints import one_of
from leasehold.core.errors import ConfigError
from leasehold.core.toml import Place, Table, Wrong, key_lines, parse, read_bytes

DOCUMENT = """# a comment with [brackets] and key = 1
title = "x"   # title = "y"
a.b."c.d" = 1

[table.inner]
text = '''
not = "a key"
'''
list = [
  1, # one
  [2, 3],
  { x = 1, y = { z = 'a # b' } },
]

[[entries]]
name = "first"

[[entries]]
name = "second"
[entries.below]
"quoted \\u0041" = 1979-05-27 07:32:00
[[entries.deep]]
k = QQQa \\" " "" QQQ""
""".replace("QQQ", '"' * 3)
LINES: dict[Place, int] = {
    ("title",): 2,
    ("a",): 3,
    ("a", "b"): 3,
    ("a", "b", "c.d"): 3,
    ("table",): 5,
    ("table", "inner"): 5,
    ("table", "inner", "text"): 6,
    ("table", "inner", "list"): 9,
    ("table", "inner", "list", 0): 10,
    ("table", "inner", "list", 1): 11,
    ("table", "inner", "list", 1, 0): 11,
    ("table", "inner", "list", 1, 1): 11,
    ("table", "inner", "list", 2): 12,
    ("table", "inner", "list", 2, "x"): 12,
    ("table", "inner", "list", 2, "y"): 12,
    ("table", "inner", "list", 2, "y", "z"): 12,
    ("entries",): 15,
    ("entries", 0): 15,
    ("entries", 0, "name"): 16,
    ("entries", 1): 18,
    ("entries", 1, "name"): 19,
    ("entries", 1, "below"): 20,
    ("entries", 1, "below", "quoted A"): 21,
    ("entries", 1, "deep"): 22,
    ("entries", 1, "deep", 0): 22,
    ("entries", 1, "deep", 0, "k"): 23,
}


def places(value: object, at: Place = ()) -> Iterator[Place]:
    """Every place of a parsed document."""
    if at:
        yield at
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from places(inner, (*at, key))
    elif isinstance(value, list):
        for i, inner in enumerate(value):
            yield from places(inner, (*at, i))


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_the_line_of_every_key_is_found(end: str) -> None:
    text = DOCUMENT.replace("\n", end)
    assert set(places(tomllib.loads(text))) == LINES.keys()
    assert key_lines(text) == LINES


_TOKENS = [
    "a", "b", '"q"', '"x\\u0041"', "'l'", ".", "=", "[", "]", "[[", "]]", "{", "}", ",", "\n", "\r\n", " ", "# c\n",
    '"""m\n"m"""', '"""e"""""', "'''l\n'l'''", "''''''''", "1", "1.5", "true", "1979-05-27 07:32:00", '"s"', '"e\\""',
    "\\", '"""\\\n x"""', "''", '""', "a=1\n", "[a]\n", "[[b]]\n", "c = [1, [2,\n3]]\n", 'd={x=1,y={z="#"}}\n',
]  # fmt: skip


@given(st.lists(st.sampled_from(_TOKENS), max_size=14).map("".join))
def test_whatever_is_valid_is_walked_through_to_its_end(text: str) -> None:
    """Otherwise nesting could hide behind what the scanner does not understand."""
    try:
        document = tomllib.loads(text)
    except ValueError:
        key_lines(text)
        return
    assert set(key_lines(text)) == set(places(document))


@pytest.mark.parametrize("text", ["a = [1 2]", "a 1", "[a", '"\\ud800" = 1', 'a = "', "[[a]"])
def test_what_is_no_toml_ends_the_walk(text: str) -> None:
    key_lines(f"ok = 1\n{text}")
    with pytest.raises(ConfigError, match=r"^f:[12]: "):
        parse("f", f"ok = 1\n{text}".encode())


@pytest.mark.parametrize(
    "text",
    [
        "a." * 17 + "a = 1",
        "a." * 30_000 + "a = 1",
        "a = " + "[" * 30_000,
        "a = " + "[" * 17 + "]" * 17,
        "[" + "a." * 30_000 + "a]",
        "a = " + "{a = " * 17 + "1" + "}" * 17,
    ],
    ids=["key", "long key", "lists", "valid lists", "header", "tables"],
)
def test_deep_nesting_is_refused_before_it_costs_anything(text: str) -> None:
    with pytest.raises(ConfigError, match="at most 16 levels"):
        parse("f", text.encode())


def test_what_is_just_deep_enough_is_read() -> None:
    assert parse("f", ("a." * 15 + "a = 1").encode()).names() == ("a",)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"a = 1\nb = \xff\n", "f:2: expected UTF-8"),
        (b"a = 1\na = 2\n", "f:2: Cannot overwrite a value"),
        (b"[a]\n[b]\n[a]\n", "f:3: Cannot declare"),
        (b"a = {x = 1, x = 2}\n", "f:1: Duplicate inline table key"),
        (b"a = 1\nb = \n", "f:2: Invalid value"),
        (b"a = 1\nb = [\n", "f:3: "),
        (b"a = " + b"9" * 5000, "f:1: Exceeds the limit"),
        (b"\xef\xbb\xbfa = 1", "f:1: "),
        (b"a = no\n", "f:1: Invalid value"),
        (b"a = 1\n---\na = 2\n", "f:2: "),
    ],
)
def test_what_is_no_toml_is_refused_with_its_line(data: bytes, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse("f", data)
    assert caught.value.message.startswith(said)
    assert caught.value.__context__ is None


TABLES = """
text = "x"
number = 7
flag = true
float = 1.5
date = 1979-05-27
texts = ["a", "b"]
none = []
twice = ["a", "a"]
mixed = ["a", 1]
table = { inner = 1 }
tables = [{ name = "a" }, { name = "b" }]
"""


def table(text: str = TABLES) -> Table:
    return parse("f", text.encode())


def test_what_is_there_is_read() -> None:
    found = table()
    assert found.text("text", str.upper) == "X"
    assert found.number("number", lambda n: n + 1, 0) == 8
    assert found.flag("flag") is True
    assert found.texts("texts") == found.some("texts", str) == ("a", "b")
    assert found.texts("none") == ()
    assert [item.text("name", str) for item in found.tables("tables")] == ["a", "b"]
    assert found.table("table").names() == ("inner",)


def test_what_is_not_there_has_a_default() -> None:
    found = table("")
    assert found.text_or(None, "text", str) is None
    assert found.number("number", int, 5) == 5
    assert found.flag("flag") is False
    assert found.texts("texts") == found.some("texts", str) == ()
    assert found.tables("tables") == ()
    found.table("table").done()
    found.done()


def _refuse(value: object) -> Any:
    raise Wrong(f"not {value}", "the hint")


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        (lambda t: t.text("gone", str), "f:1: the key gone is missing"),
        (lambda t: t.text("number", str), "f:3: number: expected a text, found a number"),
        (lambda t: t.text("float", str), "f:5: float: expected a text, found a fraction"),
        (lambda t: t.text("date", str), "f:6: date: expected a text, found a date or a time"),
        (lambda t: t.number("flag", int, 1), "f:4: flag: expected a number, found true or false"),
        (lambda t: t.flag("text"), "f:2: text: expected true or false, found a text"),
        (lambda t: t.table("texts"), "f:7: texts: expected a table, found a list"),
        (lambda t: t.texts("table"), "f:11: table: expected a list, found a table"),
        (lambda t: t.texts("mixed"), "f:10: mixed[2]: expected a text, found a number"),
        (lambda t: t.texts("twice"), "f:9: twice[2]: 'a' stands there twice"),
        (lambda t: t.some("none", str), "f:8: none: expected at least one, found none"),
        (lambda t: t.tables("texts"), "f:7: texts[1]: expected a table, found a text"),
        (lambda t: t.text("text", _refuse), "f:2: text: not x"),
        (lambda t: t.texts("texts", _refuse), "f:7: texts[1]: not a"),
        (lambda t: t.table("table").done(), "f:11: table.inner: unknown key"),
        (lambda t: t.tables("tables")[1].done(), "f:12: tables[2].name: unknown key"),
        (lambda t: t.text("text", one_of(("a", "b"))), "f:2: text: expected one of a, b, found 'x'"),
    ],
)
def test_what_is_wrong_is_refused_with_file_line_and_key(ask: Callable[[Table], Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        ask(table())
    assert caught.value.message == message
    assert caught.value.hint
    assert caught.value.__context__ is None


def test_an_unknown_key_comes_with_what_was_probably_meant() -> None:
    found = parse("f", b"methodes = 1")
    found.has("methods")
    with pytest.raises(ConfigError) as caught:
        found.done()
    assert caught.value.hint == "did you mean methods?"


def test_an_unknown_key_comes_with_what_is_known() -> None:
    found = parse("f", b"zzz = 1")
    found.has("host")
    found.has("port")
    with pytest.raises(ConfigError) as caught:
        found.done()
    assert caught.value.hint == "known here: host, port"
    with pytest.raises(ConfigError) as caught:
        parse("f", b"zzz = 1").done()
    assert caught.value.hint == "nothing may stand here"


def test_a_list_has_an_end() -> None:
    entries = ", ".join(f'"{n}"' for n in range(257))
    with pytest.raises(ConfigError, match="at most 256 entries, found 257"):
        table(f"a = [{entries}]").texts("a")


def test_a_check_says_its_own_hint() -> None:
    with pytest.raises(ConfigError) as caught:
        table().text("text", _refuse)
    assert caught.value.hint == "the hint"
    with pytest.raises(ConfigError) as caught:
        table().text("text", int)
    assert "docs/configuration.md" in caught.value.hint


def test_what_others_wrote_cannot_move_a_cursor() -> None:
    found = parse("f", b'"\\u001b[2J\\u202e" = 1')
    with pytest.raises(ConfigError) as caught:
        found.done()
    assert caught.value.message.isprintable()
    assert "\\x1b[2J\\u202e" in caught.value.message


def read(path: Path, *, reachable: bool = False, bytes_max: int = 100) -> bytes:
    return read_bytes(path, bytes_max=bytes_max, reachable=reachable)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "config.toml"
    path.write_bytes(b"x" * 100)
    path.chmod(0o600)
    return path


@pytest.mark.parametrize("reachable", [False, True])
def test_an_ordinary_file_is_read(file: Path, reachable: bool) -> None:
    assert read(file, reachable=reachable) == b"x" * 100


@pytest.mark.parametrize("reachable", [False, True])
def test_a_file_that_is_too_large_is_refused(file: Path, reachable: bool) -> None:
    with pytest.raises(ConfigError, match="expected at most 99 bytes"):
        read(file, reachable=reachable, bytes_max=99)


def test_a_file_without_an_honest_size_is_refused_when_it_is_too_large() -> None:
    assert Path("/proc/self/status").stat().st_size == 0
    with pytest.raises(ConfigError, match="expected at most 10 bytes"):
        read(Path("/proc/self/status"), reachable=True, bytes_max=10)


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        read(tmp_path / "config.toml")
    assert caught.value.message == f"{tmp_path}/config.toml: there is no such file"
    assert "leasehold init" in caught.value.hint


@pytest.mark.parametrize("reachable", [False, True])
def test_what_is_no_ordinary_file_is_refused(tmp_path: Path, reachable: bool) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    for path in (tmp_path, fifo, Path("/dev/zero")):
        with pytest.raises(ConfigError, match="expected an ordinary file"):
            read(path, reachable=reachable)


def test_only_the_operators_file_may_be_a_link(file: Path) -> None:
    link = file.with_name("link")
    link.symlink_to(file)
    assert read(link) == b"x" * 100
    with pytest.raises(ConfigError, match="link: a link is not followed from a workspace"):
        read(link, reachable=True)


def test_a_path_through_a_file_is_refused(file: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read: Not a directory"):
        read(file / "x")


@pytest.mark.parametrize(
    ("mode", "owner", "said"),
    [
        (0o600, (0, 0), ""),
        (0o644, (0, 0), ""),
        (0o664, (0, 0), ""),
        (0o600, (12345, 0), "one of uid 12345"),
        (0o602, (0, 0), "others may write to it"),
        (0o660, (0, 12345), "others may write to it"),
    ],
)
def test_only_its_owner_may_write_to_the_operators_file(mode: int, owner: tuple[int, int], said: str) -> None:
    """As the status of a file says it, for a process of uid and gid 0."""
    own_uid, own_gid = os.getuid(), os.getgid()
    uid, gid = owner[0] or own_uid, owner[1] or own_gid
    status = os.stat_result((0o100000 | mode, 1, 1, 1, uid, gid, 0, 0, 0, 0))
    assert said in toml._unfit(status, reachable=False)
    assert bool(said) == bool(toml._unfit(status, reachable=False))
    assert toml._unfit(status, reachable=True) == ""


def test_a_file_that_others_may_write_to_is_refused(file: Path) -> None:
    file.chmod(0o666)
    with pytest.raises(ConfigError, match="mode 0666") as caught:
        read(file)
    assert "chmod go-w" in caught.value.hint
    assert read(file, reachable=True) == b"x" * 100
