"""What stands behind the cluster of a connection that is no HTTP: processes and sockets of this node."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from leasehold.core.errors import EgressError
from leasehold.node.egress import streams
from leasehold.node.egress.confined import Confined
from leasehold.node.egress.model import Denied, Leaf, Released, Upstream
from leasehold.node.egress.pooler import Pooler
from leasehold.node.egress.refusal import Refusal
from leasehold.node.egress.relaying import Relay
from leasehold.node.egress.usage import REFUSED_SOCKET
from leasehold.node.egress.xds import Key


class Behind:
    """``runtime``: the daemon's private folder. At most one thing stands behind an upstream."""

    def __init__(self, runtime: Path) -> None:
        self._runtime = runtime
        self._numbers = itertools.count(1)
        self._processes: dict[str, list[Confined]] = {}
        self._refusals: dict[str, Refusal] = {}
        self._watching: dict[str, list[asyncio.Task[None]]] = {}

    async def open(
        self,
        upstream: Upstream,
        cluster: str,
        released: Released,
        leaf: Leaf,
        trusted_ca: str,
        lost: Callable[[Upstream], None],
    ) -> list[Mapping[Key, Any]]:
        """Start what is needed; returns the changes of Envoy's configuration, in steps that wait for one another.

        ``cluster``: the name under which Envoy asked for it. ``lost`` is called when it ends by itself.
        """
        await self.close(upstream)
        destination, password = upstream.destination, released.secret
        if destination.scheme == "ssh":
            return [streams.direct_cluster(cluster, destination.port, released.addresses)]
        if password is None:
            raise EgressError(f"there is no account for {destination.host}", hint="this is a defect; please report it")
        relay = Relay(self._path("relay"))
        processes: list[Confined] = [relay]
        self._processes[upstream.name] = processes
        server: Mapping[Key, Any] = {}
        if destination.scheme == "postgres":
            pooler = Pooler(self._path("pooler"))
            processes.append(pooler)
            await pooler.log_in(destination, released.addresses, released.username, password, trusted_ca)
            await relay.serve("postgres", leaf, {"upstream": str(pooler.socket)})
        elif destination.scheme == "redis":
            path = str(relay.folder / "server.sock")
            server = streams.tls_server(upstream, released.addresses, trusted_ca, path)
            account = {"username": released.username, "password": password.reveal().decode()}
            await relay.serve("redis", leaf, {"upstream": path, **account})
        else:
            told = {
                "host": destination.host,
                "addresses": list(released.addresses),
                "port": destination.port,
                "ca": Path(trusted_ca).read_text(),
                "username": released.username,
                "password": password.reveal().decode(),
            }
            await relay.serve(destination.scheme, leaf, told, network=True)
        watching = [asyncio.create_task(_watch(process, lambda: lost(upstream))) for process in processes]
        self._watching[upstream.name] = watching
        return [*([server] if server else []), streams.pipe_cluster(cluster, str(relay.socket))]

    async def refuse(self, upstream: Upstream, cluster: str, denied: Denied) -> dict[Key, Any]:
        """Say no to whoever connects."""
        await self.close(upstream)
        path = self._path(REFUSED_SOCKET)
        refusal = self._refusals[upstream.name] = Refusal(path, upstream.destination.scheme, denied)
        await refusal.start()
        return streams.pipe_cluster(cluster, str(path))

    async def close(self, upstream: Upstream) -> None:
        """End what is behind it, with all its connections; idempotent."""
        for watching in self._watching.pop(upstream.name, ()):
            watching.cancel()
        if upstream.name in self._refusals:
            self._refusals.pop(upstream.name).close()
        await asyncio.gather(*(process.stop() for process in self._processes.pop(upstream.name, ())))

    def _path(self, kind: str) -> Path:
        return self._runtime / f"behind-{next(self._numbers)}-{kind}"


async def _watch(process: Confined, lost: Callable[[], None]) -> None:
    await process.wait()
    lost()
