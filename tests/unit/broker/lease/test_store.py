"""The ledger, the same on both databases: what was written is there, once, and nobody works on it twice."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from dataclasses import replace
from itertools import chain
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import Connection, Engine, event

from leasehold.broker.lease.machine import (
    OPEN,
    Entry,
    IllegalChange,
    Revocability,
    State,
    activated,
    ending,
    failed,
    gone,
    lapsed,
    renewed,
)
from leasehold.broker.lease.ports import StaleEntry
from leasehold.broker.lease.schema import STEPS, UnknownLedger, migrate, version
from leasehold.broker.lease.store import SqlLedger
from leasehold.core.errors import LedgerError

if TYPE_CHECKING:
    from unit.broker.lease.conftest import Storage

Intent = Callable[..., Entry]
NOW = 1_700_000_000.25


def brought_to(ledger: SqlLedger, entry: Entry, state: State) -> Entry:
    """A stored intent or active lease, changed step by step until it is in ``state``."""
    path: list[Callable[[Entry], Entry]] = [lambda e: activated(e, NOW + 800), lambda e: ending(e, NOW)]
    path = path[1:] if entry.state is State.ACTIVE else path
    if state is State.QUARANTINED:
        path += [lambda e: failed(e, NOW, "no answer")] * 5
    path += [lambda e: gone(e, NOW + 900) if state is State.REVOKED else lapsed(e, e.expires)]
    while entry.state is not state:
        after = path.pop(0)(entry)
        ledger.change(entry, after)
        entry = after
    return entry


def test_what_was_written_is_there_as_it_was(ledger: SqlLedger, storage: Storage, intent: Intent) -> None:
    entry = intent("1", revocability=Revocability.TTL_ONLY, due=NOW + 1 / 3)
    assert ledger.intend(entry) == entry
    assert ledger.entry("1") == entry
    revoking = ending(entry, NOW)
    ledger.change(entry, revoking)
    after = failed(revoking, NOW, "kein Anschluß: '; DROP TABLE leases")
    ledger.change(revoking, after)
    ledger.close()
    again = storage.open()
    found = again.entry("1")
    assert found == after and json.dumps(found.due) == json.dumps(after.due)
    assert again.entry("2") is None


def test_a_repeated_intent_is_the_same_lease_while_it_is_open(ledger: SqlLedger, intent: Intent) -> None:
    first = ledger.intend(intent("1", key="k"))
    assert ledger.intend(intent("1", key="k")) == first
    assert ledger.intend(intent("2", key="k")) == first
    active = brought_to(ledger, first, State.ACTIVE)
    assert ledger.intend(intent("3", key="k")) == active
    brought_to(ledger, active, State.REVOKING)
    assert ledger.intend(intent("4", key="k")).id == "1"
    assert [entry.id for entry in ledger.entries()] == ["1"]
    revoking = ledger.entry("1")
    assert revoking is not None
    ledger.change(revoking, gone(revoking, NOW))
    assert ledger.intend(intent("5", key="k")).id == "5"
    assert [entry.id for entry in ledger.entries()] == ["1", "5"]


def test_brokers_that_intend_the_same_at_once_share_one_lease(storage: Storage, intent: Intent) -> None:
    ledgers = [storage.open() for _ in range(4)]
    ready = threading.Barrier(4)
    got: list[str] = []

    def ask(number: int) -> None:
        for round_ in range(5):
            ready.wait(30)
            got.append(ledgers[number].intend(intent(f"{round_}-{number}", key=f"k{round_}")).id)

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(got) == 20 and len(set(got)) == 5
    assert {entry.id for entry in ledgers[0].entries()} == set(got)


@pytest.mark.parametrize("state", [State.INTENDED, State.REVOKED])
def test_no_id_and_no_name_is_used_twice(ledger: SqlLedger, intent: Intent, state: State) -> None:
    brought_to(ledger, ledger.intend(intent("1")), state)
    for again in (intent("1", key="other", name="lh_other"), intent("2", key="other", name="lh_1")):
        with pytest.raises(LedgerError, match="refuses what no lease may be"):
            ledger.intend(again)
    assert ledger.intend(intent("2")).id == "2"


def test_what_has_ended_is_not_open(ledger: SqlLedger, intent: Intent) -> None:
    """The database itself holds that the two ways to say so agree."""
    with pytest.raises(LedgerError, match="refuses what no lease may be"):
        ledger.intend(intent("1", state=State.REVOKED))
    with pytest.raises(LedgerError, match="refuses what no lease may be"):
        ledger.intend(intent("1", closed=NOW))
    assert ledger.intend(intent("1")).id == "1"


def test_a_stale_copy_changes_nothing(ledger: SqlLedger, storage: Storage, intent: Intent) -> None:
    entry = ledger.intend(intent("1"))
    other = storage.open()
    active = activated(entry, NOW + 800)
    other.change(entry, active)
    with pytest.raises(StaleEntry, match="1 is not as it was in epoch 1"):
        ledger.change(entry, ending(entry, NOW))
    with pytest.raises(StaleEntry):
        ledger.change(replace(active, id="none"), replace(renewed(active, NOW + 900), id="none"))
    assert ledger.entry("1") == active
    ledger.change(active, renewed(active, NOW + 1000))


@pytest.mark.parametrize(
    "wrong", [{"id": "2"}, {"name": "lh_2"}, {"recipe": b""}, {"owner": "other"}, {"epoch": 2}, {"epoch": 0}], ids=str
)
def test_a_change_leaves_the_lease_what_it_is(ledger: SqlLedger, intent: Intent, wrong: dict[str, Any]) -> None:
    intended = ledger.intend(intent("1"))
    entry = activated(intended, NOW, b"with what the provider said")
    ledger.change(intended, entry)
    with pytest.raises(IllegalChange, match="1 would become another lease"):
        ledger.change(entry, replace(ending(entry, NOW), **wrong))
    assert ledger.entry("1") == entry


def test_what_is_due_is_claimed_soonest_first_and_by_one(ledger: SqlLedger, storage: Storage, intent: Intent) -> None:
    for number, due in (("1", 30), ("2", 10), ("3", 20), ("4", 40.5), ("5", 10)):
        ledger.intend(intent(number, due=NOW + due))
    brought_to(ledger, ledger.intend(intent("6")), State.REVOKED)
    assert ledger.claim(NOW + 9, 10, "a", NOW + 100) == []
    first = ledger.claim(NOW + 40, 3, "a", NOW + 100)
    assert [entry.id for entry in first] == ["2", "5", "3"]
    assert first[0] == ledger.entry("2")
    other = storage.open()
    assert [entry.id for entry in other.claim(NOW + 40, 3, "b", NOW + 90)] == ["1"]
    assert ledger.claim(NOW + 40, 3, "a", NOW + 100) == []
    late = ledger.claim(NOW + 99, 9, "c", NOW + 200)
    assert [entry.id for entry in late] == ["1", "4"]
    assert [entry.id for entry in ledger.claim(NOW + 100, 9, "c", NOW + 200)] == ["2", "5", "3"]


def test_workers_at_once_never_get_the_same(storage: Storage, intent: Intent) -> None:
    ledgers = [storage.open() for _ in range(4)]
    for number in range(120):
        ledgers[0].intend(intent(f"{number:03}", due=NOW))
    got: list[list[str]] = [[] for _ in ledgers]
    ready = threading.Barrier(4)

    def work(number: int) -> None:
        ready.wait(30)
        while claimed := ledgers[number].claim(NOW, 7, f"worker-{number}", NOW + 60):
            assert len(claimed) <= 7
            got[number] += [entry.id for entry in claimed]

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(chain.from_iterable(got)) == [f"{number:03}" for number in range(120)]


def test_a_claim_outlasts_the_change_to_revoking_and_no_other(ledger: SqlLedger, intent: Intent) -> None:
    ledger.intend(intent("1", due=NOW))
    (claimed,) = ledger.claim(NOW, 9, "a", NOW + 60)
    revoking = ending(claimed, NOW)
    ledger.change(claimed, revoking)
    assert ledger.claim(NOW + 59, 9, "b", NOW + 100) == []
    ledger.change(revoking, failed(revoking, NOW, "no answer"))
    assert ledger.claim(NOW + 0.5, 9, "b", NOW + 100) == []
    assert [entry.attempts for entry in ledger.claim(NOW + 1, 9, "b", NOW + 100)] == [1]


def test_what_begins_to_end_is_free_when_nobody_had_claimed_it(ledger: SqlLedger, intent: Intent) -> None:
    active = brought_to(ledger, ledger.intend(intent("1")), State.ACTIVE)
    assert ledger.claim(NOW, 9, "a", NOW + 60) == []
    ledger.change(active, ending(active, NOW))
    assert [entry.id for entry in ledger.claim(NOW, 9, "a", NOW + 60)] == ["1"]


def test_entries_come_in_the_order_of_their_ids_page_by_page(ledger: SqlLedger, intent: Intent) -> None:
    names = sorted(["b", "B", "a", "_", "~", "10", "9", "é"])
    for name in reversed(names):
        ledger.intend(intent(name))
    assert [entry.id for entry in ledger.entries()] == names
    pages, after = [], ""
    while page := ledger.entries(after=after, limit=3):
        pages.append([entry.id for entry in page])
        after = page[-1].id
    assert pages == [names[:3], names[3:6], names[6:]]


def test_entries_can_be_asked_for_by_task_and_state(ledger: SqlLedger, intent: Intent) -> None:
    stored = {}
    for task in ("one", "two"):
        for state in State:
            entry = ledger.intend(intent(f"{task}-{state}", task=task))
            stored[task, state] = brought_to(ledger, entry, state).id
    assert {entry.id for entry in ledger.entries()} == set(stored.values())
    assert {entry.id for entry in ledger.entries(task="two")} == {stored["two", state] for state in State}
    opened = ledger.entries(task="one", states=OPEN)
    assert [entry.id for entry in opened] == sorted(stored["one", state] for state in OPEN)
    assert [entry.id for entry in ledger.entries(states=[State.EXPIRED])] == ["one-expired", "two-expired"]
    assert ledger.entries(task="three") == []
    assert ledger.counts() == dict.fromkeys(State, 2)


def test_names_are_open_ones_of_one_issuer(ledger: SqlLedger, intent: Intent) -> None:
    brought_to(ledger, ledger.intend(intent("1")), State.REVOKED)
    brought_to(ledger, ledger.intend(intent("2")), State.QUARANTINED)
    ledger.intend(intent("3"))
    ledger.intend(intent("4", issuer="redis"))
    assert ledger.open_names("postgres") == {"lh_2", "lh_3"}
    assert ledger.open_names("mysql") == frozenset()
    assert ledger.counts() == dict.fromkeys(State, 0) | {State.REVOKED: 1, State.QUARANTINED: 1, State.INTENDED: 2}


def test_the_next_to_be_due_is_known(ledger: SqlLedger, intent: Intent) -> None:
    assert ledger.next_due() is None
    brought_to(ledger, ledger.intend(intent("1", due=NOW)), State.REVOKED)
    assert ledger.next_due() is None
    ledger.intend(intent("2", due=NOW + 5))
    ledger.intend(intent("3", due=NOW + 9))
    assert ledger.next_due() == NOW + 5
    (claimed,) = ledger.claim(NOW + 5, 9, "a", NOW + 8)
    assert ledger.next_due() == NOW + 8
    ledger.change(claimed, ending(claimed, NOW + 20))
    assert ledger.next_due() == NOW + 9


def test_leases_of_a_broker_that_is_gone_become_due(ledger: SqlLedger, intent: Intent) -> None:
    ledger.beat("alive", NOW - 100)
    ledger.beat("alive", NOW)
    ledger.beat("dead", NOW - 100)
    ledger.beat("kept", NOW - 100)
    before = {}
    for owner in ("alive", "dead", "kept", "never"):
        before[owner] = brought_to(ledger, ledger.intend(intent(owner, owner=owner)), State.ACTIVE)
        ledger.intend(intent(f"{owner}-intent", owner=owner))
        brought_to(ledger, ledger.intend(intent(f"{owner}-ended", owner=owner)), State.REVOKED)
    assert ledger.orphaned(NOW, NOW, keep=["kept"]) == 2
    assert ledger.orphaned(NOW, NOW, keep=["kept"]) == 0
    assert [entry.id for entry in ledger.claim(NOW, 9, "a", NOW + 60)] == ["dead", "never"]
    for owner in ("alive", "kept"):
        assert ledger.entry(owner) == before[owner]
    # One of them was only slow: what it holds is old, and tells it so.
    with pytest.raises(StaleEntry):
        ledger.change(before["dead"], renewed(before["dead"], NOW + 1800))
    assert ledger.entry("dead") == replace(before["dead"], due=NOW, epoch=before["dead"].epoch + 1)
    assert ledger.orphaned(NOW, NOW) == 1


def test_a_closed_ledger_says_so(ledger: SqlLedger, intent: Intent) -> None:
    ledger.intend(intent("1"))
    ledger.close()
    ledger.close()
    with pytest.raises(LedgerError, match="is closed"):
        ledger.entries()


def test_an_error_tells_the_storage_and_no_value(ledger: SqlLedger, intent: Intent) -> None:
    ledger.intend(intent("1", recipe=b"hush-hush", error="hush-hush"))
    for wrong in (intent("1", key="hush-hush", recipe=b"hush-hush"), intent("2", epoch="hush-hush")):
        with pytest.raises(LedgerError, match=r"the ledger .*(ledger\.db|127\.0\.0\.1)") as raised:
            ledger.intend(wrong)
        assert "hush" not in str(raised.value) + raised.value.hint
        assert raised.value.__context__ is None and raised.value.__cause__ is None


def test_a_row_that_nobody_wrote_is_an_error(ledger: SqlLedger, intent: Intent) -> None:
    ledger.intend(intent("1"))
    edited(ledger, "UPDATE leasehold_leases SET revocability = 'perhaps'")
    with pytest.raises(LedgerError, match="cannot be used: ValueError"):
        ledger.entry("1")


def test_a_ledger_of_a_newer_version_is_left_alone(ledger: SqlLedger, storage: Storage, intent: Intent) -> None:
    ledger.intend(intent("1"))
    edited(ledger, "UPDATE leasehold_ledger SET version = 7")
    with pytest.raises(LedgerError, match=r"the ledger .* has version 7, and this is the Leasehold of version 1"):
        storage.open()
    edited(ledger, "DELETE FROM leasehold_ledger")
    with pytest.raises(LedgerError, match="says nothing of its version"):
        storage.open()
    edited(ledger, "INSERT INTO leasehold_ledger VALUES (1)")
    assert storage.open().entry("1") is not None


def test_brokers_that_start_at_once_make_one_ledger(make_storage: Callable[[str], Storage], storage: Storage) -> None:
    for _ in range(5):
        fresh = make_storage(storage.kind)
        ready = threading.Barrier(4)
        versions: list[int] = []

        def start(fresh: Storage, ready: threading.Barrier, versions: list[int]) -> None:
            ready.wait(30)
            versions.append(with_connection(fresh.open(), version))

        threads = [threading.Thread(target=start, args=(fresh, ready, versions)) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        fresh.close()
        assert versions == [1] * 4


def test_an_older_ledger_is_brought_up_to_date_step_by_step(ledger: SqlLedger, intent: Intent) -> None:
    ledger.intend(intent("1"))
    done: list[str] = []

    def second(connection: Connection) -> None:
        connection.exec_driver_sql("ALTER TABLE leasehold_beats ADD COLUMN host TEXT")
        done.append("second")

    steps = (*STEPS, second, lambda _: done.append("third"))
    with_connection(ledger, lambda c: migrate(c, steps))
    assert done == ["second", "third"]
    with_connection(ledger, lambda c: migrate(c, steps))
    assert (done, with_connection(ledger, version)) == (["second", "third"], 3)
    with pytest.raises(UnknownLedger, match="has version 3, and this is the Leasehold of version 1"):
        with_connection(ledger, migrate)
    assert ledger.entry("1") == intent("1")


def with_connection(ledger: SqlLedger, work: Callable[[Connection], Any]) -> Any:
    """Do ``work`` in a transaction of the ledger's own engine."""
    engines: list[Engine] = []

    def note(connection: Connection, *_: object) -> None:
        engines.append(connection.engine)

    event.listen(Engine, "before_cursor_execute", note)
    try:
        ledger.beat("nobody", NOW)
    finally:
        event.remove(Engine, "before_cursor_execute", note)
    with engines[0].begin() as connection:
        return work(connection)


def edited(ledger: SqlLedger, statement: str) -> None:
    """Do to the storage what the ledger never does."""
    with_connection(ledger, lambda c: c.exec_driver_sql(statement))
