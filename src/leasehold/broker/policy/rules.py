"""The class table of the design as pure rules. No match is a denial; an exception is a denial."""

from __future__ import annotations

from leasehold.broker.policy.model import Decision, Question, Verdict
from leasehold.core.model import AgentClass, Environment, Role

_ASK = "This version has no approvals; use a credential of another environment or role."


def decide(question: Question) -> Decision:
    """Decide on one first use."""
    if question.now >= question.deadline:
        return _deny("task-ended", "The task's time is over.", "Start a new task, or ask for a longer --ttl.")
    if question.agent_class is AgentClass.REMEDIATION:
        return _ask("remediation", "Remediation agents get nothing without approval.")
    credential = question.credential
    if credential.environment is Environment.PRODUCTION:
        if question.agent_class is AgentClass.CI:
            return _deny("ci-production", "Pipelines may not use production credentials.", "Ask the operator.")
        return _ask("production", "A production credential needs a person's approval.")
    if credential.role is Role.DEPLOY:
        return _ask("deploy", "The deploy role needs a person's approval.")
    if question.agent_class in (AgentClass.LOCAL, AgentClass.CI):
        return Decision(verdict=Verdict.ALLOW, policy=f"{question.agent_class}-{credential.environment}")
    return _deny("no-match", "No policy allows this.", "Ask the operator.")


def _deny(policy: str, message: str, hint: str) -> Decision:
    return Decision(verdict=Verdict.DENY, policy=policy, message=message, hint=hint)


def _ask(policy: str, message: str) -> Decision:
    return Decision(verdict=Verdict.NEEDS_APPROVAL, policy=policy, message=message, hint=_ASK)
