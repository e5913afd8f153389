"""Where a test orders credentials of one issuer."""

from __future__ import annotations

import secrets
import string
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from typing import Any

from contract.subject import Session, Subject
from leasehold.broker.issuers.checked import CheckedIssuer
from leasehold.broker.issuers.ports import NAME_PREFIX, Issued, Order
from leasehold.core.secret import Secret

Run = Callable[[Awaitable[Any]], Any]
"""Runs a coroutine to its end."""

LETTERS = string.ascii_letters + string.digits
LASTS_S = 600.0
LIMIT_S = 0.5
"""How long an issuer may take when its provider is silent: short, for the test's sake."""


class Desk:
    """Orders and takes back at one provider; in the end everything ordered is taken back."""

    def __init__(self, subject: Subject, run: Run) -> None:
        self._subject = subject
        self._run = run
        self._ordered: list[str] = []
        self._kept: dict[str, Secret | None] = {}
        self._sessions: list[Session] = []
        self.issuer = self.made()

    def made(
        self, address: tuple[str, int] | None = None, secret: Secret | None = None, **limits: float
    ) -> CheckedIssuer:
        """The issuer behind its door, with a wrong address or a wrong secret for a change."""
        subject = self._subject
        return CheckedIssuer(subject.issuer(subject.parameters(address), secret or subject.secret), **limits)

    def order(self, **changes: Any) -> Order:
        """A new one for the whole scope."""
        order = Order(
            name=f"{NAME_PREFIX}{secrets.token_hex(8)}",
            secret=Secret("".join(secrets.choice(LETTERS) for _ in range(32)).encode()),
            task="t1",
            expires=time.time() + LASTS_S,
            scope=self._subject.scope,
            ordered=time.time(),
        )
        order = replace(order, **changes)
        self._ordered.append(order.name)
        return order

    def issue(self, order: Order) -> Issued:
        issued: Issued = self._run(self.issuer.issue(order))
        self._kept[order.name] = issued.kept
        return issued

    def revoke(self, name: str) -> bool:
        """With what the issuer kept of it, as the ledger does."""
        gone: bool = self._run(self.issuer.revoke(name, self._kept.get(name)))
        return gone

    def forget(self, name: str) -> None:
        """What the issuer kept of it, as a crash does before it is recorded."""
        self._kept[name] = None

    def open(self, material: Mapping[str, Secret]) -> Session:
        """A connection that is closed when the test ends."""
        session = self._subject.open(material)
        self._sessions.append(session)
        return session

    def close(self) -> None:
        for session in self._sessions:
            session.close()
        for name in self._ordered:
            if self._kept.get(name) or name in self._subject.accounts():
                self.revoke(name)
        self._run(self.issuer.close())
