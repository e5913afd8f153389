"""All limits in one record."""

from __future__ import annotations

from leasehold.core.record import record


@record
class Limits:
    """Hard limits. Units stand last in each name."""

    local_ttl_s_max: int = 3600
    ci_ttl_s_max: int = 900
    remediation_ttl_s_max: int = 600
    config_bytes_max: int = 1_048_576
    project_bytes_max: int = 65_536
    config_list_max: int = 256
    secret_bytes_max: int = 65_536
    message_bytes_max: int = 4_194_304
    request_headers_kb_max: int = 60
    request_headers_max: int = 100
    names_per_task_max: int = 254
    secret_command_timeout_s: float = 60.0
    idle_exit_s: float = 600.0
    audit_bytes_max: int = 4 << 30
    audit_segment_bytes_max: int = 8 << 20
    audit_line_bytes_max: int = 1 << 20
    audit_list_max: int = 100
    audit_text_chars_max: int = 1024
    audit_target_chars_max: int = 1024
    audit_page_bytes_max: int = 3 << 20
    audit_page_records_max: int = 1000


LIMITS = Limits()
