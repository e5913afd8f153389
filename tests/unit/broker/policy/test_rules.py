"""The class table, as far as this version goes: a cell each, and adding nothing ever allows."""

from __future__ import annotations

import pytest

from leasehold.broker.policy.model import Question, Verdict
from leasehold.broker.policy.rules import decide
from leasehold.core.model import AgentClass, Credential, Environment, Role


def ask(agent_class: AgentClass, environment: Environment, role: Role, *, now: float = 0, deadline: float = 10) -> str:
    credential = Credential(
        name="c", issuer="static", secret="vault:c", environment=environment, role=role, max_ttl_s=60, endpoints=()
    )
    decision = decide(Question(agent_class=agent_class, credential=credential, now=now, deadline=deadline))
    assert (decision.message and decision.hint) or decision.verdict is Verdict.ALLOW
    return f"{decision.verdict.value} {decision.policy}"


@pytest.mark.parametrize(
    ("agent_class", "environment", "role", "answer"),
    [
        (AgentClass.LOCAL, Environment.DEVELOPMENT, Role.EXECUTE, "allow local-development"),
        (AgentClass.LOCAL, Environment.STAGING, Role.FETCH, "allow local-staging"),
        (AgentClass.LOCAL, Environment.PRODUCTION, Role.EXECUTE, "needs-approval production"),
        (AgentClass.LOCAL, Environment.DEVELOPMENT, Role.DEPLOY, "needs-approval deploy"),
        (AgentClass.CI, Environment.DEVELOPMENT, Role.EXECUTE, "allow ci-development"),
        (AgentClass.CI, Environment.PRODUCTION, Role.EXECUTE, "deny ci-production"),
        (AgentClass.CI, Environment.STAGING, Role.DEPLOY, "needs-approval deploy"),
        (AgentClass.REMEDIATION, Environment.DEVELOPMENT, Role.EXECUTE, "needs-approval remediation"),
    ],
)
def test_cells(agent_class: AgentClass, environment: Environment, role: Role, answer: str) -> None:
    assert ask(agent_class, environment, role) == answer


def test_nothing_after_the_deadline() -> None:
    assert ask(AgentClass.LOCAL, Environment.DEVELOPMENT, Role.EXECUTE, now=10) == "deny task-ended"


def test_an_unknown_class_is_denied() -> None:
    assert ask("other", Environment.DEVELOPMENT, Role.EXECUTE) == "deny no-match"  # type: ignore[arg-type]
