"""What the agent reads when Envoy refuses: always the same JSON, always with a way on (DESIGN 8)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from envoy.config.accesslog.v3 import accesslog_pb2
from envoy.config.core.v3 import base_pb2
from envoy.extensions.filters.network.http_connection_manager.v3 import http_connection_manager_pb2 as hcm_pb2

from leasehold.core.model import DEFAULT_METHODS, Rule
from leasehold.node.egress.model import Destination

_TEXTS = {
    "host-not-allowed": (
        "This host may not be reached from here without TLS, or at all.",
        "Use https, or ask the operator to add the host under [hosts] allow.",
    ),
    "misdirected-request": (
        "The Host header and the TLS server name differ.",
        "Send each request over a connection made for its own host name.",
    ),
    "method-override": (
        "A header that changes the method or the path behind the proxy's back is not allowed.",
        "Use the real method and path.",
    ),
    "access-ended": ("Access to this endpoint has ended.", "Run `leasehold grants` to see what is left."),
}


def error(code: str, message: str, hint: str) -> dict[str, Any]:
    """The body of every denial."""
    return {"error": {"code": code, "message": message, "hint": hint}}


def describe(rule: Rule) -> str:
    """One rule as people read it: ``GET,HEAD api.forge.example /repos/**``."""
    where = rule.host if rule.port in (443, 80) else f"{rule.host}:{rule.port}"
    if rule.is_stream:
        return f"{rule.host}:{rule.port} ({rule.scheme})"
    if rule.git is not None:
        return f"{where} {rule.git.repository} (git {rule.git.access})"
    methods = ",".join(rule.methods) + " " if rule.methods and rule.methods != DEFAULT_METHODS else ""
    paths = " ".join(rule.paths)
    kind = " (websocket)" if rule.websocket else ""
    return f"{methods}{where} {paths}".rstrip() + kind


def denial_body(code: str, destination: Destination | None, rules: Sequence[Rule]) -> dict[str, Any]:
    """The body for a route that denies; for ``rule-not-allowed`` it says which rules there are."""
    if code == "rule-not-allowed":
        return error(
            code,
            f"No rule allows this method and path on {destination.host if destination else 'this host'}.",
            f"Allowed here: {'; '.join(describe(rule) for rule in rules)}. Ask the operator for more.",
        )
    message, hint = _TEXTS[code]
    return error(code, message, hint)


def local_replies() -> hcm_pb2.LocalReplyConfig:
    """Turn Envoy's own failures into the same form; a denial that we wrote is left as it is."""
    config = hcm_pb2.LocalReplyConfig()
    for flags, code, message in _BY_FLAG:
        _mapper(config, {"response_flag_filter": {"flags": flags}}, code, message)
    for status, code, message in _BY_STATUS:
        comparison = {
            "op": "EQ",
            "value": {"default_value": status, "runtime_key": f"leasehold.status.{status}"},
        }
        _mapper(config, {"status_code_filter": {"comparison": comparison}}, code, message)
    return config


_BY_FLAG = (
    (
        ("UF", "UH", "NC", "UO", "UT"),
        "upstream-unavailable",
        "The upstream cannot be reached: %RESPONSE_FLAGS% %UPSTREAM_TRANSPORT_FAILURE_REASON%",
    ),
    (("UC", "UPE", "LR", "UR"), "upstream-failed", "The upstream broke the exchange off: %RESPONSE_FLAGS%."),
)
_BY_STATUS = (
    (400, "request-malformed", "The request is not well-formed HTTP: %RESPONSE_CODE_DETAILS%."),
    (401, "credential-missing", "The credential is not there, and nothing goes out without it."),
    (431, "headers-too-large", "The request's headers are too large or too many."),
)


def _mapper(config: hcm_pb2.LocalReplyConfig, when: dict[str, Any], code: str, message: str) -> None:
    header = {"key": "x-leasehold-decision", "value": f"error; code={code}"}
    mapper = config.mappers.add(
        filter=accesslog_pb2.AccessLogFilter(**when),
        headers_to_add=[base_pb2.HeaderValueOption(header=header, append_action="OVERWRITE_IF_EXISTS_OR_ADD")],
    )
    mapper.body_format_override.content_type = "application/json"
    mapper.body_format_override.json_format.update(error(code, message, f"`leasehold explain {code}` says more."))
