"""What is asked all the time reads no closed lease: beside a million of them it costs what it costs beside none.

The cost is counted, not timed: SQLite's steps, and the rows that PostgreSQL's EXPLAIN ANALYZE says it has read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import Engine, event

from leasehold.broker.lease.machine import OPEN, Entry, activated, ending, gone

if TYPE_CHECKING:
    from leasehold.broker.lease.store import SqlLedger
    from unit.broker.lease.conftest import Storage

NOW = 1_700_000_000.25
CLOSED = 3000
Ask = Callable[["SqlLedger"], object]

ASKED: dict[str, Ask] = {
    "claim": lambda ledger: ledger.claim(NOW + 60, 10, "a", NOW + 61),
    "next_due": lambda ledger: ledger.next_due(),
    "orphaned": lambda ledger: ledger.orphaned(NOW, NOW - 30, keep=["broker-7"]),
    "open entries": lambda ledger: ledger.entries(states=OPEN),
    "open entries of a task": lambda ledger: ledger.entries(task="one", states=OPEN),
    "page": lambda ledger: ledger.entries(after="0001000", limit=10),
    "page of a task": lambda ledger: ledger.entries(task="one", after="0001000", limit=10),
    "open_names": lambda ledger: ledger.open_names("postgres"),
    "entry": lambda ledger: ledger.entry("open-01"),
}


@pytest.fixture(scope="module", params=["sqlite", "postgres", "postgres with statistics"])
def both(
    request: pytest.FixtureRequest, make_storage: Callable[[str], Storage], intent: Callable[..., Entry]
) -> Iterator[tuple[SqlLedger, SqlLedger]]:
    """Two ledgers with the same few open leases of one task: a new one, and one with many closed leases as well.

    PostgreSQL plans otherwise once it has looked at what is there, which it does by itself one day.
    """
    storages = [make_storage(request.param.split()[0]) for _ in range(2)]
    new, used = (storage.open() for storage in storages)
    _close_many(used, intent)
    for ledger in (new, used):
        ledger.beat("broker-1", NOW)
        for number in range(40):
            entry = ledger.intend(intent(f"open-{number:02}"))
            if number % 2:
                ledger.change(entry, activated(entry, NOW + 60))
    if "statistics" in request.param:
        with _engine(used).begin() as connection:
            connection.exec_driver_sql("ANALYZE")
    yield new, used
    for storage in storages:
        storage.close()


@pytest.mark.parametrize("name", ASKED)
def test_closed_leases_cost_nothing(both: tuple[SqlLedger, SqlLedger], name: str) -> None:
    new, used = both
    at_first, later = _cost(new, ASKED[name]), _cost(used, ASKED[name])
    assert later <= 1.5 * at_first + CLOSED / 20


def test_a_question_that_reads_them_is_noticed(both: tuple[SqlLedger, SqlLedger]) -> None:
    """Counting may: nobody counts at a start."""
    new, used = both
    assert _cost(used, lambda ledger: ledger.counts()) > 10 * _cost(new, lambda ledger: ledger.counts())


def _close_many(ledger: SqlLedger, intent: Callable[..., Entry]) -> None:
    from leasehold.broker.lease.schema import ENTRY, LEASES

    revoking = ending(intent("0"), NOW)
    closed = gone(revoking, NOW)
    usual = {column.name: getattr(closed, column.name) for column in ENTRY}
    usual |= {"state": str(closed.state), "revocability": str(closed.revocability)}
    tasks = ["one"] + ["earlier"] * 299
    rows = [
        usual | {"id": f"{n:07}", "key": f"{n}", "name": f"lh_{n}", "task": tasks[n % len(tasks)]}
        for n in range(CLOSED)
    ]
    with _engine(ledger).begin() as connection:
        connection.execute(LEASES.insert(), rows)


def _cost(ledger: SqlLedger, ask: Ask) -> int:
    engine = _engine(ledger)
    if engine.dialect.name == "postgresql":
        return sum(_rows_read(plan) for plan in _plans(engine, _statements(ledger, ask)))
    with engine.connect() as connection:  # the one connection that there is
        driver: Any = connection.connection.dbapi_connection
    steps = 0

    def count() -> int:
        nonlocal steps
        steps += 1
        return 0

    driver.set_progress_handler(count, 1)
    try:
        ask(ledger)
    finally:
        driver.set_progress_handler(None, 1)
    return steps


def _plans(engine: Engine, statements: list[tuple[str, Any]]) -> Iterator[dict[str, Any]]:
    for statement, parameters in statements:
        with engine.execution_options(isolation_level="READ COMMITTED").connect() as connection:
            explained = connection.exec_driver_sql(f"EXPLAIN (ANALYZE, FORMAT JSON) {statement}", parameters)
            yield explained.scalar_one()[0]["Plan"]
            connection.rollback()


def _rows_read(plan: dict[str, Any]) -> int:
    """Rows that the plan's scans of tables and indexes have met, those included that a condition then left out."""
    below = sum(_rows_read(part) for part in plan.get("Plans", ()))
    if "Relation Name" not in plan and "Index Name" not in plan:
        return below
    met: float = plan["Actual Rows"] + plan.get("Rows Removed by Filter", 0)
    return below + int(met * plan["Actual Loops"])


def _statements(ledger: SqlLedger, ask: Ask) -> list[tuple[str, Any]]:
    """What ``ask`` sends to the database."""
    sent: list[tuple[str, Any]] = []

    def note(connection: Any, cursor: Any, statement: str, parameters: Any, *_: object) -> None:
        sent.append((statement, parameters))

    event.listen(Engine, "before_cursor_execute", note)
    try:
        ask(ledger)
    finally:
        event.remove(Engine, "before_cursor_execute", note)
    return sent


def _engine(ledger: SqlLedger) -> Engine:
    """The ledger's own."""
    engines: list[Engine] = []

    def note(connection: Any, *_: object) -> None:
        engines.append(connection.engine)

    event.listen(Engine, "before_cursor_execute", note)
    try:
        ledger.beat("nobody", NOW)
    finally:
        event.remove(Engine, "before_cursor_execute", note)
    return engines[0]
