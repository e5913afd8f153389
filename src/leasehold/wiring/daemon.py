"""The daemon of one person: broker and node in one process (DESIGN 3). ``leasehold run`` starts it on first use.

Its working folder, arguments and environment come from :mod:`leasehold.cli.client`; all else is read from the
operator's configuration when a task asks.
"""

from __future__ import annotations

import argparse
import asyncio
import ctypes
import fcntl
import json
import os
import resource
import signal
import socket
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from leasehold.core.errors import BrokerError, LeaseholdError
from leasehold.core.limits import LIMITS
from leasehold.core.locations import runtime_dir, socket_path, state_dir

if TYPE_CHECKING:
    from io import FileIO

    from leasehold.wiring.local import Daemon

_PR_SET_DUMPABLE = 4
_BACKLOG = 512


def main() -> int:
    """Run until idle, told to stop, or killed. On ``--ready-fd`` it says, as JSON, only why it could not start."""
    parser = argparse.ArgumentParser(prog="leasehold-daemon", allow_abbrev=False)
    parser.add_argument("--ready-fd", type=int, required=True)
    with os.fdopen(parser.parse_args().ready_fd, "wb", buffering=0) as ready:
        os.set_inheritable(ready.fileno(), False)
        try:
            _harden()
            lock = _lock(Path(runtime_dir()) / "broker.lock")
            if lock is None:
                _wait_for_the_other(socket_path())
                return 0
            asyncio.run(_run(ready))
        except LeaseholdError as e:
            print(f"error: {e.code}: {e.message}\nhint: {e.hint}", file=sys.stderr)
            # The starter may have gone, or have heard already that it is ready: then the log is all there is.
            with suppress(BrokenPipeError):
                if not ready.closed:
                    ready.write(json.dumps(e.as_dict()).encode())
            return 1


def _harden() -> None:
    """No core dumps, no reading of our memory by others of the same user, nothing readable by others."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0) != 0:
        raise BrokerError("cannot forbid core dumps", hint="run `leasehold doctor`")
    os.umask(0o077)


def _lock(path: Path) -> int | None:
    """Take the one daemon's lock; it is held as long as the process lives. ``None``: another has it."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        return None
    return fd


def _wait_for_the_other(path: str) -> None:
    """Two starters at once: the loser's client connects to the winner's daemon as soon as that listens."""
    until = time.monotonic() + 10
    while time.monotonic() < until:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            if probe.connect_ex(path) == 0:
                return
        time.sleep(0.01)
    raise BrokerError("another broker holds the lock but does not listen", hint="end it with `leasehold daemon stop`")


def _listen(path: Path) -> socket.socket:
    path.unlink(missing_ok=True)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    sock.bind(str(path))
    path.chmod(0o600)
    sock.listen(_BACKLOG)
    sock.setblocking(False)
    return sock


async def _run(ready: FileIO) -> NoReturn:
    from leasehold.wiring.local import Daemon

    loop = asyncio.get_running_loop()
    daemon = Daemon(state=Path(state_dir()), runtime=Path(runtime_dir()), clock=time.time)
    await daemon.start()
    sock = _listen(Path(socket_path()))
    try:
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, daemon.stopping.set)
        accepting = asyncio.create_task(_accept(sock, daemon))
        ready.close()
        idle = asyncio.create_task(daemon.idle(LIMITS.idle_exit_s))
        stopping = asyncio.create_task(daemon.stopping.wait())
        await asyncio.wait({accepting, idle, stopping}, return_when=asyncio.FIRST_COMPLETED)
        for task in (accepting, idle, stopping):
            task.cancel()
    finally:
        Path(socket_path()).unlink(missing_ok=True)
        sock.close()
        await daemon.stop()
        # All has ended and is on the disk. gRPC would take seconds to take itself apart, with our lock held, and
        # whoever asked us to stop waits for this.
        sys.stderr.flush()
        os._exit(0)


async def _accept(sock: socket.socket, daemon: Daemon) -> None:
    loop = asyncio.get_running_loop()
    while True:
        client, _ = await loop.sock_accept(sock)
        daemon.serve(client)


if __name__ == "__main__":
    sys.exit(main())
