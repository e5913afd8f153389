"""A provider that fails at random, around the real one: requests and replies get lost, and calls hang."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Mapping
from random import Random
from typing import TypeVar

from leasehold.broker.issuers.builtin import BUILTIN, Parameters
from leasehold.broker.issuers.checked import CheckedIssuer
from leasehold.broker.issuers.ports import Issued, Issuer, Order
from leasehold.core.errors import IssuerError
from leasehold.core.secret import Secret

T = TypeVar("T")

KINDS = ("before", "after", "hang", "cut")
"""The request is lost; the reply is lost; it is done or not, and no reply comes; the connection ends in the middle."""
_CUT_S = 0.02


class Faults:
    """Whether a call fails, and how: ``share`` of them, by chance. ``count`` is told each kind that happens.

    ``call_s``: how long a hanging call lasts; much less than the product waits, whatever the call.
    """

    def __init__(self, share: float, call_s: float, chance: Random, count: Callable[[str], None]) -> None:
        self._share = share
        self._call_s = call_s
        self._chance = chance
        self._count = count

    def make(self, kind: str, parameters: Mapping[str, object], secret: Secret) -> CheckedIssuer:
        """For :class:`Issuing`: the real issuer behind this one, and behind the one door."""
        table = Parameters(kind, parameters)
        issuer = BUILTIN[kind](table, secret)
        table.done()
        return CheckedIssuer(_Faulty(issuer, self), create_s=self._call_s, revoke_s=self._call_s)

    async def around(self, call: Callable[[], Awaitable[T]]) -> T:
        """Call, or not, or call and lose the reply."""
        if self._chance.random() >= self._share:
            return await call()
        kind = self._chance.choice(KINDS)
        moment = self._chance.uniform(0, _CUT_S)
        arrives = self._chance.random() < 0.5
        self._count(kind)
        if kind == "cut":
            async with asyncio.timeout(moment):
                await call()
        elif kind == "after" or (kind == "hang" and arrives):
            await call()
        if kind == "hang":
            await asyncio.Event().wait()
        raise IssuerError("the connection was lost", hint="this is a test")


class _Faulty:
    def __init__(self, issuer: Issuer, faults: Faults) -> None:
        self._issuer = issuer
        self._faults = faults
        self.kind = issuer.kind
        self.revocability = issuer.revocability
        self.scope = issuer.scope

    async def check(self) -> None:
        await self._faults.around(self._issuer.check)

    async def issue(self, order: Order) -> Issued:
        return await self._faults.around(lambda: self._issuer.issue(order))

    async def revoke(self, name: str, kept: Secret | None = None) -> bool:
        return await self._faults.around(lambda: self._issuer.revoke(name, kept))

    async def find(self) -> Collection[str]:
        return await self._faults.around(self._issuer.find)

    async def close(self) -> None:
        await self._issuer.close()
