"""A daemon in this process, and clients of it on sockets."""

from __future__ import annotations

import asyncio
import base64
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

from leasehold.broker.audit.model import Record
from leasehold.broker.audit.query import Filter
from leasehold.core import wire
from leasehold.wiring.connection import Connection
from leasehold.wiring.local import Daemon

from .parts import DOCS_HOST, FORGE_HOST, Clock, Envoy

_OPERATOR = f"""
[trust]
domain = "dev.example"
[network]
resolve = {{ "{FORGE_HOST}" = "10.1.2.3" }}
allow_private = ["10.1.2.0/24"]
[hosts]
allow = [{{ host = "{DOCS_HOST}" }}]
[credentials.forge]
issuer = "static"
secret = "vault:forge-token"
environment = "development"
role = "execute"
max_ttl = "15m"
[[credentials.forge.endpoints]]
host = "{FORGE_HOST}"
inject = {{ header = "Authorization" }}
[credentials.own]
issuer = "static"
secret = "env:FORGE_TOKEN"
environment = "development"
role = "execute"
max_ttl = "15m"
[[credentials.own.endpoints]]
host = "own.example"
inject = {{ header = "Authorization" }}
"""


class Client:
    """One connection to the daemon."""

    def __init__(self, daemon: Daemon) -> None:
        near, self.sock = socket.socketpair()
        near.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        self._connection = Connection(self.sock)
        daemon.serve(near)

    async def ask(self, op: str, *fds: int, **fields: Any) -> dict[str, Any]:
        self.tell(op, *fds, **fields)
        answer = await self.next()
        assert answer is not None
        return answer

    def tell(self, op: str, *fds: int, **fields: Any) -> None:
        wire.send(self.sock, {"op": op, **fields}, fds)

    async def next(self) -> dict[str, Any] | None:
        """The next message; ``None`` when the daemon has closed."""
        received = await asyncio.wait_for(self._connection.receive(), 10)
        return received[0] if received else None

    def leave(self) -> None:
        self._connection.close()


class Host:
    """A daemon with its own folders. Its Envoy takes what it gets; nothing listens anywhere."""

    def __init__(self, folder: Path) -> None:
        self.clock = Clock()
        self.state, self.runtime, self.workspace = (folder / name for name in ("state", "run", "web"))
        for path in (self.state, self.runtime, self.workspace):
            path.mkdir(mode=0o700)
        self.config = folder / "config.toml"
        self.config.write_text(_OPERATOR)
        self.config.chmod(0o600)
        self.daemon = Daemon(state=self.state, runtime=self.runtime, clock=self.clock)
        self.envoy = Envoy(self.daemon._egress)
        self._clients: list[Client] = []

    def client(self) -> Client:
        self._clients.append(Client(self.daemon))
        return self._clients[-1]

    async def open(self, *fds: int, client: Client | None = None, **fields: Any) -> tuple[Client, dict[str, Any]]:
        client = client or self.client()
        where = {"workspace": str(self.workspace), "config": str(self.config), "mode": "netns" if fds else "relay"}
        return client, await client.ask("task.open", *fds, **{**where, **fields})

    async def store(self, value: bytes = b"s3cr3t-value") -> None:
        said = await self.client().ask("secret.set", name="forge-token", value_b64=base64.b64encode(value).decode())
        assert said == {"ok": True}

    async def gone(self, task: str, event: str = "task:closed") -> Record:
        """The task's last record of a kind, when it has been written."""
        async with asyncio.timeout(10):
            while not (found := self.records(event, task)):
                await asyncio.sleep(0)
        return found[-1]

    async def close(self) -> None:
        for client in self._clients:
            client.leave()
        async with asyncio.timeout(10):
            while self.daemon._clients:
                await asyncio.sleep(0)
        self.daemon._audit.close()

    def records(self, event: str = "", task: str = "") -> list[Record]:
        found = self.daemon._audit.query(Filter()).records
        return [record for record in found if event in ("", record.event) and task in ("", record.task)]


Scenario = Callable[[Host], Any]


def a_descriptor(path: Path) -> int:
    """One that can be recognised by what it leads to."""
    return os.open(path, os.O_RDONLY | os.O_CLOEXEC)


def held(path: Path) -> int:
    """How many descriptors of this process lead to ``path``."""
    links = [link for link in Path("/proc/self/fd").iterdir() if link.is_symlink()]
    return sum(link.readlink() == path for link in links)
