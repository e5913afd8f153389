"""The access log becomes uses: counted, merged, and never lost in silence."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest

from leasehold.core.errors import AuditError
from leasehold.node.egress.ports import Use
from leasehold.node.egress.usage import ANSWERED, FORMAT, UsageLog, merge

_CLUSTER = "t1/0/cred/api.test:443"


class Sink:
    def __init__(self, fails: bool = False) -> None:
        self.uses: list[Use] = []
        self.fails = fails

    def record(self, uses: Sequence[Use]) -> None:
        if self.fails:
            raise AuditError("disk full", hint="free some")
        self.uses += uses


def line(
    route: str = f"allow/{_CLUSTER}",
    cluster: str = _CLUSTER,
    *,
    at: str = "5.000",
    task: str = "t1",
    flags: str = "-",
    status: str = "200",
    method: str = "GET",
    host: str = "api.test",
    sni: str = "api.test",
    target: str = "/x?token=1",
    details: str = "details",
) -> str:
    """One line as Envoy writes it."""
    return "\t".join([task, at, route, cluster, status, flags, "7", "1", details, method, host, sni, target])


def test_the_format_has_a_field_for_each_that_is_read() -> None:
    assert FORMAT.count("\t") == line().count("\t")


def test_alike_uses_are_one_with_a_count_and_each_is_counted() -> None:
    sink = Sink()
    cut: list[str] = []
    log = UsageLog(sink, cut.append)
    log.take([line(at="5.000"), line("deny/rule", "-", status="403"), line(at="9.000")])
    first, second = sink.uses
    assert (first.upstream, first.reason, first.count, first.first, first.last) == (_CLUSTER, "", 2, 5.0, 9.0)
    assert (first.received, first.sent, first.method, first.target, first.host) == (
        14,
        2,
        "GET",
        "/x?token=1",
        "api.test",
    )
    assert (second.upstream, second.reason, second.status) == ("", "deny: rule", 403)
    assert log.counts == {"t1": 3}
    assert cut == []


@pytest.mark.parametrize(
    ("text", "upstream", "reason"),
    [
        (line(cluster="-", details="via_upstream"), _CLUSTER, ""),
        (line(cluster="-", details="upstream_reset_after_response_started{protocol_error}"), _CLUSTER, ""),
        (line(cluster="-", details="downstream_remote_disconnect"), _CLUSTER, ""),
        (line(cluster="-", details="ext_authz_error"), "", "ext_authz_error"),
        (line(cluster="-"), "", "details"),
        (line("allow/x", flags="UAEX", status="403"), "", "denied by policy"),
        (line("closed/u", "-"), "", "closed: u"),
        (line("-", "-", status="400"), "", "details"),
    ],
)
def test_what_did_not_reach_the_upstream_says_why(text: str, upstream: str, reason: str) -> None:
    (use,) = merge([text])
    assert (use.upstream, use.reason) == (upstream, reason)


def test_what_the_proxy_answers_itself_is_counted_and_no_denial() -> None:
    [use] = merge([line("metadata", "-", host="169.254.169.254", target="/latest/api/token")])
    assert (use.upstream, use.reason, use.count) == ("", ANSWERED, 1)
    [use] = merge([line("deny/metadata", "-", host="169.254.169.254", status="401")])
    assert use.reason == "deny: metadata"


def test_a_malformed_request_has_no_method_and_is_still_a_request() -> None:
    (use,) = merge([line("-", "-", status="400", method="-", host="-", target="-", task="-")])
    assert (use.method, use.host, use.target, use.task) == ("OTHER", "", "", "")


def test_a_connection_for_an_unknown_name_is_a_denial_and_no_request() -> None:
    sink = Sink()
    log = UsageLog(sink, lambda _: None)
    log.take([line("-", "-", status="0", flags="NR", method="-", host="-", sni="evil.test", target="-")])
    (use,) = sink.uses
    assert (use.task, use.host, use.method, use.reason) == ("t1", "evil.test", "", "connection: unknown name")
    assert log.counts == {}


def test_a_tab_in_a_path_moves_no_other_field() -> None:
    (use,) = merge([line(target="/a\t403\tb")])
    assert (use.status, use.target) == (200, "/a\t403\tb")


def test_a_record_that_cannot_be_written_ends_the_access_of_its_task(capsys: pytest.CaptureFixture[str]) -> None:
    cut: list[str] = []
    log = UsageLog(Sink(fails=True), cut.append)
    with pytest.raises(AuditError):
        log.take([line()])
    assert cut == ["t1"]
    assert log.counts == {}
    assert "disk full" in capsys.readouterr().err


def test_an_export_is_taken_whole_and_an_empty_one_is_nothing() -> None:
    sink = Sink()
    request = ExportLogsServiceRequest()
    logs = request.resource_logs.add().instrumentation_library_logs.add().logs
    for text in (line(), line(task="t2")):
        logs.add().body.string_value = text
    log = UsageLog(sink, lambda _: None)
    asyncio.run(log.serve(request, None))
    asyncio.run(log.serve(ExportLogsServiceRequest(), None))
    assert [use.task for use in sink.uses] == ["t1", "t2"]
