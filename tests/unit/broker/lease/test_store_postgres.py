"""What only the shared ledger does: brokers that wake each other, and a server that goes away."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import psycopg
import pytest
from psycopg import sql

from leasehold.broker.lease.machine import Entry, activated, ending, renewed
from leasehold.broker.lease.store import PostgresLedger
from leasehold.core.errors import LedgerError
from leasehold.core.secret import Secret

if TYPE_CHECKING:
    from servers.postgres import PostgresServer
    from unit.broker.lease.conftest import Storage

Intent = Callable[..., Entry]
NOW = 1_700_000_000.25
LONG_S = 60.0


@pytest.fixture
def storage(make_storage: Callable[[str], Storage]) -> Iterator[Storage]:
    made = make_storage("postgres")
    yield made
    made.close()


@pytest.fixture
def ledger(storage: Storage) -> PostgresLedger:
    opened = storage.open()
    assert isinstance(opened, PostgresLedger)
    return opened


def listening(ledger: PostgresLedger) -> PostgresLedger:
    """What it is told from here on wakes it."""
    assert ledger.wait(0)
    assert not ledger.wait(0)
    return ledger


def terminated(database: str) -> None:
    """End all other connections to the server's database."""
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute(
            "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )


def test_a_broker_wakes_when_another_makes_something_due(
    ledger: PostgresLedger, storage: Storage, intent: Intent
) -> None:
    other = listening(ledger), storage.open()
    entry = other[1].intend(intent("1"))
    active = activated(entry, NOW + 800)
    other[1].change(entry, active)
    longer = renewed(active, NOW + 900)
    other[1].change(active, longer)
    assert not ledger.wait(0)  # nothing that cannot wait
    woken: list[bool] = []
    waiting = threading.Thread(target=lambda: woken.append(ledger.wait(LONG_S)))
    waiting.start()
    other[1].change(longer, ending(longer, NOW))
    waiting.join(LONG_S / 2)
    assert woken == [True]
    assert not ledger.wait(0)


def test_leases_of_a_dead_broker_wake_the_others(ledger: PostgresLedger, storage: Storage, intent: Intent) -> None:
    other = storage.open()
    listening(ledger)
    entry = other.intend(intent("1"))
    other.change(entry, activated(entry, NOW + 800))
    assert other.orphaned(NOW, NOW) == 1
    assert ledger.wait(LONG_S)


def test_closing_ends_a_wait(ledger: PostgresLedger) -> None:
    listening(ledger)
    woken: list[bool] = []
    waiting = threading.Thread(target=lambda: woken.append(ledger.wait(LONG_S)))
    waiting.start()
    ledger.close()
    waiting.join(LONG_S / 2)
    assert woken == [False]
    assert not ledger.wait(LONG_S)
    ledger.close()


def test_a_connection_that_was_cut_is_made_again(ledger: PostgresLedger, ledgers_database: str, intent: Intent) -> None:
    ledger.intend(intent("1"))
    listening(ledger)
    terminated(ledgers_database)
    assert [entry.id for entry in ledger.entries()] == ["1"]
    with pytest.raises(LedgerError, match=r"127\.0\.0\.1:[0-9]+/ledgers cannot be listened to: OperationalError"):
        ledger.wait(LONG_S)
    # What was said meanwhile was not heard.
    assert ledger.wait(LONG_S)
    assert not ledger.wait(0)


def test_a_row_that_somebody_works_on_is_passed_over(
    ledger: PostgresLedger, ledgers_database: str, intent: Intent
) -> None:
    for number in range(3):
        ledger.intend(intent(f"{number}", due=NOW))
    tables = "SELECT schemaname FROM pg_tables WHERE tablename = 'leasehold_leases'"
    with psycopg.connect(ledgers_database) as locking:
        for (schema,) in locking.execute(tables).fetchall():
            table = sql.Identifier(schema, "leasehold_leases")
            locking.execute(sql.SQL("SELECT 1 FROM {} WHERE id = '1' FOR UPDATE").format(table))
        assert [entry.id for entry in ledger.claim(NOW, 9, "a", NOW + 60)] == ["0", "2"]
    assert [entry.id for entry in ledger.claim(NOW, 9, "b", NOW + 60)] == ["1"]


def test_a_write_waits_for_the_disk_also_where_the_user_would_not(
    postgres_server: PostgresServer, intent: Intent
) -> None:
    database = postgres_server.database("hasty")
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute("ALTER DATABASE hasty SET synchronous_commit = off")
        connection.execute("ALTER DATABASE hasty SET default_transaction_isolation = 'serializable'")
    ledger = PostgresLedger(Secret(database.encode()))
    try:
        from sqlalchemy import Engine, event

        found: list[object] = []

        def look(_: object, cursor: psycopg.Cursor, *__: object) -> None:
            for name in ("synchronous_commit", "default_transaction_isolation", "statement_timeout"):
                row = cursor.connection.execute(f"SHOW {name}").fetchone()
                found.append(row and row[0])

        event.listen(Engine, "before_cursor_execute", look)
        try:
            ledger.next_due()
        finally:
            event.remove(Engine, "before_cursor_execute", look)
    finally:
        ledger.close()
    assert found[:3] == ["on", "read committed", "30s"]


def test_what_has_closed_is_cleared_out_of_the_indexes_early(ledger: PostgresLedger, ledgers_database: str) -> None:
    ledger.next_due()
    with psycopg.connect(ledgers_database) as connection:
        found = connection.execute("SELECT reloptions FROM pg_class WHERE relname = 'leasehold_leases'").fetchall()
    assert set(map(repr, found)) == {repr((["autovacuum_vacuum_scale_factor=0.01"],))}


def test_the_order_of_ids_is_the_same_in_every_language(postgres_server: PostgresServer, intent: Intent) -> None:
    with postgres_server.admin() as connection:
        connection.execute("CREATE DATABASE english TEMPLATE template0 LOCALE_PROVIDER icu ICU_LOCALE 'en'")
    ledger = PostgresLedger(Secret(postgres_server.url("postgres", postgres_server.password, "english").encode()))
    try:
        for number in ("a", "B", "_", "9"):
            ledger.intend(intent(number))
        assert [entry.id for entry in ledger.entries()] == ["9", "B", "_", "a"]
        assert [entry.id for entry in ledger.entries(after="B")] == ["_", "a"]
    finally:
        ledger.close()


def test_what_a_server_answers_tells_no_password(postgres_server: PostgresServer) -> None:
    wrong = postgres_server.url("postgres", "hush-hush", "postgres")
    with pytest.raises(LedgerError, match=r"the ledger at 127\.0\.0\.1:[0-9]+/postgres cannot be used") as raised:
        PostgresLedger(Secret(wrong.encode()))
    assert "hush" not in str(raised.value) + raised.value.hint
    assert raised.value.__context__ is None


def test_a_server_that_cannot_be_verified_is_refused(postgres_server: PostgresServer) -> None:
    address, _, _ = postgres_server.database("unverified").partition("?")
    with pytest.raises(LedgerError, match="/unverified cannot be used: OperationalError"):
        PostgresLedger(Secret(address.encode()))
    PostgresLedger(Secret(f"{address}?sslmode=require".encode())).close()


@pytest.mark.parametrize(
    "address", ["", "host=db password=hush", "postgresql://u:hush-hush@[host/db", "postgresql://u:hush@h/\xff?\xfe=1"]
)
def test_what_is_no_address_is_refused(address: str) -> None:
    with pytest.raises(LedgerError, match="the ledger's address is none of PostgreSQL's") as raised:
        PostgresLedger(Secret(address.encode("latin-1")))
    assert raised.value.__context__ is None
