"""The ledger: what may be live anywhere, durable before anything exists (DESIGN 6).

The same tables and statements on both databases: a file of SQLite for one broker, PostgreSQL for several. Each method
is one statement, so that none can be half done. Error messages say which storage and which condition; they carry
neither statements nor values.
"""

from __future__ import annotations

import enum
import fcntl
import os
import select as polling
import sqlite3
import stat
import threading
import time
from collections.abc import Callable, Collection, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import fields, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import quote

from sqlalchemy import (
    BindParameter,
    ColumnElement,
    Connection,
    Engine,
    Row,
    Select,
    bindparam,
    case,
    create_engine,
    event,
    func,
    literal_column,
    select,
    union_all,
    update,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import IntegrityError, SQLAlchemyError
from sqlalchemy.pool import StaticPool

from leasehold.broker.lease.machine import Entry, IllegalChange, Revocability, State
from leasehold.broker.lease.ports import StaleEntry
from leasehold.broker.lease.schema import (
    BEATS,
    ENTRY,
    IS_CLAIMED,
    IS_OPEN,
    LEASES,
    UnknownLedger,
    migrate,
)
from leasehold.broker.vault.keys import sync_folder
from leasehold.core.errors import LedgerError
from leasehold.core.secret import Secret

if TYPE_CHECKING:
    import psycopg

T = TypeVar("T")
FILE = "ledger.db"
_FIELDS = tuple(field.name for field in fields(Entry))
_CHANGING = ("state", "epoch", "expires", "due", "closed", "attempts", "error")
_KEPT = tuple(name for name in _FIELDS if name not in _CHANGING)
_DEFECT = "this is a defect in Leasehold; please report it"
_BUSY_S = 10.0
_CHANNEL = "leasehold_ledger"
_LIBPQ = {
    "sslmode": "verify-full",
    "connect_timeout": "10",
    "tcp_user_timeout": "30000",
    "application_name": "leasehold ledger",
}
"""Unless the address says otherwise."""
_SESSION = """
SELECT set_config('statement_timeout', '30s', false),
       set_config('default_transaction_isolation', 'read committed', false),
       CASE current_setting('synchronous_commit') WHEN 'off' THEN set_config('synchronous_commit', 'on', false) END
"""


class SqlLedger:
    """What both databases have in common; see :class:`~leasehold.broker.lease.ports.Ledger`. Any thread may call it."""

    def __init__(self, engine: Engine, where: str, hint: str, lock: AbstractContextManager[object]) -> None:
        self._engine = engine
        self._where = where
        self._hint = hint
        self._lock = lock
        self._closed = False
        self._reading = self._writing = engine
        self._insert: Any = postgresql.insert
        if engine.dialect.name == "sqlite":
            self._writing = engine.execution_options(immediate=True)
            self._insert = sqlite.insert
        intending = self._insert(LEASES)
        same_key = {"index_elements": [LEASES.c.key], "index_where": IS_OPEN}
        # Changes nothing, and so gives the row that is there, which cannot close before it is read.
        intending = intending.on_conflict_do_update(**same_key, set_={"key": intending.excluded.key})
        # Built once: that takes longer than SQLite takes to do it.
        self._intending = intending.returning(*ENTRY)
        there = update(LEASES).where(LEASES.c.id == bindparam("its_id"), LEASES.c.epoch == bindparam("its_epoch"))
        self._changing = there.returning(LEASES.c.id)
        self._hurrying = there.returning(LEASES.c.id, self._told())

    def intend(self, entry: Entry) -> Entry:
        """See :meth:`Ledger.intend`. ``LedgerError`` also when its id or name was used before, by whatever lease."""
        return self._write(lambda c: _entry(c.execute(self._intending, _values(entry)).one()))

    def change(self, before: Entry, after: Entry) -> None:
        """See :meth:`Ledger.change`. Whoever has claimed it keeps it while it begins to end, and no longer."""
        values = _values(after, _CHANGING)
        if after.recipe != before.recipe and before.state is State.INTENDED:
            values["recipe"] = after.recipe  # what the provider said comes with its answer, and is never changed again
            before = replace(before, recipe=after.recipe)
        if _values(after, _KEPT) != _values(before, _KEPT) or after.epoch <= before.epoch:
            raise IllegalChange(f"{before.id} would become another lease")
        if not (after.state is State.REVOKING and before.state in (State.INTENDED, State.ACTIVE)):
            values |= {"worker": None, "claimed_until": None}
        # Others may sleep until the time that it was due before.
        statement = self._hurrying if after.closed is None and after.due < before.due else self._changing
        values |= {"its_id": before.id, "its_epoch": before.epoch}
        if self._write(lambda c: c.execute(statement, values).first()) is None:
            raise StaleEntry(f"{before.id} is not as it was in epoch {before.epoch}")

    def claim(self, now: float, limit: int, worker: str, until: float) -> Sequence[Entry]:
        """See :meth:`Ledger.claim`."""
        free = LEASES.c.claimed_until.is_(None) | (LEASES.c.claimed_until <= now)
        due = (
            select(LEASES.c.id)
            .where(IS_OPEN, LEASES.c.due <= now, free)
            .order_by(LEASES.c.due, LEASES.c.id)
            .limit(limit)
            .with_for_update(skip_locked=True)
            .cte("due")
        )
        statement = (
            update(LEASES)
            .where(LEASES.c.id.in_(select(due.c.id)))
            .values(worker=worker, claimed_until=until)
            .returning(*ENTRY)
        )
        claimed = self._write(lambda c: [_entry(row) for row in c.execute(statement)])
        return sorted(claimed, key=lambda entry: (entry.due, entry.id))

    def entry(self, entry_id: str) -> Entry | None:
        """See :meth:`Ledger.entry`."""
        statement = select(*ENTRY).where(LEASES.c.id == entry_id)
        row = self._read(lambda c: [_entry(row) for row in c.execute(statement)])
        return row[0] if row else None

    def entries(
        self, *, task: str = "", states: Collection[State] = (), after: str = "", limit: int = 100
    ) -> Sequence[Entry]:
        """See :meth:`Ledger.entries`."""
        asked = {f"state{number}": str(state) for number, state in enumerate(states or State)}
        values = asked | {"task": task, "after": after, "limit": limit}
        statement = _page(len(asked), of_task=bool(task))
        return self._read(lambda c: [_entry(row) for row in c.execute(statement, values)])

    def open_names(self, issuer: str) -> Collection[str]:
        """See :meth:`Ledger.open_names`."""
        statement = select(LEASES.c.name).where(IS_OPEN, LEASES.c.issuer == issuer)
        return self._read(lambda c: frozenset(c.execute(statement).scalars()))

    def counts(self) -> dict[State, int]:
        """See :meth:`Ledger.counts`. Reads an index of all leases, closed ones too: nothing for a start."""
        statement = select(LEASES.c.state, func.count()).group_by(LEASES.c.state)
        found = self._read(lambda c: {State(state): count for state, count in c.execute(statement)})
        return {state: found.get(state, 0) for state in State}

    def next_due(self) -> float | None:
        """See :meth:`Ledger.next_due`; of one that is claimed, the end of the claim where that is later."""
        due, until = LEASES.c.due, LEASES.c.claimed_until
        free = select(due.label("at")).where(IS_OPEN, until.is_(None)).order_by(due).limit(1).subquery()
        taken = select(func.min(case((due > until, due), else_=until)).label("at")).where(IS_CLAIMED)
        both = union_all(select(free.c.at), taken).subquery()
        statement = select(func.min(both.c.at))
        at: float | None = self._read(lambda c: c.execute(statement).scalar_one())
        return at

    def beat(self, owner: str, now: float) -> None:
        """See :meth:`Ledger.beat`."""
        statement = self._insert(BEATS).values(owner=owner, at=now)
        again = statement.on_conflict_do_update(index_elements=[BEATS.c.owner], set_={"at": now})
        self._write(lambda c: c.execute(again))

    def orphaned(self, now: float, dead_since: float, *, keep: Collection[str] = ()) -> int:
        """See :meth:`Ledger.orphaned`."""
        alive = select(BEATS.c.owner).where(BEATS.c.at >= dead_since)
        active = LEASES.c.state == str(State.ACTIVE)
        statement = (
            update(LEASES)
            .where(active, LEASES.c.due > now, LEASES.c.owner.not_in(alive), LEASES.c.owner.not_in(sorted(keep)))
            .values(due=now, epoch=LEASES.c.epoch + 1)
            .returning(LEASES.c.id, self._told())
        )
        return self._write(lambda c: len(c.execute(statement).all()))

    def close(self) -> None:
        """See :meth:`Ledger.close`."""
        with self._lock:
            self._closed = True
            self._engine.dispose()

    def _bring_up_to_date(self, engine: Engine) -> None:
        try:
            self._ask(migrate, engine)
        except LedgerError:
            self.close()
            raise

    def _told(self) -> ColumnElement[Any]:
        """Tells other brokers to look, for each row of a statement that returns it; nothing where there are none."""
        return literal_column("0")

    def _check(self) -> None:
        """``UnknownLedger`` when the storage is not, or no more, the one that was opened."""
        if self._closed:
            raise UnknownLedger("is closed")

    def _read(self, work: Callable[[Connection], T]) -> T:
        return self._ask(work, self._reading)

    def _write(self, work: Callable[[Connection], T]) -> T:
        return self._ask(work, self._writing)

    def _ask(self, work: Callable[[Connection], T], engine: Engine) -> T:
        try:
            with self._lock:
                self._check()
                with engine.begin() as connection:
                    return work(connection)
        except UnknownLedger as e:
            failure = LedgerError(f"{self._where} {e}", hint=self._hint)
        except IntegrityError as e:
            failure = LedgerError(f"{self._where} refuses what no lease may be: {_condition(e)}", hint=_DEFECT)
        except (SQLAlchemyError, ValueError) as e:
            failure = LedgerError(f"{self._where} cannot be used: {_condition(e)}", hint=self._hint)
        # Behind the except blocks: the original knows the statement, its values and how to connect.
        raise failure


class SqliteLedger(SqlLedger):
    """The ledger of one broker: ``ledger.db`` in ``folder``, which is a folder of the caller alone.

    A write returns when the disk has it. One connection, used by one thread at a time.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / FILE
        self._file = (0, 0)
        where = f"the ledger {self._path}"
        hint = "make room on its disk, or restore it from a backup; nothing is issued until then"
        problem = self._prepare()
        if problem:
            raise LedgerError(f"{where} {problem}", hint=hint)
        engine = create_engine("sqlite://", creator=self._connect, poolclass=StaticPool, hide_parameters=True)
        event.listen(engine, "begin", _begin)
        super().__init__(engine, where, hint, threading.Lock())
        self._bring_up_to_date(self._writing)

    def _prepare(self) -> str:
        """Make the file where there is none. Never opens one that is there: closing it would end SQLite's locks."""
        try:
            try:
                os.close(os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
                sync_folder(self._path.parent)
            except FileExistsError:
                pass
            info = self._path.lstat()
        except OSError as e:
            return f"cannot be opened: {e.strerror}"
        self._file = (info.st_dev, info.st_ino)
        ours = stat.S_ISREG(info.st_mode) and info.st_uid == os.geteuid() and not info.st_mode & 0o077
        return "" if ours else f"must be a file that only uid {os.geteuid()} may read"

    def _connect(self) -> sqlite3.Connection:
        where = f"file:{quote(os.fspath(self._path))}?mode=rw"
        connection = sqlite3.connect(where, uri=True, timeout=_BUSY_S, isolation_level=None, check_same_thread=False)
        # One after the other: nobody waits for his turn when the first makes the journal a write-ahead log.
        folder = os.open(self._path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(folder, fcntl.LOCK_EX)
            for setting in ("journal_mode = WAL", "synchronous = FULL", "foreign_keys = ON", "trusted_schema = OFF"):
                connection.execute(f"PRAGMA {setting}")
        except sqlite3.Error:
            connection.close()
            raise
        finally:
            os.close(folder)
        return connection

    def _check(self) -> None:
        super()._check()
        try:
            info = self._path.lstat()
        except OSError:
            info = None
        if info is None or (info.st_dev, info.st_ino) != self._file:
            raise UnknownLedger("was taken away while it was in use")


class PostgresLedger(SqlLedger):
    """The ledger that several brokers share. ``url``: ``postgresql://…`` of libpq, a secret for its password.

    The server is verified unless the address says otherwise.
    """

    def __init__(self, url: Secret) -> None:
        from psycopg import ProgrammingError
        from psycopg.conninfo import conninfo_to_dict, make_conninfo

        hint = "is the server up, and may this user work there? nothing is issued until then"
        asked: dict[str, str] = {}
        with suppress(ProgrammingError, ValueError):
            address = url.reveal().decode()
            if address.startswith("postgresql://"):
                asked = _LIBPQ | {key: str(value) for key, value in conninfo_to_dict(address).items()}
        if not asked:
            raise LedgerError("the ledger's address is none of PostgreSQL's", hint="postgresql://user@host/database")
        self._conninfo = Secret(make_conninfo(**asked).encode())
        self._listening: psycopg.Connection | None = None
        self._one_waits = threading.Lock()
        self._woken, self._wake = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        engine = create_engine(
            "postgresql+psycopg://",
            creator=self._connect,
            isolation_level="AUTOCOMMIT",
            pool_pre_ping=True,
            hide_parameters=True,
        )
        where = f"the ledger at {asked.get('host')}:{asked.get('port')}/{asked.get('dbname')}"
        super().__init__(engine, where, hint, nullcontext())
        self._bring_up_to_date(engine.execution_options(isolation_level="READ COMMITTED"))

    def wait(self, timeout_s: float) -> bool:
        """Until another broker has made something due sooner, or ``close``; whether it is worth a look.

        It is when the connection is new, as what was said before was said to nobody. One thread waits at a time.
        """
        from psycopg import Error

        try:
            with self._one_waits:
                return self._listen(timeout_s)
        except Error as e:
            condition = _condition(e)
        raise LedgerError(f"{self._where} cannot be listened to: {condition}", hint=self._hint)

    def close(self) -> None:
        """See :meth:`Ledger.close`. Ends a ``wait`` too."""
        super().close()
        os.write(self._wake, b"\0")
        with self._one_waits:
            self._hang_up()

    def _listen(self, timeout_s: float) -> bool:
        if self._closed:
            return False
        if self._listening is None:
            self._listening = self._connect()
            self._listening.execute(f"LISTEN {_CHANNEL}")
            return True
        try:
            poll = polling.poll()
            poll.register(self._listening.fileno(), polling.POLLIN)
            poll.register(self._woken, polling.POLLIN)
            until = time.monotonic() + timeout_s
            while True:
                ready = poll.poll(max(0.0, until - time.monotonic()) * 1000)
                if list(self._listening.notifies(timeout=0)):
                    return True
                if not ready or self._closed:
                    return False
        except BaseException:
            self._hang_up()
            raise

    def _hang_up(self) -> None:
        if self._listening is not None:
            self._listening.close()
            self._listening = None

    def _connect(self) -> psycopg.Connection:
        import psycopg

        connection = psycopg.connect(self._conninfo.reveal().decode(), autocommit=True)
        connection.execute(_SESSION)
        return connection

    def _told(self) -> ColumnElement[Any]:
        return func.pg_notify(_CHANNEL, "")


def _begin(connection: Connection) -> None:
    """Who will write waits for its turn at once, instead of failing in the middle."""
    immediate = connection.get_execution_options().get("immediate", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if immediate else "BEGIN")


@cache
def _page(states: int, *, of_task: bool) -> Select[Any]:
    """Entries in the order of their ids: each state on its own, as the index has them, and all in one statement."""
    limit: BindParameter[int] = bindparam("limit")
    parts = []
    for number in range(states):
        part = select(*ENTRY).where(LEASES.c.state == bindparam(f"state{number}"), LEASES.c.id > bindparam("after"))
        part = part.where(LEASES.c.task == bindparam("task")) if of_task else part
        parts.append(select(part.order_by(LEASES.c.id).limit(limit).subquery()))
    found = union_all(*parts).subquery()
    return select(found).order_by(found.c.id).limit(limit)


def _values(entry: Entry, names: Sequence[str] = _FIELDS) -> dict[str, Any]:
    """As both drivers take it: an enumeration's value is text."""
    found = {name: getattr(entry, name) for name in names}
    return {name: str(value) if isinstance(value, enum.Enum) else value for name, value in found.items()}


def _entry(row: Row[Any]) -> Entry:
    values = row._asdict()
    values["state"] = State(values["state"])
    values["revocability"] = Revocability(values["revocability"])
    # Whole numbers come as such from what an update of SQLite's returns.
    times = {name: values[name] for name in ("created", "expires", "due", "closed")}
    return Entry(**values | {name: None if at is None else float(at) for name, at in times.items()})


def _condition(e: Exception) -> str:
    """The database's own name of what is wrong; its words could hold values."""
    cause = getattr(e, "orig", None) or e
    code = getattr(cause, "sqlite_errorname", None) or getattr(cause, "sqlstate", None)
    return f"{type(cause).__name__} {code}" if code else type(cause).__name__
