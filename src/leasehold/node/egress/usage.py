"""Envoy's access log, as uses: read off the request path, in batches, counted and never dropped silently."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

from envoy.service.accesslog.v3.als_pb2 import StreamAccessLogsMessage, StreamAccessLogsResponse
from google.protobuf.wrappers_pb2 import StringValue

from leasehold.node.egress.ports import UsageSink, Use
from leasehold.node.egress.snapshot import TASK_STATE

_METHODS = (
    "OTHER", "GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH",
)  # fmt: skip


class UsageLog:
    """Receives the access log streams. ``counts`` is the number of HTTP records seen for each task."""

    def __init__(self, sink: UsageSink, on_failure: Callable[[str], None]) -> None:
        self._sink = sink
        self._on_failure = on_failure
        self.counts: Counter[str] = Counter()

    async def serve(self, messages: AsyncIterator[StreamAccessLogsMessage], _context: Any) -> StreamAccessLogsResponse:
        """The ``StreamAccessLogs`` method."""
        async for message in messages:
            self.take(message)
        return StreamAccessLogsResponse()

    def take(self, message: StreamAccessLogsMessage) -> None:
        """Record one batch. When it cannot be recorded, the access of its tasks ends: no unlogged use."""
        http = [_http_use(entry) for entry in message.http_logs.log_entry]
        tcp = [use for entry in message.tcp_logs.log_entry if (use := _tcp_use(entry)) is not None]
        uses = merge([*http, *tcp])
        if not uses:
            return
        try:
            self._sink.record(uses)
        except Exception:
            for task in {use.task for use in uses}:
                self._on_failure(task)
            raise
        for use in http:
            self.counts[use.task] += 1


def merge(uses: Sequence[Use]) -> list[Use]:
    """Fold uses that differ only in time and size into one with a count; the order of first appearance is kept."""
    found: dict[tuple[Any, ...], list[Use]] = {}
    for use in uses:
        key = (use.task, use.upstream, use.reason, use.host, use.method, use.target, use.status)
        found.setdefault(key, []).append(use)
    return [
        Use(
            task=same[0].task,
            upstream=same[0].upstream,
            reason=same[0].reason,
            host=same[0].host,
            method=same[0].method,
            target=same[0].target,
            status=same[0].status,
            count=len(same),
            first=min(use.first for use in same),
            last=max(use.last for use in same),
            received=sum(use.received for use in same),
            sent=sum(use.sent for use in same),
        )
        for same in found.values()
    ]


def _http_use(entry: Any) -> Use:
    common, request, response = entry.common_properties, entry.request, entry.response
    kind, _, rest = common.route_name.partition("/")
    began = common.start_time.seconds + common.start_time.nanos / 1e9
    status = response.response_code.value
    return Use(
        task=_task(common),
        upstream=rest if kind == "allow" and common.upstream_cluster else "",
        reason=_reason(kind, rest, common, response),
        host=request.authority,
        method=_METHODS[request.request_method] if request.request_method < len(_METHODS) else "OTHER",
        target=request.path,
        status=status,
        count=1,
        first=began,
        last=began,
        received=response.response_body_bytes,
        sent=request.request_body_bytes,
    )


def _reason(kind: str, rest: str, common: Any, response: Any) -> str:
    """Why it did not reach the upstream; empty when it did."""
    if kind == "allow":
        if common.response_flags.HasField("unauthorized_details"):
            return "denied by policy"
        return "" if common.upstream_cluster else response.response_code_details
    if kind in ("deny", "closed"):
        return f"{kind}: {rest}"
    return response.response_code_details or "not routed"


def _tcp_use(entry: Any) -> Use | None:
    """A connection that no filter chain took: a TLS name that is not allowed, or not TLS at all."""
    common = entry.common_properties
    if not common.response_flags.no_route_found:
        return None
    began = common.start_time.seconds + common.start_time.nanos / 1e9
    return Use(
        task=_task(common),
        upstream="",
        reason="connection: unknown name",
        host=common.tls_properties.tls_sni_hostname,
        method="",
        target="",
        status=0,
        count=1,
        first=began,
        last=began,
        received=0,
        sent=0,
    )


def _task(common: Any) -> str:
    state = common.filter_state_objects.get(TASK_STATE)
    if state is None:
        return ""
    value = StringValue()
    return value.value if state.Unpack(value) else ""
