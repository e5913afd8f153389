"""What providers have against what the ledger says they have, both ways (DESIGN 6).

A name of ours at a provider is no proof that it is this ledger's: another broker, with another ledger, may share the
provider. So what nobody knows is reported, and taken back only when an operator says so.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field

from leasehold.broker.audit.log import AuditLog
from leasehold.broker.audit.model import Event, Outcome
from leasehold.broker.issuers.checked import CheckedIssuer
from leasehold.broker.lease.issuing import Issuing, Place
from leasehold.broker.lease.machine import OPEN, Entry, State
from leasehold.core.errors import LeaseholdError

_PAGE = 500


@dataclass(slots=True, kw_only=True)
class Report:
    """``orphans``: issuer and name, and whether it was taken back. ``ghosts``: as they are now. ``problems``: issuer
    and why its provider could not be looked at. ``unlisted``: issuers whose provider lists nothing."""

    looked_at: int = 0
    orphans: list[tuple[str, str, bool]] = field(default_factory=list)
    ghosts: list[Entry] = field(default_factory=list)
    problems: list[tuple[str, str]] = field(default_factory=list)
    unlisted: list[str] = field(default_factory=list)


class Inventory:
    """Compares, reports and, where it may, puts right."""

    def __init__(self, issuing: Issuing, audit: AuditLog) -> None:
        self._issuing = issuing
        self._audit = audit

    async def take(self, configured: Sequence[Place], *, repair: Callable[[str], bool]) -> Report:
        """At every provider that an open entry or ``configured`` names. ``repair``: which orphans to take back."""
        report = Report()
        places: dict[str, Place] = {}
        for entry in await self._open():
            try:
                place = self._issuing.place(entry)
            except LeaseholdError as e:
                report.problems.append((entry.issuer, e.message))
            else:
                places[_key(place)] = place
        places |= {_key(place): place for place in configured}
        for place in places.values():
            try:
                async with self._issuing.provider(place) as issuer:
                    await self._compare(issuer, place, report, repair)
            except LeaseholdError as e:
                report.problems.append((place.kind, e.message))
        return report

    async def _compare(
        self, issuer: CheckedIssuer, place: Place, report: Report, repair: Callable[[str], bool]
    ) -> None:
        # Read before and after: what is issued or taken back meanwhile is in one of them.
        before = await self._open()
        found = frozenset(await issuer.find())
        known = {entry.name for entry in [*before, *await self._open()]}
        report.looked_at += 1
        for name in sorted(found - known):
            gone = await issuer.revoke(name) if repair(name) else False
            report.orphans.append((place.kind, name, gone))
            self._audit.append(
                Event.LEASE_ORPHAN, outcome=Outcome.DONE if gone else Outcome.FAILED, issuer=place.kind, name=name
            )
        if not found and not issuer.lists:
            report.unlisted.append(place.kind)
            return
        missing = [e for e in before if e.state is State.ACTIVE and e.name not in found and self._is_at(e, place)]
        await self._close(issuer, missing, report)

    async def _close(self, issuer: CheckedIssuer, missing: Sequence[Entry], report: Report) -> None:
        """Ghosts: what is missing at a second look too, and has not changed since the first."""
        again: Collection[str] = await issuer.find() if missing else ()
        for entry in missing:
            if entry.name in again or await self._issuing.entry(entry.id) != entry:
                continue
            self._audit.append(
                Event.LEASE_GHOST,
                outcome=Outcome.FAILED,
                task=entry.task,
                lease=entry.id,
                credential=entry.credential,
                issuer=entry.issuer,
                name=entry.name,
                revocability=entry.revocability.value,
                attempts=entry.attempts,
            )
            report.ghosts.append(await self._issuing.end(entry))

    def _is_at(self, entry: Entry, place: Place) -> bool:
        try:
            return _key(self._issuing.place(entry)) == _key(place)
        except LeaseholdError:
            return False

    async def _open(self) -> list[Entry]:
        found: list[Entry] = []
        after: str | None = ""
        while after is not None:
            page = await self._issuing.entries(states=sorted(OPEN), after=after, limit=_PAGE)
            found += page
            after = page[-1].id if len(page) == _PAGE else None
        return found


def _key(place: Place) -> str:
    """The same provider, whatever its administrative secret is by now."""
    parameters: Mapping[str, object] = place.parameters
    return json.dumps([place.kind, parameters], sort_keys=True, default=list)
