"""The one door to issuers: time limits, nothing wider than asked, errors that say whose they are."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Collection
from typing import TypeVar

from leasehold.broker.issuers.ports import NAME_PREFIX, Issued, Issuer, Order
from leasehold.broker.lease.machine import Revocability
from leasehold.core.errors import IssuerError, LeaseholdError
from leasehold.core.secret import Secret

T = TypeVar("T")

CREATE_TIMEOUT_S = 20.0
"""An issuer that takes longer is given up; a sweep looks at an intent only when it is older."""
REVOKE_TIMEOUT_S = 30.0
_CLOCK_SLACK_S = 2.0


class CheckedIssuer:
    """An issuer that is not believed. Its errors carry no text of the provider's that could hold a secret.

    ``create_s``, ``revoke_s``: how long it may take, in seconds.
    """

    def __init__(
        self, issuer: Issuer, *, create_s: float = CREATE_TIMEOUT_S, revoke_s: float = REVOKE_TIMEOUT_S
    ) -> None:
        self._issuer = issuer
        self._create_s = create_s
        self._revoke_s = revoke_s
        self.kind: str = issuer.kind
        self.revocability: Revocability = issuer.revocability
        self.scope: frozenset[str] = issuer.scope
        self.lists: bool = getattr(issuer, "lists", False)
        can_end = self.revocability in (Revocability.NOW, Revocability.NEXT_USE)
        self.outlasts_s: float = getattr(issuer, "outlasts_s", 0.0) if can_end else 0.0

    async def check(self) -> None:
        """See :meth:`Issuer.check`."""
        await self._ask("check", self._issuer.check(), self._create_s)

    async def issue(self, order: Order) -> Issued:
        """See :meth:`Issuer.issue`; what is wider or lasts longer than ordered is revoked at once, and an error."""
        issued = await self._ask("issue", self._issued(order), self._create_s)
        wrong = _wider(order, issued, self.outlasts_s)
        if wrong:
            await self.revoke(order.name, issued.kept)
            raise self._error(
                "issue", f"the provider gave {wrong}; it was taken back", "look at what the issuer is granted"
            )
        return issued

    async def revoke(self, name: str, kept: Secret | None = None) -> bool:
        """See :meth:`Issuer.revoke`."""
        if not name.startswith(NAME_PREFIX):
            raise self._error("revoke", "the name is none of ours", "this is a defect in Leasehold; please report it")
        gone = await self._ask("revoke", self._issuer.revoke(name, kept), self._revoke_s)
        return gone is True  # of what says nothing, nobody says that it is gone

    async def find(self) -> Collection[str]:
        """See :meth:`Issuer.find`; a name that is none of ours is left out."""
        return await self._ask("find", self._found(), self._revoke_s)

    async def close(self) -> None:
        """See :meth:`Issuer.close`."""
        await self._issuer.close()

    async def _issued(self, order: Order) -> Issued:
        """``TypeError`` for what is no credential: an intent is all that there is of it then, and is swept."""
        issued = await self._issuer.issue(order)
        if not isinstance(issued, Issued) or not isinstance(issued.expires, (int, float)):
            raise TypeError
        if not all(isinstance(value, Secret) for value in (*issued.material.values(), issued.kept or order.secret)):
            raise TypeError
        if not issued.material or not isinstance(issued.scope, frozenset):
            raise TypeError
        return issued

    async def _found(self) -> frozenset[str]:
        return frozenset(name for name in await self._issuer.find() if name.startswith(NAME_PREFIX))

    async def _ask(self, verb: str, call: Awaitable[T], limit_s: float) -> T:
        try:
            async with asyncio.timeout(limit_s):
                return await call
        except TimeoutError:
            failure = self._error(verb, f"no answer within {limit_s:g} s", "is the provider up and reachable?")
        except LeaseholdError as e:
            failure = self._error(verb, e.message, e.hint)
        except Exception as e:
            failure = self._error(verb, f"{type(e).__name__}", "this is a defect in the issuer; please report it")
        # Behind the except block: the original, and what its frames hold, is not to be carried along.
        raise failure

    def _error(self, verb: str, message: str, hint: str) -> IssuerError:
        return IssuerError(f"issuer({self.kind}) {verb}: {message}", hint=hint)


def _wider(order: Order, issued: Issued, outlasts_s: float) -> str:
    # What is no number is not within the limit either.
    if not issued.expires <= order.expires + outlasts_s + _CLOCK_SLACK_S:
        return f"{issued.expires - order.expires:.0f} s more than asked"
    more = sorted(issued.scope - order.scope)
    return f"more than asked: {', '.join(more)}" if more else ""
