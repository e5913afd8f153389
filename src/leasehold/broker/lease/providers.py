"""Issuers that are kept for a moment, so that a lease need not wait for a connection and its TLS handshake.

One is used for half a minute at most, however busy it is: what a provider has refused, or an operator has changed by
then, is seen by the next. Failed calls change nothing: an issuer has no state, and a connection that failed is no more.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Protocol

from leasehold.broker.issuers.checked import CheckedIssuer
from leasehold.core.secret import Secret

_KEPT_S = 30.0


class Make(Protocol):
    """Makes an issuer; see :func:`leasehold.broker.issuers.builtin.make`."""

    def __call__(self, kind: str, parameters: Mapping[str, object], secret: Secret) -> CheckedIssuer: ...


@dataclass(slots=True, eq=False)
class _Kept:
    made_of: tuple[str, Mapping[str, object], Secret]
    issuer: CheckedIssuer
    since: float
    users: int = 0


class Providers:
    """One issuer for each kind, parameters and administrative secret. ``clock``: seconds that nobody sets."""

    def __init__(self, make: Make, clock: Callable[[], float]) -> None:
        self._make = make
        self._clock = clock
        self._kept: list[_Kept] = []

    @asynccontextmanager
    async def issuer(self, kind: str, parameters: Mapping[str, object], admin: Secret) -> AsyncIterator[CheckedIssuer]:
        """For one call or some; ``ConfigError`` when there can be none. Others may use it at the same time."""
        await self.rest()
        made_of = (kind, parameters, admin)
        kept = next((kept for kept in self._kept if kept.made_of == made_of), None)
        if kept is None:
            kept = _Kept(made_of, self._make(kind, parameters, admin), self._clock())
            self._kept.append(kept)
        kept.users += 1
        try:
            yield kept.issuer
        finally:
            kept.users -= 1
            if not kept.users and kept not in self._kept:
                await kept.issuer.close()

    async def rest(self) -> None:
        """Let go of what has been kept long enough."""
        await self._let_go(self._clock() - _KEPT_S)

    async def close(self) -> None:
        """Let go of all; whoever is still at work closes what he has. Idempotent."""
        await self._let_go(self._clock())

    async def _let_go(self, until: float) -> None:
        for kept in [kept for kept in self._kept if kept.since <= until]:
            self._drop(kept)
            if not kept.users:
                await kept.issuer.close()

    def _drop(self, kept: _Kept) -> None:
        self._kept = [other for other in self._kept if other is not kept]
