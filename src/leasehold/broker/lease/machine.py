"""The states of a lease and its lawful changes (DESIGN 6). Pure: the time is given, nothing is stored here.

An entry is written before anything exists at the provider, and it is the lease from then on. ``due`` is the one
thing that a sweep has to look for: an intent that was never confirmed, a lease that is over, a revocation to be tried
(again). So nothing depends on a timer, on memory or on who wrote the entry.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, replace


class State(enum.StrEnum):
    """``INTENDED`` until the provider has answered; ``REVOKED`` and ``EXPIRED`` are ends."""

    INTENDED = "intended"
    ACTIVE = "active"
    REVOKING = "revoking"
    QUARANTINED = "quarantined"
    REVOKED = "revoked"
    EXPIRED = "expired"


OPEN = frozenset({State.INTENDED, State.ACTIVE, State.REVOKING, State.QUARANTINED})
"""In these states the provider may have the credential."""


class Revocability(enum.StrEnum):
    """What taking back does at the provider."""

    NOW = "now"
    NEXT_USE = "next-use"
    ROLE_WIDE = "role-wide"
    TTL_ONLY = "ttl-only"
    STOPS_BEING_INJECTED = "stops-being-injected"


ATTEMPTS_BEFORE_QUARANTINE = 5
_BACKOFF_FIRST_S, _BACKOFF_MAX_S = 1.0, 300.0


class IllegalChange(Exception):
    """A change that the state does not allow: a defect of the caller."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One row of the ledger. Times are Unix seconds.

    ``id`` is never used again, and neither is ``name``, which the provider knows the credential by. ``key``: what a
    repeated request is recognised by. ``owner``: the broker process whose end ends the lease. ``recipe``: sealed; what
    revoking needs, also when the configuration has gone. ``epoch`` grows with each change, so that a worker with an old
    copy cannot write.
    """

    id: str
    key: str
    owner: str
    task: str
    credential: str
    issuer: str
    name: str
    revocability: Revocability
    recipe: bytes
    state: State
    epoch: int
    created: float
    expires: float
    due: float
    closed: float | None = None
    attempts: int = 0
    error: str = ""


def activated(entry: Entry, expires: float, recipe: bytes = b"", *, due: float | None = None) -> Entry:
    """The provider has created it, to last until ``expires``. ``recipe``: with what the provider said, if it did.

    ``due``: when it is to be taken back, where the provider lets nothing end as soon as that.
    """
    _only(entry, State.INTENDED)
    due = expires if due is None else min(due, expires)
    return _next(entry, state=State.ACTIVE, expires=expires, due=due, recipe=recipe or entry.recipe)


def renewed(entry: Entry, expires: float) -> Entry:
    """The provider lets it last until ``expires``."""
    _only(entry, State.ACTIVE)
    return _next(entry, expires=expires, due=expires)


def ending(entry: Entry, now: float) -> Entry:
    """It is to be taken back: its time or its task is over, or nobody knows whether it was created."""
    _only(entry, State.INTENDED, State.ACTIVE)
    return _next(entry, state=State.REVOKING, due=now)


def gone(entry: Entry, now: float) -> Entry:
    """The provider was asked, and has it no more."""
    _only(entry, State.REVOKING, State.QUARANTINED)
    return _next(entry, state=State.REVOKED, closed=now, error="", due=now)


def lapsed(entry: Entry, now: float) -> Entry:
    """The provider could not take it back, and its time is over."""
    _only(entry, State.REVOKING, State.QUARANTINED)
    if now < entry.expires:
        raise IllegalChange(f"{entry.id} lasts until its time is over")
    return _next(entry, state=State.EXPIRED, closed=now, error="", due=now)


def waiting(entry: Entry) -> Entry:
    """The provider has done what it can, and the rest ends when its time is over."""
    _only(entry, State.REVOKING, State.QUARANTINED)
    return _next(entry, due=entry.expires)


def failed(entry: Entry, now: float, error: str) -> Entry:
    """Taking it back did not succeed: tried again for ever, ever more seldom; after a while it is an alarm too."""
    _only(entry, State.REVOKING, State.QUARANTINED)
    attempts = entry.attempts + 1
    state = State.QUARANTINED if attempts >= ATTEMPTS_BEFORE_QUARANTINE else State.REVOKING
    return _next(entry, state=state, attempts=attempts, error=error, due=now + backoff_s(attempts))


def backoff_s(attempts: int) -> float:
    """Seconds until the next attempt, doubled each time up to five minutes."""
    return float(min(_BACKOFF_MAX_S, _BACKOFF_FIRST_S * 2 ** min(attempts - 1, 16)))


def _only(entry: Entry, *states: State) -> None:
    if entry.state not in states:
        raise IllegalChange(f"{entry.id} is {entry.state}")


def _next(entry: Entry, **changes: object) -> Entry:
    return replace(entry, epoch=entry.epoch + 1, **changes)  # type: ignore[arg-type]  # the fields of Entry
