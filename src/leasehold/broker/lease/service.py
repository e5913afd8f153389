"""Decide, record, issue, and take back: one lease for each task and credential (DESIGN 4, steps 6 and 9)."""

from __future__ import annotations

import asyncio
import json
import math
from collections import defaultdict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field

from leasehold.broker.audit.log import AuditLog
from leasehold.broker.audit.model import Event, Outcome
from leasehold.broker.lease.issuing import Issuing
from leasehold.broker.lease.machine import Revocability, State
from leasehold.broker.lease.model import Lease, Refusal
from leasehold.broker.policy.model import Question, Verdict
from leasehold.broker.policy.rules import decide
from leasehold.core.errors import LeaseholdError
from leasehold.core.model import AgentClass, Credential
from leasehold.core.secret import Secret

_TAKE_BACK_S = 10.0
_RETRY_S = 5.0
_SAME_ANSWER_S = 1.0

Resolve = Callable[[str, str], Awaitable[Secret]]
"""Task id and reference to the secret."""


@dataclass(slots=True)
class _Held:
    agent_class: AgentClass
    deadline: float
    leases: dict[str, Lease] = field(default_factory=dict)
    ended: set[str] = field(default_factory=set)
    revoked: dict[str, str] = field(default_factory=dict)
    until: dict[str, float] = field(default_factory=dict)
    patience: dict[str, float] = field(default_factory=dict)
    refused: dict[str, tuple[float, Refusal]] = field(default_factory=dict)
    exposed: list[Lease] = field(default_factory=list)
    turns: defaultdict[str, asyncio.Lock] = field(default_factory=lambda: defaultdict(asyncio.Lock))


_TASK_ENDED = Refusal(code="access-ended", message="The task has ended.", hint="Start a new one.")


class Leases:
    """The leases of all open tasks. What a provider has created is in the ledger too; see :class:`Issuing`."""

    def __init__(self, audit: AuditLog, resolve: Resolve, clock: Callable[[], float], issuing: Issuing) -> None:
        self._audit = audit
        self._issuing = issuing
        self._resolve = resolve
        self._clock = clock
        self._tasks: dict[str, _Held] = {}

    def open(self, task: str, agent_class: AgentClass, deadline: float) -> None:
        """From here the task may ask, until ``deadline`` (Unix seconds)."""
        self._tasks[task] = _Held(agent_class=agent_class, deadline=deadline)

    async def first_use(self, task: str, credential: Credential) -> Lease | Refusal:
        """The lease of this credential, issued now when the task has had none yet. One that is over is not renewed."""
        held = self._tasks.get(task)
        if held is None:
            return _TASK_ENDED
        async with held.turns[credential.name]:
            return await self._use(held, task, credential)

    async def _use(self, held: _Held, task: str, credential: Credential) -> Lease | Refusal:
        if credential.name in held.revoked:
            return _revoked(credential.name, held.revoked[credential.name])
        now = self._clock()
        lease = held.leases.get(credential.name)
        if lease is not None and now < lease.expires:
            return lease
        since, answer = held.refused.get(credential.name, (-math.inf, _TASK_ENDED))
        if since <= now < since + _SAME_ANSWER_S:
            return answer  # who asks again and again fills neither the log nor the ledger
        if now >= held.until.get(credential.name, now + 1):
            return self._over(task, credential)
        try:
            found = await self._new(held, task, credential)
        except LeaseholdError as e:
            held.refused[credential.name] = (now, Refusal(code=e.code, message=e.message, hint=e.hint, failed=True))
            raise
        if isinstance(found, Refusal):
            held.refused[credential.name] = (now, found)
        return found

    async def _new(self, held: _Held, task: str, credential: Credential) -> Lease | Refusal:
        event = Event.CREDENTIAL_RENEWED if credential.name in held.leases else Event.CREDENTIAL_FIRST_USE
        lease = await self._made(held, task, credential, event=event)
        if isinstance(lease, Lease):
            held.leases[credential.name] = lease
            self._issuing.tell()
        return lease

    async def expose(self, task: str, credential: Credential) -> Lease | Refusal:
        """One more, for the task's environment: whoever is in there has it, until it is taken back."""
        held = self._tasks.get(task)
        if held is None:
            return _TASK_ENDED
        lease = await self._made(held, task, credential, event=Event.CREDENTIAL_EXPOSED)
        if isinstance(lease, Lease):
            held.exposed.append(lease)
        return lease

    async def _made(self, held: _Held, task: str, credential: Credential, *, event: Event) -> Lease | Refusal:
        now = self._clock()
        question = Question(agent_class=held.agent_class, credential=credential, now=now, deadline=held.deadline)
        decision = decide(question)
        if decision.verdict is not Verdict.ALLOW:
            self._record(event, task, credential, Outcome.DENIED, policy=decision.policy, reason=decision.message)
            code = "approval-needed" if decision.verdict is Verdict.NEEDS_APPROVAL else "policy-denied"
            return Refusal(code=code, message=f"{credential.name}: {decision.message}", hint=decision.hint)
        try:
            secret = await self._resolve(task, credential.secret)
        except LeaseholdError as e:
            self._record(event, task, credential, Outcome.FAILED, policy=decision.policy, reason=e.code)
            raise
        # Secrets take their time: the task may be over by now.
        over = self._is_over(task, held, credential)
        if over is not None:
            return over
        # Appended before the create and the release: what cannot be recorded is not given (DESIGN 6).
        self._record(event, task, credential, Outcome.ALLOWED, policy=decision.policy, reason="")
        lease = await self._lease(held, task, credential, secret)
        over = self._is_over(task, held, credential)
        if over is not None:
            await self.take_back([lease])
            return over
        return lease

    def _is_over(self, task: str, held: _Held, credential: Credential) -> Refusal | None:
        if self._tasks.get(task) is not held or self._clock() >= held.deadline:
            return _TASK_ENDED
        why = held.revoked.get(credential.name)
        return _revoked(credential.name, why) if why else None

    async def _lease(self, held: _Held, task: str, credential: Credential, secret: Secret) -> Lease:
        """Of a static credential ``secret`` itself; else what its provider makes for the administrative ``secret``."""
        now = self._clock()
        until = held.until.setdefault(credential.name, min(held.deadline, now + credential.max_ttl_s))
        if credential.issuer == "static":
            return Lease(
                task=task,
                credential=credential.name,
                secret=secret,
                issued=now,
                expires=until,
                until=until,
                revocability=Revocability.STOPS_BEING_INJECTED,
            )
        live = await self._issuing.issue(task, credential, secret, until)
        material = live.issued.material
        username = material.get("username")
        return Lease(
            task=task,
            credential=credential.name,
            secret=_value(material),
            issued=now,
            expires=min(live.entry.expires, until),
            until=until,
            revocability=live.entry.revocability,
            username=username.reveal().decode() if username else "",
            material=material,
            entry=live.entry,
        )

    async def take_back(self, leases: Sequence[Lease]) -> dict[str, State]:
        """Have the providers take back what they made; credential to how far that is, after some seconds at most.

        What is not done by then is left to a sweep.
        """
        made = [lease for lease in leases if lease.entry is not None]
        ending = [asyncio.create_task(self._issuing.end(lease.entry)) for lease in made if lease.entry is not None]
        if ending:
            await asyncio.wait(ending, timeout=_TAKE_BACK_S)
        found: dict[str, State] = {}
        for lease, each in zip(made, ending, strict=True):
            state = each.result().state if each.done() else State.REVOKING
            if found.get(lease.credential, State.REVOKED) is State.REVOKED:  # of several, the one that is least done
                found[lease.credential] = state
        return found

    def renewable(self, now: float) -> list[Lease]:
        """Leases to be renewed now: the provider lets them end before the task has to give them up."""
        return [
            lease
            for held in self._tasks.values()
            for lease in held.leases.values()
            if now >= max(lease.renew_at, held.patience.get(lease.credential, 0.0))
            and now < lease.expires
            and lease.credential not in held.ended
        ]

    async def renew(self, old: Lease, credential: Credential) -> Lease | None:
        """The next one, decided and recorded like the first; ``None`` when there is none, or none any more.

        The old one is the caller's to take back, when nobody uses it any longer. An error is tried again, later.
        """
        held = self._tasks.get(old.task)
        if held is None:
            return None
        async with held.turns[credential.name]:
            if held.leases.get(credential.name) is not old:
                return None
            held.patience[credential.name] = self._clock() + _RETRY_S
            new = await self._new(held, old.task, credential)
            return new if isinstance(new, Lease) else None

    def lapse(self, lease: Lease) -> None:
        """It is over before its successor came: the next use asks for one."""
        held = self._tasks.get(lease.task)
        if held is not None and held.leases.get(lease.credential) is lease:
            del held.leases[lease.credential]

    def close(self, task: str) -> list[Lease]:
        """Forget the task's leases; returns what it held."""
        held = self._tasks.pop(task, None)
        self._issuing.tell()
        return [*held.leases.values(), *held.exposed] if held else []

    def held(self) -> list[tuple[Lease, bool]]:
        """What the open tasks have, each with whether its use has ended."""
        return [
            (lease, name in held.ended or name in held.revoked)
            for held in self._tasks.values()
            for name, lease in held.leases.items()
        ]

    def revoke(self, task: str, credential: str, why: str = "revoked by the operator") -> None:
        """From now on the task gets none for this credential, had it one or not. ``why`` is what the agent is told.

        What it has at a provider is the caller's to take back; the one that is just being made is taken back here.
        """
        held = self._tasks.get(task)
        if held is not None:
            held.revoked[credential] = why
            held.ended.add(credential)
            self._issuing.tell()

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
            self._issuing.tell()
            self._over(lease.task, credential)

    def _over(self, task: str, credential: Credential) -> Refusal:
        message = "Its time in this task is over."
        self._audit.append(Event.CREDENTIAL_EXPIRED, outcome=Outcome.DENIED, task=task, credential=credential.name)
        hint = f"A task may use it for {credential.max_ttl_s} s (max_ttl). Start a new task."
        return Refusal(code="access-ended", message=f"{credential.name}: {message}", hint=hint)

    def _record(
        self, event: Event, task: str, credential: Credential, outcome: Outcome, *, policy: str, reason: str
    ) -> None:
        self._audit.append(
            event,
            outcome=outcome,
            task=task,
            credential=credential.name,
            role=credential.role.value,
            environment=credential.environment.value,
            policy=policy,
            reason=reason,
        )


def _revoked(credential: str, why: str) -> Refusal:
    hint = "Ask the operator why. Another task may get it."
    return Refusal(code="access-ended", message=f"{credential}: {why}.", hint=hint)


def _value(material: Mapping[str, Secret]) -> Secret:
    """What is delivered, in one piece."""
    for name in ("token", "password"):
        if name in material:
            return material[name]
    return Secret(json.dumps({name: value.reveal().decode() for name, value in material.items()}).encode())
