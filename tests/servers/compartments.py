"""Compartments without a sandbox: a task, its network namespace, and a connection made in there.

What the launcher opens before an agent starts, many times over in one process. Needs root.
"""

from __future__ import annotations

import http.client
import os
import socket
import ssl
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

from leasehold.core import wire
from leasehold.node.sandbox.namespaces import _libc
from leasehold.node.sandbox.netlink import make_everything_local

T = TypeVar("T")

_CLONE_NEWNET = 0x40000000
_PATIENCE_S = 20.0


class Compartment:
    """A task that is open; its end is the end of ``with``, or :meth:`close`. ``opened_s``: how long opening it took."""

    def __init__(self, broker: Path, config: Path, workspace: Path) -> None:
        self._connection: http.client.HTTPConnection | None = None
        self._netns = _elsewhere(_new_namespace)
        self._sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._sock.connect(str(broker))
        message = {
            "op": "task.open",
            "class": "local",
            "profile": "generic",
            "purpose": "many",
            "workspace": str(workspace),
            "ttl_s": None,
            "grants": None,
            "config": str(config),
            "mode": "netns",
            "java": False,
            "command": ["true"],
        }
        began = time.perf_counter()
        wire.send(self._sock, message, [self._netns])
        answer = wire.receive(self._sock)
        self.opened_s = time.perf_counter() - began
        if answer is None or "error" in answer[0]:
            raise RuntimeError(f"task.open: {answer}")
        self.reply: dict[str, Any] = answer[0]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def get(self, host: str, path: str) -> tuple[int, bytes]:
        """Status and body, over one connection that is made at the first call and never again.

        ``OSError`` or ``http.client.HTTPException`` when that connection has ended.
        """
        if self._connection is None:
            self._connection = http.client.HTTPConnection(host)
            self._connection.auto_open = 0
            self._connection.sock = self.connect(host)
        self._connection.request("GET", path)
        response = self._connection.getresponse()
        return response.status, response.read()

    def connect(self, host: str) -> ssl.SSLSocket:
        """A new TLS connection to ``host``, verified as the agent would."""
        context = ssl.create_default_context(cadata=self.reply["ca_pem"])
        address = (self.reply["names"][host], 443)

        def dial() -> socket.socket:
            _enter(self._netns)
            sock = socket.create_connection(address, _PATIENCE_S)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # as every HTTP client does
            return sock

        return context.wrap_socket(_elsewhere(dial), server_hostname=host)

    def close(self) -> None:
        """End the task; idempotent."""
        if self._connection is not None:
            self._connection.close()
        self.end()
        if self._netns >= 0:
            os.close(self._netns)
            self._netns = -1

    def end(self) -> None:
        """End the task as the launcher's death does, and keep the connection, to see what becomes of it."""
        self._sock.close()


def _new_namespace() -> int:
    if _libc().unshare(_CLONE_NEWNET) != 0:
        raise OSError("cannot make a network namespace: needs root")
    make_everything_local()
    return os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)


def _enter(netns: int) -> None:
    if _libc().setns(netns, _CLONE_NEWNET) != 0:
        raise OSError("cannot enter the network namespace")


def _elsewhere(what: Callable[[], T]) -> T:
    """Do it in a thread, so that this process stays in the namespace where it is."""
    found: list[T] = []
    failed: list[BaseException] = []

    def do() -> None:
        try:
            found.append(what())
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=do)
    thread.start()
    thread.join()
    if failed:
        raise failed[0]
    return found[0]
