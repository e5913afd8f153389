"""The ledger's tables, the same for SQLite and PostgreSQL, and how an older one is brought up to date.

An entry is open exactly when ``closed`` is null, and the partial indexes hold open rows only: what is looked up all the
time costs the same beside a million closed leases as beside none.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Column,
    Connection,
    Double,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Table,
    Text,
    and_,
    insert,
    inspect,
    select,
    text,
    update,
)
from sqlalchemy.dialects.sqlite import REAL
from sqlalchemy.types import TypeEngine

from leasehold.broker.lease.machine import OPEN, State

# PostgreSQL would sort by the rules of a language, and SQLite's strict tables know no other name for a double.
_ID = Text().with_variant(Text(collation="C"), "postgresql")
_TIME: TypeEngine[float] = Double().with_variant(REAL(), "sqlite")
_WHOLE = BigInteger().with_variant(Integer(), "sqlite")


def _listed(states: Sequence[State]) -> str:
    return ", ".join(f"'{state}'" for state in states)


_TABLES = MetaData()
VERSION = Table("leasehold_ledger", _TABLES, Column("version", Integer, nullable=False), sqlite_strict=True)
BEATS = Table(
    "leasehold_beats",
    _TABLES,
    Column("owner", Text, primary_key=True),
    Column("at", _TIME, nullable=False),
    sqlite_strict=True,
)
"""When each broker process was last alive."""
LEASES = Table(
    "leasehold_leases",
    _TABLES,
    Column("id", _ID, primary_key=True),
    Column("key", Text, nullable=False),
    Column("owner", Text, nullable=False),
    Column("task", Text, nullable=False),
    Column("credential", Text, nullable=False),
    Column("issuer", Text, nullable=False),
    Column("name", Text, nullable=False, unique=True),
    Column("revocability", Text, nullable=False),
    Column("recipe", LargeBinary, nullable=False),
    Column("state", Text, nullable=False),
    Column("epoch", _WHOLE, nullable=False),
    Column("created", _TIME, nullable=False),
    Column("expires", _TIME, nullable=False),
    Column("due", _TIME, nullable=False),
    Column("closed", _TIME),
    Column("attempts", _WHOLE, nullable=False),
    Column("error", Text, nullable=False),
    Column("worker", Text),
    Column("claimed_until", _TIME),
    CheckConstraint(f"state IN ({_listed(list(State))})", name="leasehold_state"),
    CheckConstraint(f"(closed IS NULL) = (state IN ({_listed(sorted(OPEN))}))", name="leasehold_open"),
    sqlite_strict=True,
    # A lease is in each partial index for its life only; what is left of it there goes before a fifth of all is such.
    postgresql_with={"autovacuum_vacuum_scale_factor": "0.01"},
)
ENTRY = [column for column in LEASES.c if column.name not in ("worker", "claimed_until")]
"""What an entry is made of; the other columns say who works on it, and until when nobody else does."""
# Written out, never as a parameter: a partial index serves a query that says the same words.
IS_OPEN = LEASES.c.closed.is_(None)
IS_CLAIMED = and_(IS_OPEN, LEASES.c.claimed_until.is_not(None))


def _open_index(name: str, *columns: Column[object], unique: bool = False) -> None:
    Index(name, *columns, unique=unique, sqlite_where=IS_OPEN, postgresql_where=IS_OPEN)


_open_index("leasehold_leases_key", LEASES.c.key, unique=True)
_open_index("leasehold_leases_due", LEASES.c.due, LEASES.c.id)
Index("leasehold_leases_claimed", LEASES.c.claimed_until, sqlite_where=IS_CLAIMED, postgresql_where=IS_CLAIMED)
Index("leasehold_leases_state", LEASES.c.state, LEASES.c.id)
Index("leasehold_leases_task", LEASES.c.task, LEASES.c.state, LEASES.c.id)


class UnknownLedger(Exception):
    """What is stored is not a ledger that this version can use."""


Step = Callable[[Connection], None]
"""Brings a ledger from one version to the next."""


def _create(connection: Connection) -> None:
    """From nothing to version 1."""
    if connection.dialect.name == "sqlite" and inspect(connection).get_table_names():
        raise UnknownLedger("is the database of something else")
    _TABLES.create_all(connection, checkfirst=False)
    connection.execute(insert(VERSION).values(version=0))


STEPS: tuple[Step, ...] = (_create,)
"""The version of a ledger is how many of these it has been through. A step, once released, is never changed."""


def version(connection: Connection) -> int:
    """The stored version; 0 where there is no ledger yet."""
    if not inspect(connection).has_table(VERSION.name):
        return 0
    rows = connection.execute(select(VERSION.c.version)).scalars().all()
    if len(rows) != 1:
        raise UnknownLedger("says nothing of its version")
    found: int = rows[0]
    return found


def migrate(connection: Connection, steps: Sequence[Step] = STEPS) -> None:
    """Bring the ledger up to date, all or nothing; in one transaction of the caller's, in which nobody else migrates.

    ``UnknownLedger`` when it is newer than ``steps``.
    """
    if connection.dialect.name == "postgresql":
        connection.execute(text("SELECT pg_advisory_xact_lock(hashtext('leasehold_ledger'))"))
    found = version(connection)
    if found > len(steps):
        raise UnknownLedger(f"has version {found}, and this is the Leasehold of version {len(steps)}")
    for step in steps[found:]:
        step(connection)
    if found < len(steps):
        connection.execute(update(VERSION).values(version=len(steps)))
