"""Child processes of the fixtures: started with a bound on waiting, ended by their own group."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

_START_S = 30.0
_END_S = 5.0


class ServerError(AssertionError):
    """A server of the fixtures did not start; never a reason to skip."""


class Child:
    """One server process in a session of its own; it dies with the thread that started it."""

    def __init__(self, command: Sequence[str], *, log: Path, env: Mapping[str, str] | None = None) -> None:
        self._command = command
        self._log = log
        with log.open("ab") as out:
            self._process = subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", "--", *command],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                env=dict(env) if env is not None else None,
                start_new_session=True,
            )

    def wait_until(self, ready: Callable[[], bool], *, timeout_s: float = _START_S) -> None:
        """Return when ``ready()``; ``ServerError`` with the log's end when it died or took too long."""
        deadline = time.monotonic() + timeout_s
        while not ready():
            code = self._process.poll()
            if code is not None or time.monotonic() > deadline:
                self.close()
                tail = self._log.read_text(errors="replace")[-2000:]
                raise ServerError(f"{self._command[0]}: exit code {code} while starting\n{tail}")
            time.sleep(0.02)

    def close(self) -> None:
        """End the whole group; idempotent."""
        if self._process.returncode is not None:
            return
        _signal_group(self._process.pid, signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_END_S)
        _signal_group(self._process.pid, signal.SIGKILL)
        self._process.wait()


def _signal_group(pid: int, number: signal.Signals) -> None:
    try:
        os.killpg(pid, number)
    except ProcessLookupError:
        return


def accepts(address: str, port: int) -> Callable[[], bool]:
    """Whether something listens there, as a question to ask again."""

    def ask() -> bool:
        try:
            socket.create_connection((address, port), timeout=1.0).close()
        except OSError:
            return False
        return True

    return ask


def free_port(address: str) -> int:
    """A TCP port that was free a moment ago; addresses are the session's own, so nobody else takes it."""
    with socket.socket() as sock:
        sock.bind((address, 0))
        port: int = sock.getsockname()[1]
        return port
