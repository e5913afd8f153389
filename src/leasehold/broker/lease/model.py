"""What a task holds."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from leasehold.broker.lease.machine import Entry, Revocability
from leasehold.core.secret import Secret

_RENEW_S = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Lease:
    """One credential issued for one task. Times are Unix seconds.

    ``expires``: when the provider lets it end; ``until``: how long the task may have it, renewed if need be.
    ``username``: whose ``secret`` it is, where the provider made an account. Where it has several parts, ``secret`` is
    all of them, by name, as JSON; ``material``: each. ``entry``: in the ledger, of what has to be taken back at a
    provider.
    """

    task: str
    credential: str
    secret: Secret
    issued: float
    expires: float
    until: float
    revocability: Revocability
    username: str = ""
    entry: Entry | None = None
    material: Mapping[str, Secret] = field(default_factory=dict)

    @property
    def renew_at(self) -> float:
        """When to ask for the next one: well before this one ends; never, when the task may not have it for longer."""
        life = self.expires - self.issued
        return self.expires - max(min(_RENEW_S, life / 2), life / 4) if self.expires < self.until - 1 else math.inf


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """Why there is no lease: a stable code, words and a way on. ``failed``: it was no decision, and may do later."""

    code: str
    message: str
    hint: str
    failed: bool = False
