"""Leases: decided, recorded, issued once, and over when their time is."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fakes.provider import Provider, issuing
from leasehold.broker.audit.log import AuditLog
from leasehold.broker.audit.query import Filter
from leasehold.broker.lease import service
from leasehold.broker.lease.machine import Revocability, State
from leasehold.broker.lease.model import Lease, Refusal
from leasehold.broker.lease.service import Leases
from leasehold.core.errors import AuditError, IssuerError, SecretUnavailable
from leasehold.core.limits import Limits
from leasehold.core.model import AgentClass, Credential, Environment, Role
from leasehold.core.secret import Secret

FORGE = Credential(
    name="forge",
    issuer="static",
    secret="vault:forge-token",
    environment=Environment.DEVELOPMENT,
    role=Role.EXECUTE,
    max_ttl_s=900,
    endpoints=(),
)
OPENED = 1_700_000_000.0
DEADLINE = OPENED + 3600


class Broker:
    """Leases over a real log, a clock that the test moves, and a vault of one value that may do more first."""

    def __init__(self, folder: Path, limits: Limits) -> None:
        self.now = OPENED
        self.audit = AuditLog(folder, Secret(b"k" * 32), clock=lambda: self.now, limits=limits)
        self.asked: list[tuple[str, str]] = []
        self.provider_admin = b"s3cr3t-value"
        self.first: Callable[[], Awaitable[None]] | None = None
        self.provider = Provider(folder / "provider")
        self.issuing = issuing(folder, self.provider, self.audit, lambda: self.now)
        self.leases = Leases(self.audit, self._resolve, lambda: self.now, self.issuing)

    async def _resolve(self, task: str, reference: str) -> Secret:
        self.asked.append((task, reference))
        if self.first is not None:
            await self.first()
        return Secret(self.provider_admin)

    def open(self, task: str = "one", agent_class: AgentClass = AgentClass.LOCAL) -> None:
        self.leases.open(task, agent_class, DEADLINE)

    def use(self, credential: Credential = FORGE, task: str = "one") -> Lease | Refusal:
        return asyncio.run(self.leases.first_use(task, credential))

    def leased(self, credential: Credential = FORGE, task: str = "one") -> Lease:
        lease = self.use(credential, task)
        assert isinstance(lease, Lease)
        return lease

    def refused(self, credential: Credential = FORGE, task: str = "one") -> str:
        refusal = self.use(credential, task)
        assert isinstance(refusal, Refusal)
        assert refusal.message
        assert refusal.hint
        return refusal.code

    def recorded(self) -> list[tuple[str, Any, Any]]:
        records = self.audit.query(Filter()).records
        return [(r.outcome, r.fields["credential"], r.fields.get("policy", r.event)) for r in records]


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Callable[..., Broker]]:
    made: list[Broker] = []

    def broker(limits: Limits = Limits()) -> Broker:  # noqa: B008  a frozen record
        made.append(Broker(tmp_path / "audit", limits))
        return made[-1]

    yield broker
    for each in made:
        each.audit.close()


@pytest.fixture
def broker(make: Callable[..., Broker]) -> Broker:
    broker = make()
    broker.open()
    return broker


def test_a_lease_is_issued_once_and_bounded_by_the_credential(broker: Broker) -> None:
    lease = broker.leased()
    assert (lease.task, lease.credential, lease.issued, lease.expires) == ("one", "forge", OPENED, OPENED + 900)
    assert lease.revocability is Revocability.STOPS_BEING_INJECTED
    assert lease.secret.reveal() == b"s3cr3t-value"
    broker.now += 899
    assert broker.leased() is lease
    assert broker.asked == [("one", "vault:forge-token")]
    assert broker.recorded() == [("allowed", "forge", "local-development")]


def test_a_lease_does_not_outlive_its_task(broker: Broker) -> None:
    broker.now = DEADLINE - 10
    assert broker.leased().expires == DEADLINE


def test_what_policy_denies_is_recorded_and_nothing_is_resolved(broker: Broker) -> None:
    broker.open("two", AgentClass.CI)
    production = replace(FORGE, name="live", environment=Environment.PRODUCTION)
    assert broker.refused(production) == "approval-needed"
    assert broker.refused(production, "two") == "policy-denied"
    assert broker.asked == []
    assert broker.recorded() == [("denied", "live", "production"), ("denied", "live", "ci-production")]
    broker.leased(task="two")


def test_nothing_is_leased_outside_of_a_task(broker: Broker) -> None:
    assert broker.refused(task="other") == "access-ended"
    lease = broker.leased()
    assert broker.leases.close("one") == [lease]
    assert broker.leases.close("one") == []
    assert broker.refused() == "access-ended"


def test_a_secret_that_cannot_be_had_is_recorded_and_can_be_asked_for_again(broker: Broker) -> None:
    async def fail() -> None:
        raise SecretUnavailable("the vault is locked", hint="unlock it")

    broker.first = fail
    with pytest.raises(SecretUnavailable):
        broker.use()
    broker.first = None
    broker.now += 1
    broker.leased()
    assert [outcome for outcome, _, _ in broker.recorded()] == ["failed", "allowed"]


@pytest.mark.parametrize("what", ["policy", "provider"])
def test_who_asks_again_and_again_fills_neither_the_log_nor_the_ledger(broker: Broker, what: str) -> None:
    """An agent can ask as often as it likes (BOUNDARY J)."""
    broker.provider_admin = b"administrator"
    broker.provider.down = True
    asked = replace(ORDERS, environment=Environment.PRODUCTION) if what == "policy" else ORDERS
    if what == "provider":
        with pytest.raises(IssuerError):
            broker.use(asked)
    for _ in range(50):
        refusal = broker.use(asked)
        assert isinstance(refusal, Refusal) and refusal.failed is (what == "provider")
    first = len(broker.recorded())
    assert first <= 2
    broker.now += 1
    broker.provider.down = False
    assert isinstance(broker.use(asked), Refusal if what == "policy" else Lease)


def test_what_cannot_be_recorded_is_not_given(make: Callable[..., Broker]) -> None:
    broker = make(Limits(audit_bytes_max=10))
    broker.open()
    with pytest.raises(AuditError):
        broker.use()
    assert broker.leases.close("one") == []


def test_a_task_that_ends_while_its_secret_is_fetched_gets_none(broker: Broker) -> None:
    async def close() -> None:
        broker.leases.close("one")

    broker.first = close
    assert broker.refused() == "access-ended"
    broker.open()  # the same name once more: another task
    assert broker.refused() == "access-ended"
    assert broker.recorded() == []


def test_a_deadline_that_passes_while_the_secret_is_fetched_holds(broker: Broker) -> None:
    async def wait() -> None:
        broker.now += 10

    broker.first = wait
    broker.now = DEADLINE - 11
    assert broker.leased().expires == DEADLINE
    broker.leases.close("one")
    broker.open()
    broker.now = DEADLINE - 10
    assert broker.refused() == "access-ended"
    assert [outcome for outcome, _, _ in broker.recorded()] == ["allowed"]


def test_a_lease_that_is_over_is_found_ended_and_never_renewed(broker: Broker) -> None:
    lease = broker.leased()
    other = broker.leased(replace(FORGE, name="npm", max_ttl_s=1000))
    assert broker.leases.expired(lease.expires - 1) == []
    assert broker.leases.expired(lease.expires) == [lease]
    broker.now = lease.expires
    broker.leases.end(lease, FORGE)
    broker.leases.end(lease, FORGE)  # once more changes nothing
    assert broker.leases.expired(broker.now) == []
    assert broker.recorded()[2:] == [("denied", "forge", "credential:expired")]
    assert broker.refused() == "access-ended"
    assert broker.leased(replace(FORGE, name="npm")) is other
    assert broker.leases.close("one") == [lease, other]


def test_a_lease_that_is_over_is_refused_before_anybody_has_looked(broker: Broker) -> None:
    broker.now = broker.leased().expires
    refusal = broker.use()
    assert refusal == Refusal(
        code="access-ended",
        message="forge: Its time in this task is over.",
        hint="A task may use it for 900 s (max_ttl). Start a new task.",
    )
    assert broker.recorded()[1:] == [("denied", "forge", "credential:expired")]


def test_the_end_of_a_lease_whose_task_has_gone_says_nothing_more(broker: Broker) -> None:
    lease = broker.leased()
    broker.leases.close("one")
    broker.leases.end(lease, FORGE)
    assert len(broker.recorded()) == 1


def test_no_lease_shows_its_secret(broker: Broker) -> None:
    assert "s3cr3t" not in repr(broker.leased())


ORDERS = replace(FORGE, name="orders", issuer="fake", parameters=(("server", "somewhere"),))


def test_a_dynamic_credential_is_made_at_the_first_use_and_taken_back(broker: Broker) -> None:
    broker.provider_admin = b"administrator"
    assert broker.provider.names() == set()
    lease = broker.leased(ORDERS)
    assert lease.entry is not None
    assert broker.provider.names() == {lease.username} == {lease.entry.name}
    assert lease.secret.reveal() != b"administrator"
    assert broker.leased(ORDERS) is lease
    leases = broker.leases.close("one")
    assert asyncio.run(broker.leases.take_back(leases)) == {"orders": State.REVOKED}
    assert broker.provider.names() == set()
    events = [record.event for record in broker.audit.query(Filter()).records]
    assert events == ["credential:first-use", "lease:issued", "lease:revoked"]


def test_two_first_uses_at_once_share_one_lease(broker: Broker) -> None:
    broker.provider_admin = b"administrator"

    async def both() -> list[Lease | Refusal]:
        return list(await asyncio.gather(*(broker.leases.first_use("one", ORDERS) for _ in range(5))))

    first, *others = asyncio.run(both())
    assert all(other is first for other in others)
    assert len(broker.provider.names()) == 1


def test_a_task_that_ends_while_its_credential_is_made_gets_nothing(broker: Broker) -> None:
    broker.provider_admin = b"administrator"
    broker.provider.meanwhile = lambda: setattr(broker, "now", DEADLINE)
    assert broker.refused(ORDERS) == "access-ended"
    assert broker.provider.names() == set()


def test_what_is_not_taken_back_in_time_is_left_to_the_sweep(broker: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    broker.provider_admin = b"administrator"
    lease = broker.leased(ORDERS)
    monkeypatch.setattr(service, "_TAKE_BACK_S", 0)
    assert asyncio.run(broker.leases.take_back([lease])) == {"orders": State.REVOKING}


def test_where_nothing_was_made_nothing_is_taken_back(broker: Broker) -> None:
    lease = broker.leased()
    assert asyncio.run(broker.leases.take_back([lease])) == {}


def short_lived(broker: Broker) -> Lease:
    """A provider that gives 300 s where the task may have it for 900."""
    broker.provider_admin = b"administrator"
    broker.provider.extra_s = -600
    return broker.leased(ORDERS)


def test_what_the_provider_ends_early_is_renewed_before_it_does(broker: Broker) -> None:
    old = short_lived(broker)
    assert (old.expires, old.until) == (OPENED + 300, OPENED + 900)
    assert broker.leases.renewable(OPENED + 224) == []
    broker.now = OPENED + 225
    assert broker.leases.renewable(broker.now) == [old]
    new = asyncio.run(broker.leases.renew(old, ORDERS))
    assert new is not None and new.secret != old.secret
    assert (new.until, new.expires) == (OPENED + 900, OPENED + 300)  # the provider's clock is the fake's
    assert broker.leased(ORDERS) is new
    assert len(broker.provider.names()) == 2, "whoever uses the old one is not cut off"
    asyncio.run(broker.leases.take_back([old]))
    assert broker.provider.names() == {new.username}
    events = [record.event for record in broker.audit.query(Filter()).records]
    assert events == [
        "credential:first-use",
        "lease:issued",
        "credential:renewed",
        "lease:issued",
        "lease:revoked",
    ]
    # A second caller with the old one, and a task that has gone, get none.
    assert asyncio.run(broker.leases.renew(old, ORDERS)) is None
    broker.leases.close("one")
    assert asyncio.run(broker.leases.renew(new, ORDERS)) is None


def test_what_lasts_as_long_as_the_task_may_have_it_is_not_renewed(broker: Broker) -> None:
    broker.provider_admin = b"administrator"
    lease = broker.leased(ORDERS)
    assert broker.leases.renewable(lease.expires - 1) == []


def test_a_renewal_that_fails_is_tried_again_later_and_the_lease_is_kept(broker: Broker) -> None:
    old = short_lived(broker)
    broker.now += 230
    broker.provider.down = True
    with pytest.raises(IssuerError):
        asyncio.run(broker.leases.renew(old, ORDERS))
    assert broker.leases.renewable(broker.now) == []
    broker.now += 5
    assert broker.leases.renewable(broker.now) == [old]
    assert broker.leased(ORDERS) is old


def test_one_that_was_over_before_its_successor_came_is_asked_for_anew(broker: Broker) -> None:
    old = short_lived(broker)
    broker.now += 300
    assert broker.leases.expired(broker.now) == [old]
    assert broker.leases.renewable(broker.now) == []
    broker.leases.lapse(old)
    broker.leases.lapse(old)  # once more changes nothing
    assert broker.leases.expired(broker.now) == []
    broker.provider.extra_s = 0
    assert broker.leased(ORDERS) is not old
    broker.now = OPENED + 900
    assert broker.refused(ORDERS) == "access-ended"


def test_several_parts_are_delivered_as_one(broker: Broker) -> None:
    parts = {"private_key": Secret(b"k"), "certificate": Secret(b"c")}
    assert json.loads(service._value(parts).reveal()) == {"private_key": "k", "certificate": "c"}
    assert service._value({**parts, "token": Secret(b"t")}).reveal() == b"t"


def test_a_lease_that_is_ended_is_not_issued_again_and_the_agent_is_told_why(broker: Broker) -> None:
    broker.leased()
    broker.leases.revoke("one", "forge", "ended because the clock was set back")
    refusal = broker.use()
    assert isinstance(refusal, Refusal)
    assert (refusal.code, refusal.message) == ("access-ended", "forge: ended because the clock was set back.")
    assert [over for _, over in broker.leases.held()] == [True]
