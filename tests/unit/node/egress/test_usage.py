"""The access log becomes uses: counted, merged, and never lost in silence."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence

import pytest
from envoy.service.accesslog.v3.als_pb2 import StreamAccessLogsMessage
from google.protobuf.any_pb2 import Any as AnyProto
from google.protobuf.wrappers_pb2 import StringValue

from leasehold.core.errors import AuditError
from leasehold.node.egress.ports import Use
from leasehold.node.egress.usage import UsageLog


class Sink:
    def __init__(self, fails: bool = False) -> None:
        self.uses: list[Use] = []
        self.fails = fails

    def record(self, uses: Sequence[Use]) -> None:
        if self.fails:
            raise AuditError("disk full", hint="free some")
        self.uses += uses


def _state(task: str) -> AnyProto:
    packed = AnyProto()
    packed.Pack(StringValue(value=task))
    return packed


def _http(message: StreamAccessLogsMessage, route: str, *, cluster: str = "c", task: str = "t1", at: int = 5) -> None:
    entry = message.http_logs.log_entry.add()
    entry.common_properties.route_name = route
    entry.common_properties.upstream_cluster = cluster
    entry.common_properties.start_time.seconds = at
    if task:
        entry.common_properties.filter_state_objects["leasehold.task"].CopyFrom(_state(task))
    entry.request.request_method = 1
    entry.request.path = "/x?token=1"
    entry.request.authority = "api.test"
    entry.response.response_code.value = 200
    entry.response.response_body_bytes = 7
    entry.response.response_code_details = "details"


def test_alike_uses_are_one_with_a_count_and_each_is_counted() -> None:
    sink, cut = Sink(), []
    log = UsageLog(sink, cut.append)
    message = StreamAccessLogsMessage()
    for at in (5, 9):
        _http(message, "allow/t1/0/cred/api.test:443", at=at)
    _http(message, "deny/rule")
    log.take(message)
    first, second = sink.uses
    assert (first.upstream, first.reason, first.count, first.first, first.last) == (
        "t1/0/cred/api.test:443", "", 2, 5.0, 9.0,
    )  # fmt: skip
    assert (first.received, first.method, first.target, first.host) == (14, "GET", "/x?token=1", "api.test")
    assert (second.upstream, second.reason) == ("", "deny: rule")
    assert log.counts == {"t1": 3}
    assert cut == []


def test_what_did_not_reach_the_upstream_says_why() -> None:
    sink = Sink()
    message = StreamAccessLogsMessage()
    _http(message, "allow/u", cluster="")
    _http(message, "closed/u")
    _http(message, "")
    _http(message, "allow/u")
    message.http_logs.log_entry[3].common_properties.response_flags.unauthorized_details.reason = 1
    message.http_logs.log_entry[2].request.request_method = 99
    UsageLog(sink, lambda _: None).take(message)
    assert [use.reason for use in sink.uses] == ["details", "closed: u", "details", "denied by policy"]
    assert sink.uses[2].method == "OTHER"


def test_a_connection_for_an_unknown_name_is_a_denial_and_an_ordinary_one_is_not() -> None:
    sink = Sink()
    message = StreamAccessLogsMessage()
    for flagged in (True, False):
        entry = message.tcp_logs.log_entry.add()
        entry.common_properties.tls_properties.tls_sni_hostname = "evil.test"
        entry.common_properties.response_flags.no_route_found = flagged
        entry.common_properties.filter_state_objects["leasehold.task"].CopyFrom(_state("t1"))
    UsageLog(sink, lambda _: None).take(message)
    (use,) = sink.uses
    assert (use.task, use.host, use.reason) == ("t1", "evil.test", "connection: unknown name")


def test_a_record_that_cannot_be_written_ends_the_access_of_its_task() -> None:
    cut: list[str] = []
    log = UsageLog(Sink(fails=True), cut.append)
    message = StreamAccessLogsMessage()
    _http(message, "allow/u")
    with pytest.raises(AuditError):
        log.take(message)
    assert cut == ["t1"]
    assert log.counts == {}


def test_a_stream_is_read_to_its_end_and_an_empty_batch_is_nothing() -> None:
    sink = Sink()

    async def stream() -> AsyncIterator[StreamAccessLogsMessage]:
        yield StreamAccessLogsMessage()
        message = StreamAccessLogsMessage()
        _http(message, "allow/u", task="")
        yield message

    asyncio.run(UsageLog(sink, lambda _: None).serve(stream(), None))
    assert [use.task for use in sink.uses] == [""]
