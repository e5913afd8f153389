"""Envoy's access log, as uses: read off the request path, in batches, counted and never dropped silently.

It comes as OpenTelemetry logs (OTLP, ``LogsService/Export``): of Envoy's gRPC access logs the only one whose record is
as short as what is asked for.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest, ExportLogsServiceResponse

from leasehold.node.egress.ports import UsageSink, Use

TASK_STATE = "leasehold.task"
_FIELDS = (
    f"%FILTER_STATE({TASK_STATE}:PLAIN)%",
    "%START_TIME(%s.%3f)%",
    "%ROUTE_NAME%",
    "%UPSTREAM_CLUSTER_RAW%",
    "%RESPONSE_CODE%",
    "%RESPONSE_FLAGS%",
    "%BYTES_SENT%",
    "%BYTES_RECEIVED%",
    "%RESPONSE_CODE_DETAILS%",
    "%REQ(:METHOD)%",
    "%REQ(:AUTHORITY)%",
    # What an agent can fill with anything stands last, so that a tab in it moves no other field.
    "%REQUESTED_SERVER_NAME%",
    "%REQ(:PATH)%",
)
FORMAT = "\t".join(_FIELDS)
_STREAM = "stream"
_CONNECTED = "TcpUpstreamConnected"
STREAM_FORMAT = "\t".join(
    (
        *_FIELDS[:2],
        _STREAM,
        "%UPSTREAM_CLUSTER_RAW%",
        "0",
        "%RESPONSE_FLAGS%",
        "%BYTES_SENT%",
        "%BYTES_RECEIVED%",
        "%ACCESS_LOG_TYPE%",
        "-",
        "-",
        "-",
        "%UPSTREAM_HOST%",
    )
)
"""Of a connection that is no HTTP: one when it has reached what is behind, one at its end."""
ATTEMPT = "~"
"""Stands between the name of what is no HTTP and the number of the attempt, in the name of a cluster."""
REFUSED_SOCKET = "refused.sock"
"""How the name of a socket ends that says no."""
_NONE = "-"
ANSWERED = "answered by the proxy itself"
"""The reason of what went nowhere, and was not denied either."""
_SENT = ("via_upstream", "upstream_", "downstream_")


class UsageLog:
    """Receives the access log. ``counts``: for each task, how many requests, and connections of other protocols, were
    seen."""

    def __init__(self, sink: UsageSink, on_failure: Callable[[str], None]) -> None:
        self._sink = sink
        self._on_failure = on_failure
        self.counts: Counter[str] = Counter()

    async def serve(self, request: ExportLogsServiceRequest, _context: Any) -> ExportLogsServiceResponse:
        """The ``Export`` method. The generated classes know scopes by their earlier name; the numbers are the same."""
        self.take(
            [
                record.body.string_value
                for resource in request.resource_logs
                for scope in resource.instrumentation_library_logs
                for record in scope.logs
            ]
        )
        return ExportLogsServiceResponse()

    def take(self, lines: Sequence[str]) -> None:
        """Record one batch. When it cannot be recorded, the access of its tasks ends: no unlogged use."""
        uses = merge(lines)
        if not uses:
            return
        try:
            self._sink.record(uses)
        except Exception as e:
            print(f"uses were not recorded: {type(e).__name__}: {e}", file=sys.stderr, flush=True)
            for task in {use.task for use in uses}:
                self._on_failure(task)
            raise
        for use in uses:
            if use.method:
                self.counts[use.task] += use.count


def merge(lines: Sequence[str]) -> list[Use]:
    """Read the lines of :data:`FORMAT`; those that differ only in time and size become one use with a count."""
    found: dict[tuple[str, ...], list[tuple[float, int, int]]] = {}
    for line in lines:
        fields = line.split("\t", len(_FIELDS) - 1)
        task, began, route, cluster, status, flags, received, sent = fields[:8]
        key = (task, route, cluster, status, flags, *fields[8:])
        found.setdefault(key, []).append((float(began), int(received), int(sent)))
    uses = [_stream(key, samples) if key[1] == _STREAM else _use(key, samples) for key, samples in found.items()]
    return [use for use in uses if use is not None]


def _use(key: tuple[str, ...], samples: Sequence[tuple[float, int, int]]) -> Use:
    task, route, cluster, status, flags, details, method, authority, server_name, target = key
    kind, _, rest = route.partition("/")
    is_request = method != _NONE or status != "0"
    if not is_request:
        # A connection that no filter chain took: a TLS name that is not allowed, or not TLS at all.
        reason = "connection: unknown name"
    elif kind == "metadata":
        reason = ANSWERED
    elif "UAEX" in flags:
        reason = "denied by policy"
    elif kind == "allow" and (cluster != _NONE or details.startswith(_SENT)):
        # A request that waited for the first decision was routed before its cluster existed, and names none. Where it
        # cannot be known whether it got out, as when the client left, it counts as a use.
        reason = ""
    else:
        reason = f"{kind}: {rest}" if kind in ("deny", "closed") else details
    return Use(
        task="" if task == _NONE else task,
        upstream=rest if is_request and not reason else "",
        reason=reason,
        host=_given(authority if is_request else server_name),
        method=(method if method != _NONE else "OTHER") if is_request else "",
        target=_given(target),
        status=int(status),
        count=len(samples),
        first=min(began for began, _, _ in samples),
        last=max(began for began, _, _ in samples),
        received=sum(received for _, received, _ in samples),
        sent=sum(sent for _, _, sent in samples),
    )


def _stream(key: tuple[str, ...], samples: Sequence[tuple[float, int, int]]) -> Use | None:
    """A connection is a use when it gets through, so the record of its end says something new only if it did not."""
    task, _, cluster, _, flags, kind, *_, reached = key
    upstream = cluster.rpartition(ATTEMPT)[0]
    if kind != _CONNECTED and "UF" not in flags and reached != _NONE:
        return None
    reason = "" if kind == _CONNECTED else "the server cannot be reached"
    if reached.endswith(REFUSED_SOCKET):
        reason = "denied by policy"
    return Use(
        task="" if task == _NONE else task,
        upstream="" if reason else upstream,
        reason=reason,
        host=upstream.rpartition("/")[2],
        method="CONNECT",
        target="",
        status=0,
        count=len(samples),
        first=min(began for began, _, _ in samples),
        last=max(began for began, _, _ in samples),
        received=sum(received for _, received, _ in samples),
        sent=sum(sent for _, _, sent in samples),
    )


def _given(text: str) -> str:
    return "" if text == _NONE else text
