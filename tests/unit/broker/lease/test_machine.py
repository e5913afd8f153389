"""A lease's states: which change is lawful where, and that each leaves a mark that a stale worker trips over."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from leasehold.broker.lease.machine import (
    ATTEMPTS_BEFORE_QUARANTINE,
    OPEN,
    Entry,
    IllegalChange,
    Revocability,
    State,
    activated,
    backoff_s,
    ending,
    failed,
    gone,
    lapsed,
    renewed,
    waiting,
)

NOW = 1_700_000_000.0
INTENT = Entry(
    id="1",
    key="one/forge",
    owner="broker-1",
    task="one",
    credential="forge",
    issuer="postgres",
    name="leasehold_1",
    revocability=Revocability.NOW,
    recipe=b"sealed",
    state=State.INTENDED,
    epoch=1,
    created=NOW,
    expires=NOW + 900,
    due=NOW + 60,
)

CHANGES: dict[str, Callable[[Entry], Entry]] = {
    "activated": lambda entry: activated(entry, NOW + 800),
    "renewed": lambda entry: renewed(entry, NOW + 1800),
    "ending": lambda entry: ending(entry, NOW),
    "gone": lambda entry: gone(entry, NOW),
    "lapsed": lambda entry: lapsed(entry, entry.expires),
    "waiting": waiting,
    "failed": lambda entry: failed(entry, NOW, "no answer"),
}
LAWFUL = {
    State.INTENDED: {"activated", "ending"},
    State.ACTIVE: {"renewed", "ending"},
    State.REVOKING: {"gone", "lapsed", "waiting", "failed"},
    State.QUARANTINED: {"gone", "lapsed", "waiting", "failed"},
    State.REVOKED: set(),
    State.EXPIRED: set(),
}


@pytest.mark.parametrize("state", State)
@pytest.mark.parametrize("name", CHANGES)
def test_each_state_allows_its_changes_and_no_other(state: State, name: str) -> None:
    entry = replace(INTENT, state=state)
    if name in LAWFUL[state]:
        assert CHANGES[name](entry).epoch == entry.epoch + 1
    else:
        with pytest.raises(IllegalChange, match=f"1 is {state}"):
            CHANGES[name](entry)


def test_what_the_provider_may_have_is_open() -> None:
    """From an end no change leads anywhere; from every other state one does."""
    assert {state for state in State if LAWFUL[state]} == OPEN


def test_a_change_touches_nothing_that_identifies_the_lease() -> None:
    for state, names in LAWFUL.items():
        for name in names:
            after = CHANGES[name](replace(INTENT, state=state))
            kept = ("id", "key", "owner", "task", "credential", "issuer", "name", "revocability", "recipe", "created")
            assert all(getattr(after, field) == getattr(INTENT, field) for field in kept), name


def test_a_lease_is_due_when_it_is_over() -> None:
    active = activated(INTENT, NOW + 800)
    assert (active.state, active.expires, active.due) == (State.ACTIVE, NOW + 800, NOW + 800)
    longer = renewed(active, NOW + 1800)
    assert (longer.state, longer.expires, longer.due) == (State.ACTIVE, NOW + 1800, NOW + 1800)


def test_what_outlasts_its_order_is_due_before_it_ends() -> None:
    for due, expires, when in ((None, 800, 800), (900, 4500, 900), (900, 800, 800)):
        active = activated(INTENT, NOW + expires, due=None if due is None else NOW + due)
        assert (active.due, active.expires) == (NOW + when, NOW + expires)
    assert waiting(ending(active, NOW)).due == active.expires


@pytest.mark.parametrize("before", [INTENT, activated(INTENT, NOW + 800)], ids=["intended", "active"])
def test_what_ends_is_taken_back_at_once(before: Entry) -> None:
    revoking = ending(before, NOW + 5)
    assert (revoking.state, revoking.due, revoking.closed) == (State.REVOKING, NOW + 5, None)
    over = gone(revoking, NOW + 6)
    assert (over.state, over.closed) == (State.REVOKED, NOW + 6)


def test_what_the_provider_said_is_kept_from_then_on() -> None:
    assert activated(INTENT, NOW + 800, b"more").recipe == b"more"
    assert activated(INTENT, NOW + 800).recipe == INTENT.recipe


def test_what_can_only_expire_is_never_called_revoked() -> None:
    revoking = ending(INTENT, NOW)
    with pytest.raises(IllegalChange, match="lasts until its time is over"):
        lapsed(revoking, revoking.expires - 1)
    held = waiting(revoking)
    assert (held.state, held.due) == (State.REVOKING, revoking.expires)
    over = lapsed(held, revoking.expires)
    assert (over.state, over.closed) == (State.EXPIRED, revoking.expires)


def test_a_revocation_that_fails_is_tried_for_ever_and_becomes_an_alarm() -> None:
    entry = ending(INTENT, NOW)
    for attempt in range(1, 4 * ATTEMPTS_BEFORE_QUARANTINE):
        entry = failed(entry, NOW, "no answer")
        alarm = attempt >= ATTEMPTS_BEFORE_QUARANTINE
        assert entry.state is (State.QUARANTINED if alarm else State.REVOKING)
        assert (entry.attempts, entry.error, entry.closed) == (attempt, "no answer", None)
        assert entry.due == NOW + backoff_s(attempt) > NOW
    over = gone(entry, NOW + 1)
    assert (over.state, over.error) == (State.REVOKED, "")


def test_attempts_become_ever_more_seldom_up_to_five_minutes() -> None:
    assert [backoff_s(attempt) for attempt in (1, 2, 3, 9, 10, 17, 18, 10_000)] == [
        1, 2, 4, 256, 300, 300, 300, 300,
    ]  # fmt: skip
