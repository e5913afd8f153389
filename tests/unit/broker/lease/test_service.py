"""Leases: decided, recorded, issued once, and over when their time is."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from leasehold.broker.audit.log import AuditLog
from leasehold.broker.audit.query import Filter
from leasehold.broker.lease.model import Lease, Refusal, Revocability
from leasehold.broker.lease.service import Leases
from leasehold.core.errors import AuditError, SecretUnavailable
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
        self.first: Callable[[], Awaitable[None]] | None = None
        self.leases = Leases(self.audit, self._resolve, lambda: self.now)

    async def _resolve(self, task: str, reference: str) -> Secret:
        self.asked.append((task, reference))
        if self.first is not None:
            await self.first()
        return Secret(b"s3cr3t-value")

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
    broker.leased()
    assert [outcome for outcome, _, _ in broker.recorded()] == ["failed", "allowed"]


def test_what_cannot_be_recorded_is_not_given(make: Callable[..., Broker]) -> None:
    broker = make(Limits(audit_bytes_max=10))
    broker.open()
    with pytest.raises(AuditError):
        broker.use()
    assert broker.leases.close("one") == []


def test_two_first_uses_at_once_get_one_lease(broker: Broker) -> None:
    async def scenario() -> None:
        both = asyncio.Event()

        async def wait_for_the_other() -> None:
            if len(broker.asked) == 2:
                both.set()
            await both.wait()

        broker.first = wait_for_the_other
        one, two = await asyncio.gather(*(broker.leases.first_use("one", FORGE) for _ in range(2)))
        assert one is two
        assert isinstance(one, Lease)

    asyncio.run(scenario())
    assert broker.recorded() == [("allowed", "forge", "local-development")]


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
