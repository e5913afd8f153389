"""What can go wrong: one class per condition, each with a stable code and a page under ``docs/errors/``.

Two levels deep. A refusal of policy is a value, not an exception. Messages say what was expected and what was
found, and never carry a secret. The command line prints ``error: <code>: <message>`` and ``hint: <hint>``.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import ClassVar


class LeaseholdError(Exception):
    """The base of every error of ours.

    ``code`` is kebab-case and stable; ``hint`` says what to do next.
    """

    code: ClassVar[str] = "internal"

    def __init__(self, message: str, *, hint: str) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def as_dict(self) -> dict[str, str]:
        """The form that the API and ``--json`` return."""
        return {"code": self.code, "message": self.message, "hint": self.hint}


class ConfigError(LeaseholdError):
    """A configuration file is not what it must be; the message names file, line or key."""

    code = "config-invalid"


class VaultError(LeaseholdError):
    """The vault cannot be read or written."""

    code = "vault-unusable"


class SecretUnavailable(LeaseholdError):
    """A reference to a secret cannot be resolved now."""

    code = "secret-unavailable"


class IssuerError(LeaseholdError):
    """A provider refused, failed or did not answer when a credential was created or taken back."""

    code = "issuer-failed"


class LedgerError(LeaseholdError):
    """The ledger of leases cannot be read or written. Nothing is issued without it."""

    code = "ledger-unusable"


class AuditError(LeaseholdError):
    """The audit log cannot be written or does not verify. Nothing goes on without it."""

    code = "audit-unusable"


class SandboxError(LeaseholdError):
    """A part of the sandbox is missing or failed; the agent does not start."""

    code = "sandbox-unavailable"


class EgressError(LeaseholdError):
    """Envoy, or the configuration pushed to it, failed."""

    code = "egress-unavailable"


class BrokerError(LeaseholdError):
    """The broker daemon cannot be reached or started, or it refused the caller."""

    code = "broker-unavailable"


class BrokerGone(LeaseholdError):
    """The broker ended while a task ran; access has ended with it."""

    code = "broker-gone"


class GrantRefused(LeaseholdError):
    """The task asked for something that it may not have."""

    code = "grant-refused"


class UsageError(LeaseholdError):
    """The command line was used wrongly."""

    code = "usage"


class CommandNotFound(LeaseholdError):
    """The command to run does not exist where the agent could see it. Exit code 127."""

    code = "command-not-found"


class CommandNotExecutable(LeaseholdError):
    """The command to run is there, and cannot be executed. Exit code 126."""

    code = "command-not-executable"
