"""The command line's way to the broker: a unix socket, and a daemon that starts when it is needed."""

from __future__ import annotations

import json
import os
import socket
import sys

from leasehold.core import wire
from leasehold.core.errors import BrokerError, BrokerGone, LeaseholdError
from leasehold.core.locations import runtime_dir, socket_path, state_dir

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

_KEPT = (
    "PATH", "HOME", "USER", "LOGNAME", "LANG", "LC_ALL", "TZ", "XDG_CONFIG_HOME", "XDG_DATA_HOME", "XDG_STATE_HOME",
    "XDG_RUNTIME_DIR", "DBUS_SESSION_BUS_ADDRESS", "LEASEHOLD_CONFIG", "GNUPGHOME", "PASSWORD_STORE_DIR",
    "COVERAGE_PROCESS_START",
)  # fmt: skip


class RemoteError(LeaseholdError):
    """An error as the broker told it: its code, message and hint are the broker's."""

    def __init__(self, code: str, message: str, hint: str) -> None:
        super().__init__(message, hint=hint)
        self.code = code  # type: ignore[misc]  # the one error whose code comes over the wire


def connect(start: bool = True) -> socket.socket:
    """Connect to this user's broker; with ``start`` start it when there is none. ``BrokerError`` when it fails."""
    path = socket_path()
    sock = _try(path)
    if sock is None and start:
        sock = _start(path)
    if sock is None:
        raise BrokerError("no broker is running", hint="`leasehold run` starts one when it needs it")
    return sock


def call(sock: socket.socket, message: dict[str, Any], fds: Sequence[int] = ()) -> dict[str, Any]:
    """Send one request and wait for its reply; an error reply is raised as what the broker said."""
    try:
        wire.send(sock, message, fds)
        answer = wire.receive(sock)
    except OSError:
        answer = None
    if answer is None:
        raise BrokerGone("the broker ended while it was asked", hint=f"its log is in {state_dir()}/daemon.log")
    reply, _ = answer
    if "error" in reply:
        error = reply["error"]
        raise RemoteError(error["code"], error["message"], error["hint"])
    return reply


def _try(path: str) -> socket.socket | None:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.connect(path)
    except (FileNotFoundError, ConnectionRefusedError):
        sock.close()
        return None
    return sock


def _start(path: str) -> socket.socket:
    """Start the daemon and wait on a pipe until it listens: no polling, and its failure is heard at once."""
    runtime_dir()
    ready, told = os.pipe()
    log = os.open(f"{state_dir()}/daemon.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    environment = {name: os.environ[name] for name in _KEPT if name in os.environ}
    # -I: the daemon imports nothing from the folder or the environment that it happens to be started in.
    command = [sys.executable, "-I", "-m", "leasehold.wiring.daemon", "--ready-fd", str(told)]
    os.set_inheritable(told, True)
    actions = [(os.POSIX_SPAWN_DUP2, null, 0), (os.POSIX_SPAWN_DUP2, null, 1), (os.POSIX_SPAWN_DUP2, log, 2)]
    os.posix_spawn(sys.executable, command, environment, file_actions=actions, setsid=True)
    for fd in (told, log, null):
        os.close(fd)
    with os.fdopen(ready, "rb") as pipe:
        said = pipe.read()
    sock = _try(path)
    if sock is None:
        raise _reason(said)
    return sock


def _reason(said: bytes) -> LeaseholdError:
    """Why the daemon did not start: its own error, under its own code, when it could tell."""
    try:
        return RemoteError(**json.loads(said))
    except (ValueError, TypeError):
        pass
    where = f"its log is in {state_dir()}/daemon.log"
    return BrokerError("the broker did not start: it ended without a word", hint=where)
