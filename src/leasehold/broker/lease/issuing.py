"""Creates what a lease stands for, and takes it back: intent, create, record; revoke until it is gone (DESIGN 6).

The order of the steps is the promise. Before each step that leaves a trace the one before is durable, so whoever comes
after a ``kill -9`` finds in the ledger all that may be live, and finishes it.
"""

from __future__ import annotations

import asyncio
import json
import secrets
import string
from base64 import b64decode, b64encode
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, contextmanager
from dataclasses import dataclass, replace
from typing import TypeVar

from leasehold.broker.audit.log import AuditLog
from leasehold.broker.audit.model import Event, Outcome
from leasehold.broker.issuers.checked import CREATE_TIMEOUT_S, REVOKE_TIMEOUT_S, CheckedIssuer
from leasehold.broker.issuers.ports import NAME_PREFIX, Issued, Order
from leasehold.broker.lease import machine
from leasehold.broker.lease.machine import Entry, State
from leasehold.broker.lease.ports import Ledger, StaleEntry
from leasehold.broker.lease.providers import Make, Providers
from leasehold.broker.lease.sealing import Recipes
from leasehold.core.errors import IssuerError, LeaseholdError
from leasehold.core.model import Credential
from leasehold.core.secret import Secret

T = TypeVar("T")

_LOWER = string.ascii_lowercase + string.digits
_PASSWORD_CHARS, _ID_CHARS = 32, 20
_UNSURE_S = 2 * CREATE_TIMEOUT_S
"""An intent is looked at when its provider can no more be at work on it."""
_BEGIN_S = 5.0
"""Between an intent and the call of its provider; what took longer is given up."""
_CLAIM_S = CREATE_TIMEOUT_S + _BEGIN_S + 2 * REVOKE_TIMEOUT_S
_AT_ONCE = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Clocks:
    """``wall``: Unix seconds. ``boot``: seconds that also count while the machine sleeps, and that nobody sets."""

    wall: Callable[[], float]
    boot: Callable[[], float]
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """A provider as a configuration names it; ``admin``: the administrative secret for it."""

    kind: str
    parameters: Mapping[str, object]
    admin: Secret


@dataclass(frozen=True, slots=True, kw_only=True)
class Live:
    """A lease that is active, and what a client needs for it."""

    entry: Entry
    issued: Issued


def _nowhere(_point: str) -> None:
    """What happens at a named point, but in tests that crash there: nothing."""


class Issuing:
    """One broker process's work on the ledger. ``owner`` names the process, and is never used again."""

    def __init__(
        self,
        open_ledger: Callable[[], Ledger],
        audit: AuditLog,
        recipes: Recipes,
        make: Make,
        clocks: Clocks,
        owner: str,
        at: Callable[[str], None] = _nowhere,
    ) -> None:
        self._open_ledger = open_ledger
        self._ledger: Ledger | None = None
        self._opening = asyncio.Lock()
        self._audit = audit
        self._recipes = recipes
        self._providers = Providers(make, clocks.boot)
        self._clock = clocks.wall
        self._clocks = clocks
        self._at = at
        self._at_work_on: Counter[str] = Counter()
        self._listeners: set[Callable[[], None]] = set()
        self.owner = owner

    @contextmanager
    def watched(self, listener: Callable[[], None]) -> Iterator[None]:
        """Call it after each change that this process makes to a lease."""
        self._listeners.add(listener)
        try:
            yield
        finally:
            self._listeners.discard(listener)

    def tell(self) -> None:
        """A lease has changed."""
        for listener in self._listeners:
            listener()

    def place(self, entry: Entry) -> Place:
        """Where it was made; ``LedgerError`` when its recipe does not open."""
        recipe = _Recipe.read(self._recipes.open(entry.id, entry.recipe))
        return Place(kind=recipe.kind, parameters=recipe.parameters, admin=recipe.admin)

    def provider(self, place: Place) -> AbstractAsyncContextManager[CheckedIssuer]:
        """Its issuer, for some calls."""
        return self._providers.issuer(place.kind, place.parameters, place.admin)

    async def entry(self, entry_id: str) -> Entry | None:
        """One entry of the ledger."""
        return await self._ask(lambda ledger: ledger.entry(entry_id))

    async def entries(
        self, *, task: str = "", states: Collection[State] = (), after: str = "", limit: int = 100
    ) -> Sequence[Entry]:
        """A page of the ledger, this broker's leases and others'; see :meth:`Ledger.entries`."""
        return await self._ask(lambda ledger: ledger.entries(task=task, states=states, after=after, limit=limit))

    async def issue(self, task: str, credential: Credential, admin: Secret, expires: float) -> Live:
        """Create it for a task, to last until ``expires`` at most. ``admin``: the administrative secret.

        ``IssuerError``, ``LedgerError`` or ``AuditError`` when it cannot be; what may be there by then is taken back.
        """
        recipe = _Recipe(kind=credential.issuer, parameters=dict(credential.parameters), admin=admin)
        async with self._providers.issuer(recipe.kind, recipe.parameters, admin) as issuer:
            entry = self._intent(task, credential, issuer, recipe, expires)
            began = self._clocks.boot()
            self._at("intent-before")
            await self._ask(lambda ledger: ledger.intend(entry))
            self.tell()
            self._at("intent-after")
            self._at_work_on[entry.id] += 1
            try:
                if self._clocks.boot() - began > _BEGIN_S:
                    raise IssuerError(f"issuer({issuer.kind}) issue: the ledger took too long", hint="try again")
                return await self._create(entry, issuer, recipe, expires, exposed=bool(credential.expose))
            except BaseException:
                await asyncio.shield(self._doubt(entry))
                raise
            finally:
                self._at_work_on[entry.id] -= 1
                self._at_work_on += Counter()

    def _intent(
        self, task: str, credential: Credential, issuer: CheckedIssuer, recipe: _Recipe, expires: float
    ) -> Entry:
        now = self._clock()
        entry_id = _random(_LOWER, _ID_CHARS)
        return Entry(
            id=entry_id,
            key=f"{task}/{credential.name}/{entry_id}",
            owner=self.owner,
            task=task,
            credential=credential.name,
            issuer=credential.issuer,
            name=f"{NAME_PREFIX}{task}_{entry_id}",
            revocability=issuer.revocability,
            recipe=self._recipes.seal(entry_id, recipe.written()),
            state=State.INTENDED,
            epoch=0,
            created=now,
            # What nobody can take back, because the answer was lost, may last as long as the provider lets it.
            expires=expires + issuer.outlasts_s,
            due=now + _UNSURE_S,
        )

    async def _create(
        self, entry: Entry, issuer: CheckedIssuer, recipe: _Recipe, expires: float, *, exposed: bool
    ) -> Live:
        order = Order(
            name=entry.name,
            secret=Secret(_random(string.ascii_letters + string.digits, _PASSWORD_CHARS).encode()),
            task=entry.task,
            expires=expires,
            scope=issuer.scope,
            ordered=entry.created,
            exposed=exposed,
        )
        self._at("create-before")
        issued = await issuer.issue(order)
        self._at("create-after")
        kept = replace(recipe, kept=issued.kept) if issued.kept else None
        full = self._recipes.seal(entry.id, kept.written()) if kept else b""
        active = machine.activated(entry, issued.expires, full, due=expires)
        # Appended before it is released: what cannot be recorded is not given.
        self._record(active, Event.LEASE_ISSUED, Outcome.DONE)
        self._at("record-before")
        try:
            await self._ask(lambda ledger: ledger.change(entry, active))
        except StaleEntry:
            # It took so long that a sweep has taken back what was not there yet.
            await issuer.revoke(entry.name, issued.kept)
        else:
            self._at("record-after")
            self.tell()
            return Live(entry=active, issued=issued)
        raise IssuerError(f"issuer({issuer.kind}) issue: it took too long", hint="try again")

    async def _doubt(self, entry: Entry) -> None:
        """Take back what nobody will get. An intent stays one: the provider may still be at work on it, and what it
        creates after it was asked to drop it would live. A sweep looks at it when that can no more be."""
        current = await self._ask(lambda ledger: ledger.entry(entry.id))
        if current is not None and current.state is State.ACTIVE:
            await self._change(current, machine.ending(current, self._clock()))

    async def take_over(self, dead_since: float) -> int:
        """Make due what the brokers held that have not been alive since then; how many leases that are."""
        now = self._clock()
        await self._ask(lambda ledger: ledger.beat(self.owner, now))
        return await self._ask(lambda ledger: ledger.orphaned(now, dead_since, keep=[self.owner]))

    async def beat(self) -> None:
        """Say that this broker is alive."""
        if self._ledger is not None:
            await self._ask(lambda ledger: ledger.beat(self.owner, self._clock()))

    async def stop(self) -> None:
        """Let go of providers and of the ledger; idempotent."""
        await self._providers.close()
        self.close()

    def close(self) -> None:
        """Let go of the ledger; idempotent."""
        if self._ledger is not None:
            self._ledger.close()

    async def end(self, entry: Entry) -> Entry:
        """Take a lease back now; returns the entry as it is then: closed, or to be tried again by a sweep."""
        self._at_work_on[entry.id] += 1
        try:
            entry = await self._begin_to_end(entry)
            return await self._revoke(entry) if entry.state in (State.REVOKING, State.QUARANTINED) else entry
        finally:
            self._at_work_on[entry.id] -= 1
            self._at_work_on += Counter()  # without those that are at nothing

    async def _begin_to_end(self, entry: Entry) -> Entry:
        """An active one is ended however often another changes it meanwhile; an intent only as it was seen: one that
        has become a lease by now is somebody's."""
        while entry.state in (State.INTENDED, State.ACTIVE):
            ending = machine.ending(entry, self._clock())
            self._at("end-before")
            changed = await self._change(entry, ending)
            self._at("end-after")
            current = ending if changed else await self._current(entry)
            if current.state is not entry.state or current.epoch == entry.epoch:
                return current
            entry = current
        return entry

    async def sweep(self, ahead_s: float = 0.0) -> int:
        """Work on what is due, this broker's or another's; how many entries were worked on.

        ``ahead_s``: also on what is due by then, as when the clock was set back by so much.
        Nothing before the ledger has been opened: no lease has been issued by then, and none was left.
        """
        if self._ledger is None:
            return 0
        await self._providers.rest()
        now = self._clock() + ahead_s
        claimed = await self._ask(lambda ledger: ledger.claim(now, _AT_ONCE, self.owner, now + _CLAIM_S))
        await asyncio.gather(*(self._work(entry) for entry in claimed))
        return len(claimed)

    async def _work(self, entry: Entry) -> None:
        if entry.id in self._at_work_on:
            return  # it is due, by its age or as it is ending; but it is this very process that is at work on it
        if entry.state is State.INTENDED:
            # Its age was taken from wall clocks, which may have been set, or differ between brokers.
            await self._clocks.sleep(CREATE_TIMEOUT_S + _BEGIN_S)
        await self.end(entry)

    async def _revoke(self, entry: Entry) -> Entry:
        try:
            recipe = _Recipe.read(self._recipes.open(entry.id, entry.recipe))
            async with self._providers.issuer(recipe.kind, recipe.parameters, recipe.admin) as issuer:
                self._at("revoke-before")
                is_gone = await issuer.revoke(entry.name, recipe.kept)
                self._at("revoke-after")
        except LeaseholdError as e:
            return await self._failed(entry, e)
        now = self._clock()
        if is_gone:
            after = machine.gone(entry, now)
            self._record(after, Event.LEASE_REVOKED, Outcome.DONE)
        elif now < entry.expires:
            after = machine.waiting(entry)
        else:
            after = machine.lapsed(entry, now)
            self._record(after, Event.LEASE_EXPIRED, Outcome.DONE)
        self._at("close-before")
        changed = await self._change(entry, after)
        self._at("close-after")
        return after if changed else await self._current(entry)

    async def _failed(self, entry: Entry, error: LeaseholdError) -> Entry:
        after = machine.failed(entry, self._clock(), error.message)
        if after.attempts == 1 or after.state is not entry.state:
            self._record(after, Event.LEASE_STUCK, Outcome.FAILED)
        return after if await self._change(entry, after) else await self._current(entry)

    async def _change(self, before: Entry, after: Entry) -> bool:
        """Whether it was as ``before``; if not, another worker is at it."""
        try:
            await self._ask(lambda ledger: ledger.change(before, after))
        except StaleEntry:
            return False
        self.tell()
        return True

    async def _current(self, entry: Entry) -> Entry:
        return await self._ask(lambda ledger: ledger.entry(entry.id)) or entry

    async def _ask(self, what: Callable[[Ledger], T]) -> T:
        """Ask the ledger in a thread. It is opened when it is first needed: its driver takes long to load."""
        async with self._opening:
            ledger = await asyncio.to_thread(self._open_ledger) if self._ledger is None else self._ledger
            self._ledger = ledger
        return await asyncio.to_thread(what, ledger)

    def _record(self, entry: Entry, event: Event, outcome: Outcome) -> None:
        self._audit.append(
            event,
            outcome=outcome,
            task=entry.task,
            lease=entry.id,
            credential=entry.credential,
            issuer=entry.issuer,
            name=entry.name,
            revocability=entry.revocability.value,
            attempts=entry.attempts,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Recipe:
    """What revoking needs, also when the configuration or the vault has it no more."""

    kind: str
    parameters: Mapping[str, object]
    admin: Secret
    kept: Secret | None = None

    def written(self) -> Secret:
        kept = b64encode(self.kept.reveal()).decode() if self.kept else None
        secret = b64encode(self.admin.reveal()).decode()
        fields = {"kind": self.kind, "parameters": self.parameters, "secret": secret, "kept": kept}
        return Secret(json.dumps(fields).encode())

    @classmethod
    def read(cls, written: Secret) -> _Recipe:
        fields = json.loads(written.reveal())
        kept = Secret(b64decode(fields["kept"])) if fields["kept"] else None
        admin = Secret(b64decode(fields["secret"]))
        return cls(kind=fields["kind"], parameters=fields["parameters"], admin=admin, kept=kept)


def _random(alphabet: str, length: int) -> str:
    return "".join(secrets.choice(alphabet) for _ in range(length))
