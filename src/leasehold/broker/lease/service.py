"""Decide, record, issue, and take back: one lease for each task and credential (DESIGN 4, steps 6 and 9)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from leasehold.broker.audit.log import AuditLog
from leasehold.broker.audit.model import Event, Outcome
from leasehold.broker.lease.model import Lease, Refusal, Revocability
from leasehold.broker.policy.model import Question, Verdict
from leasehold.broker.policy.rules import decide
from leasehold.core.errors import LeaseholdError
from leasehold.core.model import AgentClass, Credential
from leasehold.core.secret import Secret

Resolve = Callable[[str, str], Awaitable[Secret]]
"""Task id and reference to the secret."""


@dataclass(slots=True)
class _Held:
    agent_class: AgentClass
    deadline: float
    leases: dict[str, Lease] = field(default_factory=dict)
    ended: set[str] = field(default_factory=set)


_TASK_ENDED = Refusal(code="access-ended", message="The task has ended.", hint="Start a new one.")


class Leases:
    """The leases of all open tasks, in memory: a static secret needs no taking back at a provider."""

    def __init__(self, audit: AuditLog, resolve: Resolve, clock: Callable[[], float]) -> None:
        self._audit = audit
        self._resolve = resolve
        self._clock = clock
        self._tasks: dict[str, _Held] = {}

    def open(self, task: str, agent_class: AgentClass, deadline: float) -> None:
        """From here the task may ask, until ``deadline`` (Unix seconds)."""
        self._tasks[task] = _Held(agent_class=agent_class, deadline=deadline)

    async def first_use(self, task: str, credential: Credential) -> Lease | Refusal:
        """The lease of this credential, issued now when the task has had none yet. One that is over is not renewed."""
        held = self._tasks.get(task)
        now = self._clock()
        if held is None:
            return _TASK_ENDED
        lease = held.leases.get(credential.name)
        if lease is not None:
            return lease if now < lease.expires else self._over(task, credential)
        question = Question(agent_class=held.agent_class, credential=credential, now=now, deadline=held.deadline)
        decision = decide(question)
        if decision.verdict is not Verdict.ALLOW:
            self._record(task, credential, Outcome.DENIED, policy=decision.policy, reason=decision.message)
            code = "approval-needed" if decision.verdict is Verdict.NEEDS_APPROVAL else "policy-denied"
            return Refusal(code=code, message=f"{credential.name}: {decision.message}", hint=decision.hint)
        try:
            secret = await self._resolve(task, credential.secret)
        except LeaseholdError as e:
            self._record(task, credential, Outcome.FAILED, policy=decision.policy, reason=e.code)
            raise
        # Secrets take their time: the task may be over by now, or another of its requests was quicker.
        now = self._clock()
        if self._tasks.get(task) is not held or now >= held.deadline:
            return _TASK_ENDED
        if credential.name in held.leases:
            return held.leases[credential.name]
        # Appended before the release: what cannot be recorded is not given (DESIGN 6).
        self._record(task, credential, Outcome.ALLOWED, policy=decision.policy, reason="")
        lease = Lease(
            task=task,
            credential=credential.name,
            secret=secret,
            issued=now,
            expires=min(held.deadline, now + credential.max_ttl_s),
            revocability=Revocability.STOPS_BEING_INJECTED,
        )
        held.leases[credential.name] = lease
        return lease

    def close(self, task: str) -> list[Lease]:
        """Forget the task's leases; returns what it held."""
        held = self._tasks.pop(task, None)
        return list(held.leases.values()) if held else []

    def expired(self, now: float) -> list[Lease]:
        """Leases whose time is over; the caller ends their use and calls ``end``."""
        return [
            lease
            for held in self._tasks.values()
            for lease in held.leases.values()
            if now >= lease.expires and lease.credential not in held.ended
        ]

    def end(self, lease: Lease, credential: Credential) -> None:
        """The use of a lease has ended before its task did: recorded once, and the task gets no other for it."""
        held = self._tasks.get(lease.task)
        if held is not None and lease.credential not in held.ended:
            held.ended.add(lease.credential)
            self._over(lease.task, credential)

    def _over(self, task: str, credential: Credential) -> Refusal:
        message = "Its time in this task is over."
        self._audit.append(Event.CREDENTIAL_EXPIRED, outcome=Outcome.DENIED, task=task, credential=credential.name)
        hint = f"A task may use it for {credential.max_ttl_s} s (max_ttl). Start a new task."
        return Refusal(code="access-ended", message=f"{credential.name}: {message}", hint=hint)

    def _record(self, task: str, credential: Credential, outcome: Outcome, *, policy: str, reason: str) -> None:
        self._audit.append(
            Event.CREDENTIAL_FIRST_USE,
            outcome=outcome,
            task=task,
            credential=credential.name,
            role=credential.role.value,
            environment=credential.environment.value,
            policy=policy,
            reason=reason,
        )
