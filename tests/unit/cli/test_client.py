"""The way to the broker: found, or started, or the reason why not under the code that it has."""

from __future__ import annotations

import json
import os
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from leasehold.cli import client
from leasehold.cli.main import main
from leasehold.core import wire
from leasehold.core.errors import BrokerError, BrokerGone
from leasehold.core.locations import runtime_dir, socket_path, state_dir

_PYTHON = os.path.realpath(sys.executable)
# What stands in for the daemon: it writes down its environment, then does what the test says.
_DAEMON = """#!{python} -I
import json, os, socket, sys
told = int(sys.argv[sys.argv.index("--ready-fd") + 1])
with open({seen!r}, "w") as file:
    json.dump([sys.argv[1:4], dict(os.environ)], file)
print("what went wrong", file=sys.stderr, flush=True)
{does}
"""
_LISTENS = """
sock = socket.socket(socket.AF_UNIX)
sock.bind(os.environ["XDG_RUNTIME_DIR"] + "/leasehold/broker.sock")
sock.listen()
os.close(told)
sock.accept()[0].recv(1)
"""


@pytest.fixture(autouse=True)
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for variable, name in (("XDG_RUNTIME_DIR", "run"), ("XDG_STATE_HOME", "state"), ("XDG_CONFIG_HOME", "config")):
        (tmp_path / name).mkdir(mode=0o700)
        monkeypatch.setenv(variable, str(tmp_path / name))
    monkeypatch.delenv("DBUS_SESSION_BUS_ADDRESS", raising=False)


@pytest.fixture
def daemon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    """Puts a program in the daemon's place; returns the file with what it has seen."""

    def stands_in(does: str) -> Path:
        program, seen = tmp_path / "daemon", tmp_path / "seen.json"
        program.write_text(_DAEMON.format(python=_PYTHON, seen=str(seen), does=does))
        program.chmod(0o700)
        monkeypatch.setattr(sys, "executable", str(program))
        return seen

    return stands_in


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    near, far = socket.socketpair()
    with near, far:
        yield near, far


def answered(pair: tuple[socket.socket, socket.socket], reply: dict[str, Any]) -> dict[str, Any]:
    """What ``call`` makes of a reply."""
    near, far = pair
    wire.send(far, reply)
    return client.call(near, {"op": "daemon.status"})


def test_a_broker_that_runs_is_found() -> None:
    with socket.socket(socket.AF_UNIX) as broker:
        broker.bind(socket_path())
        broker.listen()
        for start in (True, False):
            with client.connect(start=start) as sock:
                assert sock.getpeername() == socket_path()


def test_none_is_started_unless_asked_for() -> None:
    with pytest.raises(BrokerError, match="no broker is running"):
        client.connect(start=False)
    with socket.socket(socket.AF_UNIX) as killed:
        killed.bind(socket_path())  # and stays behind
    with pytest.raises(BrokerError, match="no broker is running"):
        client.connect(start=False)


def test_it_starts_with_nothing_but_what_it_needs(
    daemon: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = daemon(_LISTENS)
    for name in ("PYTHONPATH", "LD_PRELOAD", "FORGE_TOKEN"):
        monkeypatch.setenv(name, "hostile")
    with client.connect() as sock:
        sock.sendall(b"x")
    arguments, environment = json.loads(seen.read_text())
    assert arguments == ["-I", "-m", "leasehold.wiring.daemon"]
    assert environment["XDG_STATE_HOME"] == os.environ["XDG_STATE_HOME"]
    assert "hostile" not in environment.values()
    log = Path(state_dir(), "daemon.log")
    assert log.stat().st_mode & 0o777 == 0o600
    assert log.read_text() == "what went wrong\n"


def test_what_it_says_instead_of_starting_keeps_its_code(daemon: Callable[[str], Path]) -> None:
    said = {"code": "vault-unusable", "message": "the key is gone", "hint": "look for it"}
    daemon(f"os.write(told, {json.dumps(said).encode()!r})")
    with pytest.raises(client.RemoteError, match="the key is gone") as caught:
        client.connect()
    assert caught.value.as_dict() == said


@pytest.mark.parametrize("said", ["", "half a w", "[1]", "7", '{"code": "x"}', '{"message": 1, "other": 2}', "\xff"])
def test_whatever_else_it_says_the_log_knows_more(daemon: Callable[[str], Path], said: str) -> None:
    daemon(f"os.write(told, {said.encode('latin-1')!r})")
    with pytest.raises(BrokerError, match="ended without a word") as caught:
        client.connect()
    assert caught.value.hint == f"its log is in {state_dir()}/daemon.log"


def test_an_audit_log_that_cannot_be_written_is_called_that(capsys: pytest.CaptureFixture[str]) -> None:
    """The real daemon, which ends before it makes anything: by then nobody can reach it, but its audit log is why."""
    Path(state_dir(), "audit").write_text("no folder\n")
    assert main(["audit", "query"]) == 1
    error, hint = capsys.readouterr().err.splitlines()
    assert error.startswith("error: audit-unusable: the audit log in ")
    assert hint == "hint: nothing starts without it; make room, or repair the disk or the folder"
    assert f"{error}\n" in Path(state_dir(), "daemon.log").read_text()


def test_a_reply_is_returned(pair: tuple[socket.socket, socket.socket]) -> None:
    assert answered(pair, {"ok": True, "pid": 7}) == {"ok": True, "pid": 7}
    received = wire.receive(pair[1])
    assert received is not None
    assert received[0] == {"op": "daemon.status"}


def test_descriptors_go_with_a_request(pair: tuple[socket.socket, socket.socket], tmp_path: Path) -> None:
    near, far = pair
    wire.send(far, {"ok": True})
    with (tmp_path / "f").open("w") as file:
        client.call(near, {"op": "task.open"}, [file.fileno()])
    received = wire.receive(far)
    assert received is not None
    [fd] = received[1]
    assert Path(f"/proc/self/fd/{fd}").readlink() == tmp_path / "f"
    os.close(fd)


def test_an_error_reply_is_raised_as_what_the_broker_said(pair: tuple[socket.socket, socket.socket]) -> None:
    said = {"code": "grant-refused", "message": "there is no credential 'x'", "hint": "see the list"}
    with pytest.raises(client.RemoteError) as caught:
        answered(pair, {"error": said})
    assert caught.value.as_dict() == said


def test_a_broker_that_ends_while_it_is_asked_is_gone(pair: tuple[socket.socket, socket.socket]) -> None:
    near, far = pair

    def end() -> None:
        wire.receive(far)
        far.close()

    reading = threading.Thread(target=end)
    reading.start()
    with pytest.raises(BrokerGone, match="ended while it was asked"):
        client.call(near, {"op": "daemon.status"})
    reading.join()
    with pytest.raises(BrokerGone, match="ended while it was asked"):
        client.call(near, {"op": "daemon.status"})


def test_the_runtime_folder_is_made_before_the_daemon_starts(daemon: Callable[[str], Path]) -> None:
    daemon(_LISTENS)
    assert not (Path(os.environ["XDG_RUNTIME_DIR"]) / "leasehold").exists()
    with client.connect() as sock:
        sock.sendall(b"x")
    assert Path(runtime_dir()).stat().st_mode & 0o777 == 0o700
