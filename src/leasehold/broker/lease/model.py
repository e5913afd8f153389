"""What a task holds."""

from __future__ import annotations

from dataclasses import dataclass

from leasehold.broker.lease.machine import Entry, Revocability
from leasehold.core.secret import Secret


@dataclass(frozen=True, slots=True, kw_only=True)
class Lease:
    """One credential issued for one task. Times are Unix seconds.

    ``username``: whose ``secret`` it is, where the provider made an account. ``entry``: in the ledger, of what has to
    be taken back at a provider.
    """

    task: str
    credential: str
    secret: Secret
    issued: float
    expires: float
    revocability: Revocability
    username: str = ""
    entry: Entry | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """Why there is no lease: a stable code, words and a way on."""

    code: str
    message: str
    hint: str
