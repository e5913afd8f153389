"""A provider of accounts in a folder: one file an account, so that processes that are killed share it."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Collection, Mapping
from pathlib import Path

from leasehold.broker.audit.log import AuditLog
from leasehold.broker.issuers.checked import CheckedIssuer
from leasehold.broker.issuers.ports import NAME_PREFIX, Issued, Order
from leasehold.broker.lease.issuing import Clocks, Issuing
from leasehold.broker.lease.machine import Revocability
from leasehold.broker.lease.sealing import Recipes
from leasehold.broker.lease.store import SqliteLedger
from leasehold.core.errors import ConfigError, IssuerError
from leasehold.core.secret import Secret

ADMIN = Secret(b"administrator")


class Provider:
    """``down``: every call fails. ``extra_s``: how much longer than asked it lets a credential last; ``outlasts_s``:
    how much its issuer says that this may be.

    ``lists``: whether its issuer says that it lists all.

    ``meanwhile``: what happens while it is at work on one, before it is there; ``leaving``: before it is gone.
    ``keeps``: it takes back only what it is shown the receipt of.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(exist_ok=True)
        self.down = False
        self.extra_s = 0.0
        self.outlasts_s = 0.0
        self.keeps = False
        self.lists = True
        self.revocability = Revocability.NOW
        self.meanwhile: Callable[[], Awaitable[object] | None] = lambda: None
        self.leaving: Callable[[], Awaitable[object] | None] = lambda: None

    def names(self) -> set[str]:
        return {path.name for path in self.folder.iterdir()}

    def make(self, kind: str, parameters: Mapping[str, object], secret: Secret) -> CheckedIssuer:
        """For :class:`Issuing`."""
        if kind != "fake" or parameters.get("server") != "somewhere":
            raise ConfigError("issuer(fake): server: expected somewhere", hint="write it")
        return CheckedIssuer(_Issuer(self, secret))


class _Issuer:
    kind = "fake"
    scope = frozenset({"read"})

    def __init__(self, provider: Provider, admin: Secret) -> None:
        self._provider = provider
        self._admin = admin
        self.revocability = provider.revocability
        self.outlasts_s = provider.outlasts_s
        self.lists = provider.lists

    async def check(self) -> None:
        self._allowed()

    async def issue(self, order: Order) -> Issued:
        self._allowed()
        expires = order.expires + self._provider.extra_s
        waiting = self._provider.meanwhile()
        if waiting is not None:
            await waiting
        written = {"ordered": order.ordered, "expires": expires, "exposed": order.exposed}
        (self._provider.folder / order.name).write_text(json.dumps(written))
        material = {"username": Secret(order.name.encode()), "password": order.secret}
        kept = Secret(b"receipt") if self._provider.keeps else None
        return Issued(material=material, expires=expires, scope=order.scope, kept=kept)

    async def revoke(self, name: str, kept: Secret | None = None) -> bool:
        self._allowed()
        waiting = self._provider.leaving()
        if waiting is not None:
            await waiting
        if self.revocability is Revocability.TTL_ONLY:
            return False
        if self._provider.keeps and kept is None:
            return name not in self._provider.names()
        (self._provider.folder / name).unlink(missing_ok=True)
        return True

    async def find(self) -> Collection[str]:
        self._allowed()
        return {name for name in self._provider.names() if name.startswith(NAME_PREFIX)}

    async def close(self) -> None:
        return

    def _allowed(self) -> None:
        if self._provider.down or self._admin != ADMIN:
            raise IssuerError("the provider does not answer", hint="wait")


async def _at_once(_pause_s: float) -> None:
    """Time passes when a test says so."""


def issuing(
    folder: Path,
    provider: Provider,
    audit: AuditLog,
    clock: Callable[[], float],
    *,
    owner: str = "one",
    at: Callable[[str], None] = lambda _: None,
    key: bytes = b"r" * 32,
) -> Issuing:
    """What a broker process has, over a ledger in ``folder``."""
    return Issuing(
        lambda: SqliteLedger(folder),
        audit,
        Recipes(Secret(key)),
        provider.make,
        Clocks(wall=clock, boot=clock, sleep=_at_once),
        owner,
        at,
    )
