"""The real ledger against a plain model: two workers with stale copies, repeated intents, and clocks that jump."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, multiple, rule, run_state_machine_as_test

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
    waiting,
)
from leasehold.broker.lease.ports import Ledger, StaleEntry
from leasehold.core.errors import LedgerError

if TYPE_CHECKING:
    from unit.broker.lease.conftest import Storage

NOW = 1_700_000_000.0
CLAIM_S = 60.0


class Model(Ledger):
    """What a ledger is, with no thought to speed, durability or company."""

    def __init__(self) -> None:
        self.rows: dict[str, Entry] = {}
        self.claims: dict[str, float] = {}
        self.beats: dict[str, float] = {}

    def _open(self) -> list[Entry]:
        found = [entry for entry in self.rows.values() if entry.state in OPEN]
        return sorted(found, key=lambda entry: (entry.due, entry.id))

    def intend(self, entry: Entry) -> Entry:
        for there in self._open():
            if there.key == entry.key:
                return there
        if any(entry.id == there.id or entry.name == there.name for there in self.rows.values()):
            raise LedgerError("used before", hint="")
        self.rows[entry.id] = entry
        return entry

    def change(self, before: Entry, after: Entry) -> None:
        if self.rows[before.id].epoch != before.epoch:
            raise StaleEntry
        self.rows[before.id] = after
        if after.state is not State.REVOKING or before.state not in (State.INTENDED, State.ACTIVE):
            self.claims.pop(before.id, None)

    def claim(self, now: float, limit: int, worker: str, until: float) -> Sequence[Entry]:
        due = [entry for entry in self._open() if entry.due <= now and self.claims.get(entry.id, now) <= now]
        self.claims |= {entry.id: until for entry in due[:limit]}
        return due[:limit]

    def entry(self, entry_id: str) -> Entry | None:
        return self.rows.get(entry_id)

    def entries(
        self, *, task: str = "", states: Collection[State] = (), after: str = "", limit: int = 100
    ) -> Sequence[Entry]:
        found = [entry for entry in self.rows.values() if entry.id > after and task in ("", entry.task)]
        chosen = [entry for entry in found if not states or entry.state in states]
        return sorted(chosen, key=lambda entry: entry.id)[:limit]

    def open_names(self, issuer: str) -> Collection[str]:
        return {entry.name for entry in self._open() if entry.issuer == issuer}

    def counts(self) -> dict[State, int]:
        return {state: len(self.entries(states=[state], limit=10_000)) for state in State}

    def next_due(self) -> float | None:
        return min((max(entry.due, self.claims.get(entry.id, entry.due)) for entry in self._open()), default=None)

    def beat(self, owner: str, now: float) -> None:
        self.beats[owner] = now

    def orphaned(self, now: float, dead_since: float, *, keep: Collection[str] = ()) -> int:
        alive = {owner for owner, at in self.beats.items() if at >= dead_since} | set(keep)
        over = [
            entry
            for entry in self.rows.values()
            if entry.state is State.ACTIVE and entry.due > now and entry.owner not in alive
        ]
        self.rows |= {entry.id: replace(entry, due=now, epoch=entry.epoch + 1) for entry in over}
        return len(over)

    def close(self) -> None:
        self.rows.clear()


CHANGES: dict[str, Callable[[Entry, float], Entry]] = {
    "activated": lambda entry, now: activated(entry, now + 90),
    "activated, and told": lambda entry, now: activated(entry, now + 90, b"told"),
    "renewed": lambda entry, now: renewed(entry, now + 120),
    "ending": ending,
    "gone": gone,
    "lapsed": lambda entry, now: lapsed(entry, now),
    "waiting": lambda entry, now: waiting(entry),
    "failed": lambda entry, now: failed(entry, now, "no answer"),
}


def outcome(ask: Callable[[], object]) -> object:
    """What came, or what kind of refusal."""
    try:
        return ask()
    except (LedgerError, StaleEntry) as e:
        return type(e)


class Workers(RuleBasedStateMachine):
    """Both workers do to the real ledger, each through its own, what is done to the model."""

    copies = Bundle("copies")
    workers = st.integers(0, 1)
    owners = st.sampled_from(["broker-1", "broker-2"])

    def __init__(self, storage: Storage) -> None:
        super().__init__()
        self.storage = storage
        self.ledgers = [storage.open(), storage.open()]
        self.model = Model()
        self.now = NOW
        self.made = 0

    def teardown(self) -> None:
        for ledger in (self.model, self.ledgers[0]):
            while claimed := ledger.claim(NOW + 1e9, 7, "last", NOW + 1e9):
                for entry in claimed:
                    over = entry if entry.state not in (State.INTENDED, State.ACTIVE) else ending(entry, NOW)
                    if over is not entry:
                        ledger.change(entry, over)
                    ledger.change(over, gone(over, NOW + 1e9))
            assert ledger.next_due() is None and ledger.open_names("postgres") == set()
        self.same(lambda ledger: ledger.entries(limit=1000))
        self.storage.close()

    def same(self, ask: Callable[[Ledger], object], worker: int = 0) -> object:
        expected = outcome(lambda: ask(self.model))
        assert outcome(lambda: ask(self.ledgers[worker])) == expected
        return expected

    @rule(
        target=copies,
        worker=workers,
        owner=owners,
        key=st.integers(0, 3),
        task=st.sampled_from(["one", "two"]),
        revocability=st.sampled_from([Revocability.NOW, Revocability.TTL_ONLY]),
        old=st.one_of(st.none(), st.none(), st.integers(0, 9)),
    )
    def intend(
        self, worker: int, owner: str, key: int, task: str, revocability: Revocability, old: int | None
    ) -> object:
        """With a name that is new, or, by mistake, one that may have been used."""
        self.made += 1
        number = self.made if old is None else old
        intent = Entry(
            id=f"{self.made:03}",
            key=f"key-{key}",
            owner=owner,
            task=task,
            credential="forge",
            issuer="postgres",
            name=f"lh_{number}",
            revocability=revocability,
            recipe=b"sealed",
            state=State.INTENDED,
            epoch=0,
            created=self.now,
            expires=self.now + 90,
            due=self.now + 40,
        )
        stored = self.same(lambda ledger: ledger.intend(intent), worker)
        return stored if isinstance(stored, Entry) else multiple()

    @rule(target=copies, worker=workers, copy=copies, name=st.sampled_from(sorted(CHANGES)))
    def change(self, worker: int, copy: Entry, name: str) -> object:
        """From a copy that may be as old as the test."""
        try:
            after = CHANGES[name](copy, self.now)
        except IllegalChange:
            return multiple()
        refused = self.same(lambda ledger: ledger.change(copy, after), worker)
        return multiple() if refused else after

    @rule(target=copies, worker=workers, limit=st.integers(1, 3))
    def claim(self, worker: int, limit: int) -> object:
        now = self.now
        claimed = self.same(lambda ledger: ledger.claim(now, limit, f"{worker}", now + CLAIM_S), worker)
        assert isinstance(claimed, list)
        return multiple(*claimed)

    @rule(seconds=st.sampled_from([1.0, 40.0, 61.0, 300.5, -45.0, -3600.0]))
    def the_clock_jumps(self, seconds: float) -> None:
        self.now += seconds

    @rule(owner=owners, worker=workers)
    def beat(self, owner: str, worker: int) -> None:
        now = self.now
        self.same(lambda ledger: ledger.beat(owner, now), worker)

    @rule(worker=workers, silence=st.sampled_from([0.0, 30.0, 300.0]), keep=st.lists(owners, max_size=1))
    def orphaned(self, worker: int, silence: float, keep: list[str]) -> None:
        now = self.now
        self.same(lambda ledger: ledger.orphaned(now, now - silence, keep=keep), worker)

    @rule(worker=workers)
    def starts_again(self, worker: int) -> None:
        self.ledgers[worker].close()
        self.ledgers[worker] = self.storage.open()

    @rule(worker=workers, states=st.sets(st.sampled_from(list(State))), task=st.sampled_from(["", "one", "two"]))
    def looks(self, worker: int, states: set[State], task: str) -> None:
        self.same(lambda ledger: ledger.entries(task=task, states=states, limit=3), worker)
        self.same(lambda ledger: ledger.entries(task=task, states=states, after="004"), worker)
        self.same(lambda ledger: ledger.open_names("postgres"), worker)
        self.same(lambda ledger: ledger.counts(), worker)
        self.same(lambda ledger: ledger.entry("001"), worker)

    @invariant()
    def all_is_as_in_the_model(self) -> None:
        self.same(lambda ledger: ledger.entries(limit=1000), 0)
        self.same(lambda ledger: ledger.next_due(), 1)


@pytest.mark.parametrize("kind", ["sqlite", "postgres"])
def test_the_ledger_is_as_its_model(kind: str, make_storage: Callable[[str], Storage]) -> None:
    class OnOneStorage(Workers):
        def __init__(self) -> None:
            super().__init__(make_storage(kind))

    run_state_machine_as_test(
        OnOneStorage,
        settings=settings(
            max_examples={"sqlite": 30, "postgres": 12}[kind],
            stateful_step_count=30,
            deadline=None,
            derandomize=True,
            database=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
