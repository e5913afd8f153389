"""What a task holds."""

from __future__ import annotations

import enum
from dataclasses import dataclass

from leasehold.core.secret import Secret


class Revocability(enum.StrEnum):
    """How soon a credential stops working once it is taken back."""

    STOPS_BEING_INJECTED = "stops-being-injected"


@dataclass(frozen=True, slots=True, kw_only=True)
class Lease:
    """One credential issued for one task. Times are Unix seconds."""

    task: str
    credential: str
    secret: Secret
    issued: float
    expires: float
    revocability: Revocability


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """Why there is no lease: a stable code, words and a way on."""

    code: str
    message: str
    hint: str
