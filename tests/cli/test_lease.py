"""``leasehold lease`` as people and machines see it, over a broker that says what the test gives it."""

from __future__ import annotations

import io
import json
import os
import pty
import socket
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from leasehold.cli.main import main
from leasehold.core import wire

ROW = {
    "id": "a1b2", "task": "7f3k2a", "credential": "orders", "issuer": "postgres", "name": "lh_7f3k2a_a1b2",
    "state": "active", "revocability": "now", "created": 1_767_268_800.0, "expires": 1_767_269_700.5,
    "due": 1_767_269_700.5, "closed": None, "attempts": 0, "error": "", "this_broker": True,
}  # fmt: skip
LINE = "a1b2\t7f3k2a\torders\tpostgres\tactive\tnow\t2026-01-01T12:15:00Z\n"


class Broker:
    """Answers each question with the next of ``answers``; ``heard`` is what it was asked."""

    def __init__(self, path: Path) -> None:
        self.answers: list[dict[str, Any]] = []
        self.heard: list[dict[str, Any]] = []
        self._listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listening.bind(str(path))
        self._listening.listen()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._listening.shutdown(socket.SHUT_RDWR)
        self._thread.join(5)
        self._listening.close()

    def _serve(self) -> None:
        while True:
            try:
                client, _ = self._listening.accept()
            except OSError:
                return
            with client:
                while (received := wire.receive(client)) is not None:
                    self.heard.append(received[0])
                    wire.send(client, self.answers.pop(0))
                    if received[0]["op"] == "lease.watch":
                        while self.answers:
                            wire.send(client, self.answers.pop(0))
                        break


@pytest.fixture
def broker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Broker]:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    (tmp_path / "leasehold").mkdir(mode=0o700)
    made = Broker(tmp_path / "leasehold" / "broker.sock")
    yield made
    made.stop()


def test_leases_come_as_columns_page_by_page(broker: Broker, capsys: pytest.CaptureFixture[str]) -> None:
    broker.answers = [{"leases": [ROW], "after": "a1b2"}, {"leases": [{**ROW, "id": "c3"}], "after": None}]
    assert main(["lease", "list", "--task", "7f3k2a"]) == 0
    assert capsys.readouterr().out == LINE + LINE.replace("a1b2", "c3")
    assert [(asked["task"], asked["after"], asked["states"]) for asked in broker.heard] == [
        ("7f3k2a", "", None),
        ("7f3k2a", "a1b2", None),
    ]


def test_machines_get_times_as_text(broker: Broker, capsys: pytest.CaptureFixture[str]) -> None:
    broker.answers = [{"leases": [ROW], "after": None}, {"lease": ROW}]
    assert main(["lease", "list", "--json", "--all-states"]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert (row["created"], row["closed"]) == ("2026-01-01T12:00:00Z", None)
    assert set(broker.heard[0]["states"]) > {"active", "revoked", "ended"}
    assert main(["lease", "show", "a1", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == row


def test_no_lease_is_said_beside_the_result(broker: Broker, capsys: pytest.CaptureFixture[str]) -> None:
    broker.answers = [{"leases": [], "after": None}, {"leases": [], "after": None}]
    assert main(["lease", "list"]) == 0
    assert main(["lease", "list", "--state", "quarantined"]) == 0
    said = capsys.readouterr()
    assert (said.out, said.err) == ("", "note: there is no open lease\nnote: there is no such lease\n")


def test_one_lease_is_shown_with_what_is_known(broker: Broker, capsys: pytest.CaptureFixture[str]) -> None:
    broker.answers = [{"lease": ROW}]
    assert main(["lease", "show", "a1"]) == 0
    out = capsys.readouterr().out
    assert "name\tlh_7f3k2a_a1b2\n" in out
    assert "this broker\tyes\n" in out
    assert "error" not in out


@pytest.mark.parametrize(
    ("outcome", "code", "words"),
    [
        ("revoked", 0, "revoked: its provider has it no more"),
        ("ended", 0, "ended: it is injected no more; the secret itself is as good as before at its provider"),
        ("withheld", 0, "ended: none had been issued, and none will be"),
        ("expires", 1, "expires at 2026-01-01T12:15:00Z: its provider cannot end it"),
        ("trying", 1, "still trying: its routes are closed, but its provider may have it (is down)"),
    ],
)
def test_a_revocation_says_how_far_it_came(
    broker: Broker, capsys: pytest.CaptureFixture[str], outcome: str, code: int, words: str
) -> None:
    broker.answers = [{"leases": [{**ROW, "outcome": outcome, "error": "is down"}]}]
    assert main(["lease", "revoke", "a1"]) == code
    assert capsys.readouterr().out == f"a1b2\t7f3k2a\torders\t{words}\n"


@pytest.mark.parametrize("wrong", [[], ["a1", "--all"], ["--task", "x", "--credential", "y"]])
def test_one_thing_has_to_be_meant(broker: Broker, wrong: list[str]) -> None:
    assert main(["lease", "revoke", *wrong, "--yes"]) == 2
    assert broker.heard == []


def test_more_than_one_lease_needs_a_yes(
    broker: Broker, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("y\n"))
    assert main(["lease", "revoke", "--all"]) == 2
    assert capsys.readouterr().err == (
        "error: usage: this ends every lease of every task, and nobody can be asked\nhint: add --yes\n"
    )
    for answer, code in (("n\n", 2), ("\n", 2), ("y\n", 0)):
        ours, theirs = pty.openpty()
        os.write(ours, answer.encode())
        broker.answers = [{"leases": []}]
        with os.fdopen(theirs, "r") as terminal:
            monkeypatch.setattr(sys, "stdin", terminal)
            assert main(["lease", "revoke", "--task", "7f3k2a"]) == code
        os.close(ours)
    assert len(broker.heard) == 1
    assert "End every lease of task 7f3k2a now? [y/N] " in capsys.readouterr().err


def test_each_change_is_a_line_and_the_end_of_the_broker_an_error(
    broker: Broker, capsys: pytest.CaptureFixture[str]
) -> None:
    broker.answers = [{"leases": [ROW]}, {"leases": [{**ROW, "state": "revoked"}]}]
    assert main(["lease", "list", "--watch"]) == 1
    said = capsys.readouterr()
    assert said.out == LINE + LINE.replace("active", "revoked")
    assert said.err.startswith("error: broker-gone: ")


def test_on_a_terminal_the_table_is_drawn_anew(broker: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    broker.answers = [{"leases": [ROW, {**ROW, "id": "c3"}]}, {"leases": [{**ROW, "state": "revoked"}]}]
    monkeypatch.setenv("NO_COLOR", "1")
    shown = io.StringIO()
    shown.isatty = lambda: True  # type: ignore[method-assign]  # a terminal
    monkeypatch.setattr(sys, "stdout", shown)
    assert main(["lease", "list", "--watch"]) == 1
    first, second = shown.getvalue().split("\033[H\033[2J")[1:]
    assert ("a1b2" in first, "c3" in first) == (True, True)
    assert ("a1b2" in second, "c3" in second) == (False, True)


def test_an_inventory_says_what_it_found(broker: Broker, capsys: pytest.CaptureFixture[str]) -> None:
    nothing: dict[str, Any] = {"looked_at": 2, "orphans": [], "ghosts": [], "problems": [], "unlisted": []}
    orphan = {"issuer": "postgres", "name": "lh_x"}
    broker.answers = [
        nothing,
        {**nothing, "orphans": [{**orphan, "taken_back": True}], "unlisted": ["github-app"]},
        {**nothing, "orphans": [{**orphan, "taken_back": False}], "ghosts": [{**ROW, "state": "revoked"}]},
    ]
    assert [main(["lease", "audit"]), main(["lease", "audit", "--repair"]), main(["lease", "audit"])] == [0, 0, 1]
    assert [asked["repair"] for asked in broker.heard] == [False, True, False]
    said = capsys.readouterr()
    assert said.out == (
        "orphan\tpostgres\tlh_x\ttaken back\n"
        "orphan\tpostgres\tlh_x\tleft: the ledger does not know it\n"
        "ghost\tpostgres\tlh_7f3k2a_a1b2\trevoked: its provider did not have it\n"
    )
    assert said.err == (
        "note: 2 providers have what the ledger says, and no more\n"
        "note: cannot be looked at, as they list nothing: github-app\n"
        "note: an orphan may be another broker's; --repair takes all of them back\n"
    )
