"""Leases at a provider: created after their intent, taken back until they are gone."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fakes.provider import ADMIN, Provider, issuing
from leasehold.broker.audit.log import AuditLog
from leasehold.broker.audit.query import Filter
from leasehold.broker.lease.issuing import Issuing, Live
from leasehold.broker.lease.machine import ATTEMPTS_BEFORE_QUARANTINE, Entry, Revocability, State
from leasehold.broker.lease.store import SqliteLedger
from leasehold.core.errors import ConfigError, IssuerError
from leasehold.core.limits import Limits
from leasehold.core.model import Credential, Environment, Role
from leasehold.core.secret import Secret

NOW = 1_700_000_000.0
ORDERS = Credential(
    name="orders",
    issuer="fake",
    secret="vault:orders-admin",
    environment=Environment.STAGING,
    role=Role.EXECUTE,
    max_ttl_s=900,
    endpoints=(),
    parameters=(("server", "somewhere"),),
)


class Broker:
    """One process's issuing over a real ledger and log; ``again`` is the next process."""

    def __init__(self, folder: Path, limits: Limits) -> None:
        self.now = NOW
        self.folder = folder
        self.audit = AuditLog(folder / "audit", Secret(b"k" * 32), clock=lambda: self.now, limits=limits)
        self.provider = Provider(folder / "provider")
        self.ledger = SqliteLedger(folder)
        self.opened: list[Issuing] = []
        self.issuing = self.again("one")

    def again(self, owner: str, **more: Any) -> Issuing:
        self.opened.append(issuing(self.folder, self.provider, self.audit, lambda: self.now, owner=owner, **more))
        return self.opened[-1]

    def close(self) -> None:
        for each in self.opened:
            each.close()
        self.ledger.close()
        self.audit.close()

    def issue(self, credential: Credential = ORDERS, admin: Secret = ADMIN) -> Live:
        return asyncio.run(self.issuing.issue("7f3k2a", credential, admin, self.now + 900))

    def states(self) -> list[State]:
        return [entry.state for entry in self.ledger.entries()]

    def only(self) -> Entry:
        (entry,) = self.ledger.entries()
        return entry

    def recorded(self) -> list[tuple[str, str]]:
        return [(record.event, record.outcome) for record in self.audit.query(Filter()).records]

    def sweep(self, issuing: Issuing | None = None) -> int:
        return asyncio.run((issuing or self.issuing).sweep())


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Broker]:
    found = Broker(tmp_path, Limits())
    yield found
    found.close()


def test_a_lease_is_in_the_ledger_and_at_the_provider_and_then_in_neither(broker: Broker) -> None:
    live = broker.issue()
    assert broker.provider.names() == {live.entry.name}
    assert len(live.entry.name) <= 32
    assert broker.only() == live.entry
    assert live.entry.state is State.ACTIVE
    assert live.issued.material["username"].reveal().decode() == live.entry.name
    assert asyncio.run(broker.issuing.end(live.entry)).state is State.REVOKED
    assert broker.provider.names() == set()
    assert broker.states() == [State.REVOKED]
    assert broker.recorded() == [("lease:issued", "done"), ("lease:revoked", "done")]
    # Once more changes nothing, whoever asks with whatever copy.
    assert asyncio.run(broker.issuing.end(live.entry)).state is State.REVOKED
    assert asyncio.run(broker.issuing.end(broker.only())).state is State.REVOKED
    assert len(broker.recorded()) == 2


@pytest.mark.parametrize("expose", [(), (("ORDERS_PASSWORD", "password"),)])
def test_an_order_says_since_when_until_when_and_who_may_come(
    broker: Broker, expose: tuple[tuple[str, str], ...]
) -> None:
    live = broker.issue(replace(ORDERS, expose=expose))
    assert live.entry.created == NOW
    written = json.loads((broker.provider.folder / live.entry.name).read_text())
    assert written == {"ordered": NOW, "expires": NOW + 900, "exposed": bool(expose)}


def test_no_name_and_no_password_is_used_twice(broker: Broker) -> None:
    lives = [broker.issue() for _ in range(3)]
    assert len({live.entry.name for live in lives}) == 3
    assert len({live.issued.material["password"].reveal() for live in lives}) == 3


def test_the_intent_is_durable_before_the_provider_is_asked(broker: Broker) -> None:
    seen: list[State] = []
    broker.provider.meanwhile = lambda: seen.extend(broker.states())  # type: ignore[func-returns-value]  # nothing to await
    broker.issue()
    assert seen == [State.INTENDED]


def test_wrong_parameters_ask_nobody(broker: Broker) -> None:
    with pytest.raises(ConfigError, match="server"):
        broker.issue(replace(ORDERS, parameters=(("server", "elsewhere"),)))
    assert broker.states() == []


def test_a_provider_that_is_down_is_an_error_and_what_may_be_there_is_taken_back(broker: Broker) -> None:
    broker.provider.down = True
    with pytest.raises(IssuerError, match=r"issuer\(fake\) issue: the provider does not answer"):
        broker.issue()
    assert broker.states() == [State.INTENDED]
    assert broker.sweep() == 0  # the provider may still be at work on it
    broker.now += 60
    assert broker.sweep() == 1
    assert broker.only().error == "issuer(fake) revoke: the provider does not answer"
    broker.provider.down = False
    assert broker.sweep() == 0  # not yet again
    broker.now += 2
    assert broker.sweep() == 1
    assert broker.states() == [State.REVOKED]
    assert broker.recorded() == [("lease:stuck", "failed"), ("lease:revoked", "done")]


def test_what_lasts_longer_than_asked_is_taken_back_at_once(broker: Broker) -> None:
    broker.provider.extra_s = 60
    with pytest.raises(IssuerError, match="60 s more than asked"):
        broker.issue()
    assert broker.provider.names() == set()
    broker.now += 60
    broker.sweep()
    assert broker.states() == [State.REVOKED]


def test_what_outlasts_its_order_is_taken_back_when_the_order_is_over(broker: Broker) -> None:
    broker.provider.extra_s = broker.provider.outlasts_s = 3600.0
    entry = broker.issue().entry
    assert (entry.due, entry.expires) == (NOW + 900, NOW + 4500)
    broker.now += 899
    assert broker.sweep() == 0
    broker.now += 1
    assert broker.sweep() == 1
    assert broker.provider.names() == set()
    assert broker.states() == [State.REVOKED]


def test_what_outlasts_its_order_and_was_lost_is_not_over_before_it_is(broker: Broker) -> None:
    broker.provider.keeps = True
    broker.provider.extra_s = broker.provider.outlasts_s = 3600.0
    with pytest.raises(_Killed):
        asyncio.run(broker.again("two", at=_killed_at("record-before")).issue("7f3k2a", ORDERS, ADMIN, NOW + 900))
    third = broker.again("three")
    asyncio.run(third.take_over(0.0))
    for now, worked, state in ((400, 1, State.REVOKING), (4499, 0, State.REVOKING), (4500, 1, State.EXPIRED)):
        broker.now = NOW + now
        assert broker.sweep(third) == worked
        assert broker.states() == [state]


def test_what_is_created_after_a_sweep_has_looked_is_taken_back_and_not_released(broker: Broker) -> None:
    other = broker.again("two")

    async def slow() -> None:
        broker.now += 3600  # so long that the intent is due
        await other.take_over(0.0)
        assert await other.sweep() == 1
        assert broker.states() == [State.REVOKED]

    broker.provider.meanwhile = slow
    with pytest.raises(IssuerError, match="it took too long"):
        broker.issue()
    assert broker.provider.names() == set()
    assert broker.states() == [State.REVOKED]


def test_a_sweep_leaves_alone_what_its_own_broker_is_taking_back(broker: Broker) -> None:
    live = broker.issue()
    asked: list[int] = []

    async def swept() -> None:
        asked.append(await broker.issuing.sweep())

    broker.provider.leaving = swept
    assert asyncio.run(broker.issuing.end(live.entry)).state is State.REVOKED
    assert asked == [1]  # found, and the provider was not asked again
    assert broker.recorded().count(("lease:revoked", "done")) == 1


def test_a_task_that_is_cancelled_while_it_waits_leaves_nothing(broker: Broker) -> None:
    async def scenario() -> None:
        running = asyncio.create_task(broker.issuing.issue("7f3k2a", ORDERS, ADMIN, broker.now + 900))
        broker.provider.meanwhile = running.cancel  # type: ignore[assignment]  # what it returns is of no interest
        with pytest.raises(asyncio.CancelledError):
            await running

    asyncio.run(scenario())
    assert broker.states() == [State.INTENDED]
    broker.now += 60
    broker.sweep()
    assert broker.provider.names() == set()
    assert broker.states() == [State.REVOKED]


def test_an_intent_that_took_too_long_asks_nobody(broker: Broker) -> None:
    def late(_point: str) -> None:
        broker.now += 6

    slow = broker.again("two", at=late)
    with pytest.raises(IssuerError, match="the ledger took too long"):
        asyncio.run(slow.issue("7f3k2a", ORDERS, ADMIN, broker.now + 900))
    assert broker.provider.names() == set()


def test_no_process_sweeps_what_it_is_creating_itself(broker: Broker) -> None:
    async def clock_is_set_forward() -> None:
        broker.now += 3600
        assert await broker.issuing.sweep() == 1

    broker.provider.meanwhile = clock_is_set_forward
    live = asyncio.run(broker.issuing.issue("7f3k2a", ORDERS, ADMIN, broker.now + 7200))
    assert broker.provider.names() == {live.entry.name}
    assert broker.only().state is State.ACTIVE


def test_what_nobody_gets_any_more_is_taken_back(broker: Broker) -> None:
    def cancel(point: str) -> None:
        if point == "record-after":
            raise asyncio.CancelledError

    issuing = broker.again("two", at=cancel)
    with pytest.raises(asyncio.CancelledError):
        asyncio.run(issuing.issue("7f3k2a", ORDERS, ADMIN, broker.now + 900))
    assert broker.only().state is State.REVOKING
    broker.sweep(issuing)
    assert broker.provider.names() == set()


def test_a_lease_ends_when_it_is_over(broker: Broker) -> None:
    broker.issue()
    broker.now += 899
    assert broker.sweep() == 0
    broker.now += 1
    assert broker.sweep() == 1
    assert broker.provider.names() == set()
    assert broker.states() == [State.REVOKED]


def test_the_next_process_takes_back_what_a_dead_one_held(broker: Broker) -> None:
    broker.issue()
    second = broker.again("two")
    assert broker.sweep(second) == 0  # it has not opened the ledger, so there is nothing that it knows of
    assert asyncio.run(second.take_over(broker.now)) == 1
    assert broker.sweep(second) == 1
    assert broker.provider.names() == set()
    assert broker.states() == [State.REVOKED]


def test_a_process_that_is_alive_keeps_its_leases(broker: Broker) -> None:
    asyncio.run(broker.issuing.beat())  # before the first lease there is nobody to tell
    broker.issue()
    asyncio.run(broker.issuing.beat())
    second = broker.again("two")
    assert asyncio.run(second.take_over(broker.now - 30)) == 0
    broker.now += 60
    assert asyncio.run(second.take_over(broker.now - 30)) == 1


def test_revoking_goes_on_for_ever_and_is_an_alarm_after_a_while(broker: Broker) -> None:
    live = broker.issue()
    broker.provider.down = True
    asyncio.run(broker.issuing.end(live.entry))
    for _ in range(ATTEMPTS_BEFORE_QUARANTINE + 3):
        broker.now += 400
        assert broker.sweep() == 1
    assert broker.states() == [State.QUARANTINED]
    assert broker.recorded().count(("lease:stuck", "failed")) == 2
    broker.provider.down = False
    broker.now += 400
    broker.sweep()
    assert broker.states() == [State.REVOKED]


def test_what_can_only_expire_is_never_called_revoked(broker: Broker) -> None:
    broker.provider.revocability = Revocability.TTL_ONLY
    live = broker.issue()
    assert asyncio.run(broker.issuing.end(live.entry)).state is State.REVOKING
    assert broker.sweep() == 0
    broker.now += 900
    assert broker.sweep() == 1
    assert broker.states() == [State.EXPIRED]
    assert broker.recorded() == [("lease:issued", "done"), ("lease:expired", "done")]


def test_an_old_copy_ends_the_lease_all_the_same(broker: Broker) -> None:
    live = broker.issue()
    asyncio.run(broker.again("two").take_over(NOW + 1))  # which makes it due, and so changes it
    assert broker.only().epoch > live.entry.epoch
    assert asyncio.run(broker.issuing.end(live.entry)).state is State.REVOKED
    assert not broker.provider.names()


def test_an_old_copy_of_an_intent_ends_no_lease(broker: Broker) -> None:
    intents: list[Entry] = []
    broker.provider.meanwhile = lambda: intents.append(broker.only())  # type: ignore[func-returns-value]
    live = broker.issue()
    assert asyncio.run(broker.issuing.end(intents[0])).state is State.ACTIVE
    assert broker.provider.names() == {live.entry.name}


def test_two_that_end_one_lease_do_it_once(broker: Broker) -> None:
    live = broker.issue()

    async def both() -> list[Entry]:
        return list(await asyncio.gather(*(broker.issuing.end(live.entry) for _ in range(3))))

    assert {entry.state for entry in asyncio.run(both())} <= {State.REVOKED, State.REVOKING}
    assert broker.states() == [State.REVOKED]
    assert not broker.issuing._at_work_on


def test_what_is_due_by_a_clock_that_was_set_back_is_done_now(broker: Broker) -> None:
    broker.issue()
    broker.now -= 3600
    assert broker.sweep() == 0
    assert asyncio.run(broker.issuing.sweep(3600 + 900)) == 1
    assert broker.states() == [State.REVOKED]


def test_what_taking_back_needs_is_kept_with_the_lease(broker: Broker) -> None:
    broker.provider.keeps = True
    live = broker.issue()
    assert b"receipt" not in broker.only().recipe
    asyncio.run(broker.again("two").end(live.entry))
    assert broker.states() == [State.REVOKED] and not broker.provider.names()


class _Killed(BaseException):
    """The process ends here."""


def _killed_at(point: str) -> Callable[[str], None]:
    def at(reached: str) -> None:
        if reached == point:
            raise _Killed

    return at


def test_what_is_not_known_to_be_gone_is_called_expired(broker: Broker) -> None:
    """A crash between the creation and its record: the receipt is lost."""
    broker.provider.keeps = True
    with pytest.raises(_Killed):
        asyncio.run(broker.again("two", at=_killed_at("record-before")).issue("7f3k2a", ORDERS, ADMIN, NOW + 900))
    assert broker.provider.names()
    third = broker.again("three")
    asyncio.run(third.take_over(0.0))
    broker.now += 400
    assert broker.sweep(third) == 1
    assert broker.states() == [State.REVOKING]
    broker.now += 600
    assert broker.sweep(third) == 1
    assert broker.states() == [State.EXPIRED]


def test_a_recipe_that_does_not_open_is_an_alarm_and_loses_nothing(broker: Broker) -> None:
    live = broker.issue()
    broker.now += 900
    stranger = broker.again("two", key=b"x" * 32)
    asyncio.run(stranger.take_over(0.0))
    assert broker.sweep(stranger) == 1
    assert "does not open" in broker.only().error
    assert broker.recorded()[-1] == ("lease:stuck", "failed")
    assert broker.provider.names() == {live.entry.name}
    broker.now += 2
    assert broker.sweep() == 1
    assert broker.states() == [State.REVOKED]
