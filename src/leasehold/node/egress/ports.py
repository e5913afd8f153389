"""What the data plane needs from others; ``wiring`` connects it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from leasehold.node.egress.model import Denied, Released, Upstream


class Authority(Protocol):
    """Decides on the first use of an upstream and releases what it takes (DESIGN 4, step 6)."""

    async def first_use(self, task: str, upstream: Upstream) -> Released | Denied:
        """The decision. An exception denies."""
        ...

    async def addresses(self, upstream: Upstream) -> Sequence[str]:
        """The addresses to dial now, each allowed; empty when there is none."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Use:
    """Requests (or connections) that were alike in one batch of the access log.

    ``upstream`` is empty for what went nowhere, ``reason`` then says why. ``target`` is
    the path as Envoy forwarded it, not yet redacted. Times are Unix seconds, sizes bytes.
    """

    task: str
    upstream: str
    reason: str
    host: str
    method: str
    target: str
    status: int
    count: int
    first: float
    last: float
    received: int
    sent: int


class UsageSink(Protocol):
    """Takes what was used and denied, in batches."""

    def record(self, uses: Sequence[Use]) -> None:
        """Record a batch durably; an exception ends the access of the tasks in it."""
        ...
