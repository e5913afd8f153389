"""The daemon's process: one at a time, closed to others, and telling its starter why when it cannot start."""

from __future__ import annotations

import asyncio
import ctypes
import fcntl
import json
import os
import resource
import select
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from leasehold.core import wire
from leasehold.core.errors import BrokerError
from leasehold.core.locations import runtime_dir, socket_path, state_dir
from leasehold.wiring import daemon

_PR_GET_DUMPABLE, _PR_SET_DUMPABLE = 3, 4


@pytest.fixture(autouse=True)
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for variable, name in (("XDG_RUNTIME_DIR", "run"), ("XDG_STATE_HOME", "state"), ("XDG_CONFIG_HOME", "config")):
        (tmp_path / name).mkdir(mode=0o700)
        monkeypatch.setenv(variable, str(tmp_path / name))
    monkeypatch.delenv("DBUS_SESSION_BUS_ADDRESS", raising=False)


Limit = tuple[int, tuple[int, int]]


@pytest.fixture
def limited(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Limit]]:
    """What hardening changes of this process is put back; limits could not be, so they are only written down."""
    mask = os.umask(0o022)
    os.umask(mask)
    limits: list[Limit] = []
    monkeypatch.setattr(resource, "setrlimit", lambda which, to: limits.append((which, to)))
    yield limits
    os.umask(mask)
    monkeypatch.undo()
    ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 1, 0, 0, 0)


@pytest.fixture
def main(monkeypatch: pytest.MonkeyPatch, limited: list[Limit]) -> Callable[[], tuple[int, str]]:
    """Runs it in this process; returns its exit code and what it said to its starter."""

    def run() -> tuple[int, str]:
        ready, told = os.pipe()
        monkeypatch.setattr(sys, "argv", ["leasehold-daemon", "--ready-fd", str(told)])
        code = daemon.main()
        os.set_blocking(ready, False)
        with os.fdopen(ready, "rb") as pipe:
            return code, (pipe.read() or b"").decode()

    return run


@pytest.fixture
def started(envoy_process: Callable[[str], None]) -> Iterator[Callable[[], subprocess.Popen[bytes]]]:
    """Starts the real one, and returns it when it is ready or has ended."""
    made: list[subprocess.Popen[bytes]] = []

    def start() -> subprocess.Popen[bytes]:
        ready, told = os.pipe()
        command = [sys.executable, "-I", "-m", "leasehold.wiring.daemon", "--ready-fd", str(told)]
        made.append(subprocess.Popen(command, pass_fds=[told], stderr=subprocess.DEVNULL))
        os.close(told)
        with os.fdopen(ready, "rb") as pipe:
            assert pipe.read() == b""
        return made[-1]

    yield start
    for process in made:
        process.kill()
        process.wait()


def ask(op: str) -> tuple[dict[str, object], socket.socket]:
    sock = socket.socket(socket.AF_UNIX)
    sock.connect(socket_path())
    wire.send(sock, {"op": op})
    received = wire.receive(sock)
    assert received is not None
    return received[0], sock


def test_it_answers_until_it_is_told_to_stop_and_leaves_no_socket(
    started: Callable[[], subprocess.Popen[bytes]],
) -> None:
    process = started()
    assert Path(socket_path()).stat().st_mode & 0o777 == 0o600
    status, sock = ask("daemon.status")
    sock.close()
    assert status["pid"] == process.pid
    envoy = Path(f"/proc/{status['envoy_pid']}")
    assert envoy.exists()
    stopping, sock = ask("daemon.stop")
    assert stopping["pid"] == process.pid
    with sock:
        # It closes the connection when everything has ended.
        assert wire.receive(sock) is None
    assert process.wait(10) == 0
    assert not Path(socket_path()).exists()
    assert not envoy.exists()


def test_a_signal_ends_it_in_good_order(started: Callable[[], subprocess.Popen[bytes]]) -> None:
    process = started()
    process.terminate()
    assert process.wait(10) == 0
    log = b"".join(path.read_bytes() for path in (Path(state_dir()) / "audit").glob("*.jsonl"))
    assert [json.loads(line)["event"] for line in log.splitlines()] == ["daemon:started", "daemon:stopped"]


def test_an_audit_log_that_breaks_while_it_runs_is_the_end_of_all(
    started: Callable[[], subprocess.Popen[bytes]],
) -> None:
    process = started()
    status, sock = ask("daemon.status")
    sock.close()
    for segment in (Path(state_dir()) / "audit").glob("*.jsonl"):
        with segment.open("a") as file:
            file.write("not ours\n")
    process.terminate()
    assert process.wait(20) == 1
    assert not Path(socket_path()).exists()
    assert not Path(f"/proc/{status['envoy_pid']}").exists()


def test_nobody_of_the_same_user_can_look_into_it(started: Callable[[], subprocess.Popen[bytes]]) -> None:
    process = started()
    owner = Path(f"/proc/{process.pid}/environ").stat().st_uid
    assert owner == 0  # the kernel gives what cannot be dumped to root
    limits = Path(f"/proc/{process.pid}/limits").read_text()
    assert next(line.split()[4:6] for line in limits.splitlines() if line.startswith("Max core")) == ["0", "0"]


def test_a_second_one_leaves_to_the_first(started: Callable[[], subprocess.Popen[bytes]]) -> None:
    first = started()
    second = started()
    assert second.wait(10) == 0
    status, sock = ask("daemon.status")
    sock.close()
    assert status["pid"] == first.pid


def test_hardening_holds_for_the_process(limited: list[Limit]) -> None:
    daemon._harden()
    assert ctypes.CDLL(None).prctl(_PR_GET_DUMPABLE, 0, 0, 0, 0) == 0
    assert limited == [(resource.RLIMIT_CORE, (0, 0))]
    assert os.umask(0o077) == 0o077


def test_what_cannot_be_hardened_does_not_start(
    main: Callable[[], tuple[int, str]], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Refusing:
        def __init__(self, *_: object, **__: object) -> None: ...

        def prctl(self, *_: int) -> int:
            return -1

    monkeypatch.setattr(ctypes, "CDLL", Refusing)
    code, said = main()
    assert code == 1
    assert json.loads(said) == {
        "code": "broker-unavailable",
        "message": "cannot forbid core dumps",
        "hint": "run `leasehold doctor`",
    }
    expected = "error: broker-unavailable: cannot forbid core dumps\nhint: run `leasehold doctor`\n"
    assert capsys.readouterr().err == expected


def test_an_audit_log_that_cannot_be_written_is_told_as_that(
    main: Callable[[], tuple[int, str]], capsys: pytest.CaptureFixture[str]
) -> None:
    (Path(state_dir()) / "audit").write_text("no folder\n")
    code, said = main()
    assert (code, json.loads(said)["code"]) == (1, "audit-unusable")
    assert capsys.readouterr().err.startswith("error: audit-unusable: ")
    assert not Path(socket_path()).exists()


def test_its_lock_is_held_by_one_and_is_no_link() -> None:
    path = Path(runtime_dir()) / "broker.lock"
    fd = daemon._lock(path)
    assert fd is not None
    assert not os.get_inheritable(fd)
    assert daemon._lock(path) is None
    os.close(fd)
    again = daemon._lock(path)
    assert again is not None
    os.close(again)
    path.unlink()
    path.symlink_to(Path(state_dir()) / "elsewhere")
    with pytest.raises(OSError, match="symbolic links"):
        daemon._lock(path)


def test_the_loser_waits_until_the_winner_listens(main: Callable[[], tuple[int, str]]) -> None:
    with (Path(runtime_dir()) / "broker.lock").open("w") as lock, socket.socket(socket.AF_UNIX) as winner:
        fcntl.flock(lock, fcntl.LOCK_EX)
        winner.bind(socket_path())
        listening = threading.Timer(0.05, winner.listen)
        listening.start()
        assert main() == (0, "")
        listening.join()


def test_a_winner_that_never_listens_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter(range(100))
    monkeypatch.setattr("time.monotonic", lambda: next(times))
    with pytest.raises(BrokerError, match="does not listen"):
        daemon._wait_for_the_other(socket_path())


def test_it_listens_for_this_user_only_and_where_a_killed_one_did() -> None:
    for _ in range(2):
        with daemon._listen(Path(socket_path())) as sock:
            assert sock.getblocking() is False
            assert Path(socket_path()).stat().st_mode & 0o777 == 0o600


def test_each_client_is_served() -> None:
    async def scenario() -> None:
        served: asyncio.Queue[socket.socket] = asyncio.Queue()

        class Serving:
            serve = staticmethod(served.put_nowait)

        with daemon._listen(Path(socket_path())) as listening:
            accepting = asyncio.create_task(daemon._accept(listening, Serving()))  # type: ignore[arg-type]
            for _ in range(2):
                with socket.socket(socket.AF_UNIX) as client:
                    client.connect(socket_path())
                    accepted = await asyncio.wait_for(served.get(), 10)
                    with accepted:
                        accepted.sendall(b"x")
                    ready, _, _ = select.select([client], [], [], 10)
                    assert ready
            accepting.cancel()

    asyncio.run(scenario())
