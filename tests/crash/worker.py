"""One broker process that issues a lease and takes it back, and kills itself at a named point.

Told on standard input, so that no secret stands in its arguments. What a provider has given is told on standard output
before anything else happens to it: the worst that a process could do with it before it dies.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from leasehold.broker.audit.log import AuditLog
from leasehold.broker.issuers import builtin
from leasehold.broker.issuers.checked import CheckedIssuer
from leasehold.broker.issuers.ports import Issued, Order
from leasehold.broker.lease.issuing import Clocks, Issuing
from leasehold.broker.lease.ports import Ledger
from leasehold.broker.lease.sealing import Recipes
from leasehold.core.model import Credential, Environment, Role
from leasehold.core.secret import Secret

POINTS = (
    "intent-before",
    "intent-after",
    "create-before",
    "create-after",
    "record-before",
    "record-after",
    "end-before",
    "end-after",
    "revoke-before",
    "revoke-after",
    "close-before",
    "close-after",
)
"""Before and after each durable write and each call of the provider."""
TTL_S = 900.0
KEY = Secret(b"k" * 32)


class Telling(CheckedIssuer):
    """Says what it was given."""

    async def issue(self, order: Order) -> Issued:
        issued = await super().issue(order)
        material = {part: value.reveal().decode() for part, value in issued.material.items()}
        print(json.dumps({"material": material, "expires": issued.expires}), flush=True)
        return issued


def make(kind: str, parameters: Mapping[str, object], secret: Secret, **more: Any) -> CheckedIssuer:
    return Telling(builtin.make(kind, parameters, secret, **more))


def broker(told: dict[str, Any], *, owner: str, now: float, point: str = "") -> Issuing:
    """A broker process's issuing, which ends by ``kill -9`` at ``point``."""
    folder = Path(told["folder"])

    def at(reached: str) -> None:
        if reached == point:
            os.kill(os.getpid(), signal.SIGKILL)

    def ledger() -> Ledger:
        from leasehold.broker.lease.store import PostgresLedger, SqliteLedger

        return PostgresLedger(Secret(told["ledger"].encode())) if told["ledger"] else SqliteLedger(folder)

    audit = AuditLog(folder / f"audit-{owner}", KEY, clock=lambda: now)
    clocks = Clocks(wall=lambda: now, boot=lambda: now, sleep=_at_once)
    return Issuing(ledger, audit, Recipes(KEY), make, clocks, owner, at)


async def _at_once(_pause_s: float) -> None:
    """The process that was at work on the intent is dead, and so is its connection."""


def credential(told: dict[str, Any]) -> Credential:
    return Credential(
        name="orders",
        issuer=told["kind"],
        secret="vault:admin",
        environment=Environment.STAGING,
        role=Role.EXECUTE,
        max_ttl_s=int(TTL_S),
        endpoints=(),
        parameters=tuple(told["parameters"].items()),
    )


async def main() -> None:
    told = json.load(sys.stdin)
    issuing = broker(told, owner="first", now=told["now"], point=told["point"])
    live = await issuing.issue(told["task"], credential(told), Secret(told["secret"].encode()), told["now"] + TTL_S)
    await issuing.end(live.entry)


if __name__ == "__main__":
    asyncio.run(main())
