"""A ledger on each database, empty for each test, and as many brokers at it as a test opens."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import psycopg
import pytest

from leasehold.broker.lease.machine import Entry, Revocability, State
from leasehold.core.secret import Secret

if TYPE_CHECKING:
    from leasehold.broker.lease.store import SqlLedger
    from servers.postgres import PostgresServer

NOW = 1_700_000_000.25


class Storage:
    """Where one ledger is. ``open``: what a broker does that starts; all are closed at the end."""

    def __init__(self, kind: str, open_: Callable[[], SqlLedger]) -> None:
        self.kind = kind
        self._open = open_
        self._opened = ExitStack()

    def open(self) -> SqlLedger:
        ledger = self._open()
        self._opened.callback(ledger.close)
        return ledger

    def close(self) -> None:
        self._opened.close()


@pytest.fixture(scope="session")
def ledgers_database(postgres_server: PostgresServer) -> str:
    """The address of a database in which each ledger has a schema: that is quicker made than a database."""
    return postgres_server.database("ledgers")


@pytest.fixture(scope="session")
def make_storage(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Storage]:
    """A new storage of a kind; no server starts for SQLite."""

    def make(kind: str) -> Storage:
        from leasehold.broker.lease.store import PostgresLedger, SqliteLedger

        if kind == "sqlite":
            folder = tmp_path_factory.mktemp("state")
            return Storage(kind, lambda: SqliteLedger(folder))
        database: str = request.getfixturevalue("ledgers_database")
        schema = f"ledger_{secrets.token_hex(6)}"
        with psycopg.connect(database, autocommit=True) as connection:
            connection.execute(f"CREATE SCHEMA {schema}")
        url = Secret(f"{database}&options=-csearch_path%3D{schema}".encode())
        return Storage(kind, lambda: PostgresLedger(url))

    return make


@pytest.fixture(params=["sqlite", "postgres"])
def storage(request: pytest.FixtureRequest, make_storage: Callable[[str], Storage]) -> Iterator[Storage]:
    """One after the other."""
    made = make_storage(request.param)
    yield made
    made.close()


@pytest.fixture
def ledger(storage: Storage) -> SqlLedger:
    """The first broker's."""
    return storage.open()


@pytest.fixture(scope="session")
def intent() -> Callable[..., Entry]:
    """An entry by its id, with what is said otherwise."""

    def make(number: str, **changes: Any) -> Entry:
        usual: dict[str, Any] = {
            "id": number,
            "key": f"{number}/forge",
            "owner": "broker-1",
            "task": "one",
            "credential": "forge",
            "issuer": "postgres",
            "name": f"lh_{number}",
            "revocability": Revocability.NOW,
            "recipe": b"sealed \0 \xff",
            "state": State.INTENDED,
            "epoch": 1,
            "created": NOW,
            "expires": NOW + 900,
            "due": NOW + 60,
        }
        return Entry(**usual | changes)

    return make
