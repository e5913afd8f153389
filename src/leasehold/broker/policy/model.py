"""What policy is asked and what it answers."""

from __future__ import annotations

import enum
from dataclasses import dataclass

from leasehold.core.model import AgentClass, Credential


class Verdict(enum.Enum):
    ALLOW = "allow"
    DENY = "deny"
    NEEDS_APPROVAL = "needs-approval"


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """May a task of ``agent_class`` use ``credential`` now? Times are Unix seconds."""

    agent_class: AgentClass
    credential: Credential
    now: float
    deadline: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """The answer, the id of the rule that gave it, and the words for whoever asked."""

    verdict: Verdict
    policy: str
    message: str = ""
    hint: str = ""
