"""The ledger in a file: private, durable, and named when something is wrong with it."""

from __future__ import annotations

import os
import resource
import sqlite3
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from leasehold.broker.lease.machine import Entry, activated
from leasehold.broker.lease.store import FILE, SqliteLedger
from leasehold.core.errors import LedgerError

Intent = Callable[..., Entry]
NOW = 1_700_000_000.25


@contextmanager
def opened(folder: Path) -> Iterator[SqliteLedger]:
    ledger = SqliteLedger(folder)
    try:
        yield ledger
    finally:
        ledger.close()


def stored(folder: Path, *entries: Entry) -> Path:
    """The file, after a ledger has been in use."""
    with opened(folder) as ledger:
        for entry in entries:
            ledger.intend(entry)
    return folder / FILE


def refused(folder: Path, reason: str) -> None:
    """It does not open, and says which file that is."""
    path = folder / FILE
    with pytest.raises(LedgerError, match=reason) as raised:
        SqliteLedger(folder)
    assert str(path) in str(raised.value) and "restore it from a backup" in raised.value.hint
    assert raised.value.__context__ is None


def test_all_its_files_are_for_the_user_alone(tmp_path: Path, intent: Intent) -> None:
    before = os.umask(0)
    try:
        with opened(tmp_path) as ledger:
            ledger.intend(intent("1"))
            modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()}
    finally:
        os.umask(before)
    assert modes == {FILE: 0o600, f"{FILE}-wal": 0o600, f"{FILE}-shm": 0o600}


def test_a_write_waits_for_the_disk(tmp_path: Path, intent: Intent) -> None:
    """Write-ahead log, synchronised at each commit: 2 is FULL."""
    from sqlalchemy import Engine, event

    found: list[object] = []

    def look(connection: object, cursor: sqlite3.Cursor, *_: object) -> None:
        names = ("journal_mode", "synchronous", "foreign_keys", "trusted_schema")
        found.extend(cursor.connection.execute(f"PRAGMA {name}").fetchone()[0] for name in names)

    with opened(tmp_path) as ledger:
        event.listen(Engine, "before_cursor_execute", look)
        try:
            ledger.next_due()
        finally:
            event.remove(Engine, "before_cursor_execute", look)
    assert found[:4] == ["wal", 2, 1, 0]


def test_a_file_that_others_may_read_is_refused(tmp_path: Path, intent: Intent) -> None:
    path = stored(tmp_path, intent("1"))
    path.chmod(0o640)
    refused(tmp_path, "must be a file that only uid [0-9]+ may read")
    path.chmod(0o600)
    with opened(tmp_path) as ledger:
        assert ledger.entry("1") is not None


@pytest.mark.parametrize("kind", ["link", "folder", "pipe"])
def test_what_is_no_file_is_refused(tmp_path: Path, kind: str) -> None:
    path = tmp_path / FILE
    if kind == "link":
        (tmp_path / "other").write_bytes(b"")
        path.symlink_to(tmp_path / "other")
    elif kind == "folder":
        path.mkdir()
    else:
        os.mkfifo(path)
    refused(tmp_path, "must be a file that only uid [0-9]+ may read")


def test_a_folder_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    refused(tmp_path / "none", "cannot be opened: No such file or directory")


@pytest.mark.parametrize("content", [b"no database" * 1000, b"SQLite format 3\0" + b"\xff" * 8176])
def test_a_file_that_is_no_database_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / FILE
    path.write_bytes(content)
    path.chmod(0o600)
    refused(tmp_path, "cannot be used: DatabaseError SQLITE_(NOTADB|CORRUPT)")


def test_the_database_of_something_else_is_refused(tmp_path: Path) -> None:
    path = tmp_path / FILE
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE mine (x)")
    connection.close()
    path.chmod(0o600)
    refused(tmp_path, "is the database of something else")
    with sqlite3.connect(path) as connection:
        assert connection.execute("SELECT name FROM sqlite_master").fetchall() == [("mine",)]
    connection.close()


def test_damage_is_noticed_where_it_is_read(tmp_path: Path, intent: Intent) -> None:
    path = stored(tmp_path, *(intent(f"{number:03}") for number in range(200)))
    content = bytearray(path.read_bytes())
    for page in range(4096 * 4, len(content), 4096):  # behind the tables' own description
        content[page : page + 2048] = b"\xee" * 2048
    path.write_bytes(content)
    # The version may be among what was hit, or the leases.
    with (
        pytest.raises(LedgerError, match=r"ledger\.db cannot be used: DatabaseError SQLITE_CORRUPT"),
        opened(tmp_path) as ledger,
    ):
        ledger.entries(limit=1000)


def test_a_file_that_is_taken_away_is_noticed(tmp_path: Path, intent: Intent) -> None:
    with opened(tmp_path) as ledger:
        entry = ledger.intend(intent("1"))
        path = tmp_path / FILE
        path.rename(tmp_path / "aside")
        with pytest.raises(LedgerError, match="was taken away while it was in use"):
            ledger.intend(intent("2"))
        path.write_bytes((tmp_path / "aside").read_bytes())
        with pytest.raises(LedgerError, match="was taken away while it was in use"):
            ledger.change(entry, activated(entry, NOW))
        (tmp_path / "aside").rename(path)
        ledger.intend(intent("3"))
        assert [found.id for found in ledger.entries()] == ["1", "3"]


def test_a_full_disk_is_an_error_that_passes(tmp_path: Path, intent: Intent) -> None:
    with opened(tmp_path) as ledger:
        ledger.intend(intent("1"))
        room = (tmp_path / f"{FILE}-wal").stat().st_size + 4096
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (room, before[1]))
        try:
            with pytest.raises(LedgerError, match=r"ledger\.db cannot be used: OperationalError SQLITE_") as raised:
                ledger.intend(intent("2", recipe=b"x" * 100_000))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
        assert "make room" in raised.value.hint
        assert [entry.id for entry in ledger.entries()] == ["1"]
        ledger.intend(intent("2", recipe=b"x" * 100_000))
    with opened(tmp_path) as ledger:
        assert [entry.id for entry in ledger.entries()] == ["1", "2"]


def test_two_brokers_take_turns(tmp_path: Path, intent: Intent) -> None:
    """An old daemon may still be ending while a new one starts."""
    with opened(tmp_path) as old, opened(tmp_path) as new:
        for number in range(20):
            (old, new)[number % 2].intend(intent(f"{number:02}"))
        assert len(old.entries()) == len(new.entries()) == 20
