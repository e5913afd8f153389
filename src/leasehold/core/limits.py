"""All limits in one record."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Hard limits. Units stand last in each name."""

    local_ttl_s_max: int = 3600
    ci_ttl_s_max: int = 900
    remediation_ttl_s_max: int = 600
    config_bytes_max: int = 1_048_576
    secret_bytes_max: int = 65_536
    message_bytes_max: int = 4_194_304
    request_headers_kb_max: int = 60
    request_headers_max: int = 100
    names_per_task_max: int = 254
    secret_command_timeout_s: float = 60.0
    idle_exit_s: float = 600.0


LIMITS = Limits()
