"""``leasehold audit`` as people and machines see it."""

from __future__ import annotations

import json
import os
import pty
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from fakes.audit_broker import AuditBroker
from leasehold.broker.audit.log import AuditLog
from leasehold.broker.audit.model import Event, Outcome
from leasehold.cli.audit import moment, summary
from leasehold.cli.main import main
from leasehold.core.errors import UsageError
from leasehold.core.secret import Secret

NOON = 1_767_268_800.0  # 2026-01-01T12:00:00Z


@dataclass(frozen=True, slots=True, kw_only=True)
class Host:
    log: AuditLog
    folder: Path
    broker: AuditBroker


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Host]:
    """A broker with six records, where the command line looks for it."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "run"))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    (tmp_path / "run" / "leasehold").mkdir(parents=True, mode=0o700)
    seconds = iter(range(10_000))
    log = AuditLog(tmp_path / "audit", Secret(b"k" * 32), clock=lambda: NOON + next(seconds))
    row = {"host": "api.forge.example", "status": 200, "first": NOON, "last": NOON, "received": 1, "sent": 0}
    log.append(
        Event.TASK_OPENED, outcome=Outcome.ALLOWED, task="7f3k", agent_class="local", uid=1000, purpose="fix a bug",
        profile="", workspace="/home/ann/web", ttl_s=3600, credentials=["forge", "npm"],
    )  # fmt: skip
    log.append_many(
        [
            {"event": Event.CREDENTIAL_USED, "outcome": Outcome.ALLOWED, "task": "7f3k", "credential": "forge",
             "method": "GET", "target": "/repos/acme/web?page=2", "count": 3, **row},
            {"event": Event.REQUEST_DENIED, "outcome": Outcome.DENIED, "task": "7f3k", "reason": "deny: rule",
             "method": "POST", "target": "/user/keys", "count": 1, **row, "status": 403},
            {"event": Event.CONNECTION_DENIED, "outcome": Outcome.DENIED, "task": "7f3k", "reason": "unknown name",
             "method": "", "target": "", "count": 1, **row, "host": "telemetry.example", "status": 0},
        ]
    )  # fmt: skip
    log.append(Event.USAGE_MISMATCH, outcome=Outcome.FAILED, task="7f3k", counted=None, recorded=4)
    log.append(Event.SECRET_SET, outcome=Outcome.DONE, name="forge-token")
    broker = AuditBroker(tmp_path / "run" / "leasehold" / "broker.sock", log)
    yield Host(log=log, folder=tmp_path / "audit", broker=broker)
    broker.stop()
    log.close()


LINES = [
    "2026-01-01T12:00:00.000000Z\t7f3k\ttask:opened\tallowed\t"
    'agent_class=local credentials=forge,npm purpose="fix a bug" ttl_s=3600 uid=1000 workspace=/home/ann/web',
    "2026-01-01T12:00:01.000000Z\t7f3k\tcredential:used\tallowed\t"
    "forge GET api.forge.example/repos/acme/web?page=[redacted] 200 \N{MULTIPLICATION SIGN}3",
    "2026-01-01T12:00:02.000000Z\t7f3k\trequest:denied\tdenied\t"
    "POST api.forge.example/user/keys 403 (deny: rule)",
    "2026-01-01T12:00:03.000000Z\t7f3k\tconnection:denied\tdenied\ttelemetry.example (unknown name)",
    "2026-01-01T12:00:04.000000Z\t7f3k\tusage:mismatch\tfailed\trecorded=4",
    "2026-01-01T12:00:05.000000Z\t-\tsecret:set\tdone\tname=forge-token",
]  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["query"], [0, 1, 2, 3, 4, 5]),
        (["query", "--task", "7f3k", "--outcome", "denied"], [2, 3]),
        (["query", "--credential", "forge"], [0, 1]),
        (["query", "--event", "secret:set"], [5]),
        (["query", "--since", "2026-01-01T12:00:04Z"], [4, 5]),
        (["query", "--until", "2026-01-01T13:00:02+01:00"], [0, 1]),
        (["query", "--since", "1h"], []),
        (["query", "--task", "none"], []),
        (["tail"], [0, 1, 2, 3, 4, 5]),
        (["tail", "-n", "2"], [4, 5]),
        (["tail", "-n", "0"], []),
    ],
)
def test_records_come_as_columns_with_tabs_in_a_pipe(
    host: Host, capsys: pytest.CaptureFixture[str], arguments: list[str], expected: list[int]
) -> None:
    assert main(["audit", *arguments]) == 0
    said = capsys.readouterr()
    assert said.out.splitlines() == [LINES[at] for at in expected]
    assert said.err == ""


@pytest.mark.parametrize("action", ["query", "tail"])
def test_machines_get_the_records_themselves(host: Host, capsys: pytest.CaptureFixture[str], action: str) -> None:
    assert main(["audit", action, "--json"]) == 0
    records = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert records == [record.as_dict() for record in host.log.tail(10)]


def test_more_records_than_a_page_holds_come_all_and_in_order(host: Host, capsys: pytest.CaptureFixture[str]) -> None:
    row = {"event": Event.DAEMON_STARTED, "outcome": Outcome.DONE}
    host.log.append_many([{**row, "pid": pid} for pid in range(2500)])
    assert main(["audit", "query", "--event", "daemon:started", "--limit", "2400", "--json"]) == 0
    said = capsys.readouterr()
    assert [json.loads(line)["fields"]["pid"] for line in said.out.splitlines()] == list(range(100, 2500))
    assert said.err == "note: there are older records; --limit is 2400\n"


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (["--since", "soon"], "error: usage: 'soon' is no time\n"),
        (["--event", "task:paused"], "error: usage: 'task:paused' is not a valid Event\n"),
        (["--outcome", "maybe"], "error: usage: 'maybe' is not a valid Outcome\n"),
    ],
)
def test_what_is_no_filter_is_a_usage_error(
    host: Host, capsys: pytest.CaptureFixture[str], arguments: list[str], error: str
) -> None:
    assert main(["audit", "query", *arguments]) == 2
    said = capsys.readouterr()
    assert said.err.startswith(error + "hint: ")
    assert said.out == ""


def test_an_intact_log_verifies(host: Host, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["audit", "verify"]) == 0
    assert capsys.readouterr().out == (
        "6 records in 1 segments are what was written\n"
        "from 2026-01-01T12:00:00.000000Z to 2026-01-01T12:00:05.000000Z\n"
    )
    assert main(["audit", "verify", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["ok"] is True


def test_a_changed_log_does_not_verify(host: Host, capsys: pytest.CaptureFixture[str]) -> None:
    (path,) = host.folder.glob("*.jsonl")
    path.write_bytes(path.read_bytes().replace(b"/user/keys", b"/user/name"))
    assert main(["audit", "verify"]) == 1
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err == (
        "error: audit-unusable: record 3 (000000000001.jsonl, line 3): its content does not have its hash\n"
        "hint: the 2 records before it are intact; keep the folder as evidence\n"
    )
    assert main(["audit", "verify", "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["problem"]["seq"] == 3


def test_an_empty_log_verifies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    (tmp_path / "leasehold").mkdir(mode=0o700)
    log = AuditLog(tmp_path / "audit", Secret(b"k" * 32), clock=lambda: NOON)
    broker = AuditBroker(tmp_path / "leasehold" / "broker.sock", log)
    assert main(["audit", "verify"]) == 0
    assert capsys.readouterr().out == "0 records in 0 segments are what was written\n"
    broker.stop()
    log.close()


def test_following_shows_each_new_record_and_ends_with_the_broker(
    host: Host, capfd: pytest.CaptureFixture[str]
) -> None:
    codes: list[int] = []
    follower = threading.Thread(target=lambda: codes.append(main(["audit", "tail", "-f", "-n", "1"])))
    follower.start()
    assert host.broker.following.wait(5)
    host.log.append(Event.SECRET_REMOVED, outcome=Outcome.DONE, name="forge-token")
    host.broker.stop()
    follower.join(5)
    said = capfd.readouterr()
    assert said.out.splitlines() == [LINES[5], LINES[5].replace(":05.", ":06.").replace("secret:set", "secret:removed")]
    assert codes == [1]
    assert said.err.startswith("error: broker-gone: ")


def test_a_log_that_cannot_be_read_is_said(host: Host, capsys: pytest.CaptureFixture[str]) -> None:
    (path,) = host.folder.glob("*.jsonl")
    path.write_bytes(b"{}\n")
    assert main(["audit", "tail"]) == 1
    assert capsys.readouterr().err.startswith("error: audit-unusable: line 1 of 000000000001.jsonl is not a record\n")


def test_on_a_terminal_there_are_columns_a_head_and_colour(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    ours, theirs = pty.openpty()
    with os.fdopen(theirs, "w") as terminal:
        monkeypatch.setattr(sys, "stdout", terminal)
        assert main(["audit", "query", "--since", "2026-01-01T12:00:01Z", "--until", "2026-01-01T12:00:04Z"]) == 0
        monkeypatch.undo()
        shown = ""
        while shown.count("\n") < 4:  # a terminal gives a line at a time
            shown += os.read(ours, 65536).decode().replace("\r\n", "\n")
    os.close(ours)
    assert shown == (
        "\x1b[1mTIME                 TASK     EVENT                OUTCOME  WHAT\x1b[0m\n"
        "2026-01-01T12:00:01Z 7f3k     credential:used      allowed  "
        "forge GET api.forge.example/repos/acme/web?page=[redacted] 200 \N{MULTIPLICATION SIGN}3\n"
        "2026-01-01T12:00:02Z 7f3k     request:denied       \x1b[33mdenied  \x1b[0m "
        "POST api.forge.example/user/keys 403 (deny: rule)\n"
        "2026-01-01T12:00:03Z 7f3k     connection:denied    \x1b[33mdenied  \x1b[0m telemetry.example (unknown name)\n"
    )


def test_j3_a_log_that_was_tampered_with_cannot_move_the_cursor(host: Host, capsys: pytest.CaptureFixture[str]) -> None:
    (path,) = host.folder.glob("*.jsonl")
    path.write_bytes(path.read_bytes().replace(b"forge-token", rb"\u001b[2J\u202e"))
    assert main(["audit", "tail", "-n", "1"]) == 0
    assert capsys.readouterr().out.endswith("name=\\x1b[2J\\u202e\n")


def test_moments() -> None:
    assert moment(None, NOON) is None
    assert moment("90s", NOON) == NOON - 90
    assert moment("2026-01-01", NOON) == NOON - 12 * 3600
    assert moment("2026-01-01T12:00:00Z", 0) == NOON
    assert moment("2026-01-01T14:00:00+02:00", 0) == NOON
    with pytest.raises(UsageError, match="'0m' is no time") as caught:
        moment("0m", NOON)
    assert caught.value.__context__ is None


def test_a_summary_quotes_what_needs_it() -> None:
    assert summary({"a": "x y", "b": [], "c": None, "d": ["p,q", "r"], "e": 0, "f": 'say "x"'}) == (
        'a="x y" d="p,q",r e=0 f="say \\"x\\""'
    )
