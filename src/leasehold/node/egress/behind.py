"""What stands behind the cluster of a connection that is no HTTP: processes and sockets of this node."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from leasehold.core.errors import EgressError
from leasehold.node.egress import streams
from leasehold.node.egress.model import Denied, Released, Upstream
from leasehold.node.egress.pooler import Pooler
from leasehold.node.egress.refusal import Refusal
from leasehold.node.egress.usage import REFUSED_SOCKET
from leasehold.node.egress.xds import Key


class Behind:
    """``runtime``: the daemon's private folder. At most one thing stands behind an upstream."""

    def __init__(self, runtime: Path) -> None:
        self._runtime = runtime
        self._numbers = itertools.count(1)
        self._poolers: dict[str, Pooler] = {}
        self._refusals: dict[str, Refusal] = {}
        self._watching: dict[str, asyncio.Task[None]] = {}

    async def open(
        self, upstream: Upstream, released: Released, trusted_ca: str, lost: Callable[[Upstream], None]
    ) -> list[Mapping[Key, Any]]:
        """Start what is needed; returns the changes of Envoy's configuration, in steps that wait for one another.

        ``lost`` is called when it ends by itself.
        """
        await self.close(upstream)
        scheme, password = upstream.destination.scheme, released.secret
        if scheme == "ssh":
            return [streams.direct_cluster(upstream, released.addresses)]
        if password is None:
            raise EgressError(f"there is no account for {scheme}", hint="this is a defect; please report it")
        if scheme == "redis":
            path = str(self._path("redis.sock"))
            server = streams.redis_server(upstream, released.addresses, released.username, password, trusted_ca, path)
            return [server, streams.pipe_cluster(upstream, path)]
        if scheme != "postgres":
            raise EgressError(f"{scheme} cannot be delivered yet", hint="this version has no relay for it")
        pooler = Pooler(self._path("pooler"))
        self._poolers[upstream.name] = pooler
        await pooler.start(upstream.destination, released.addresses, released.username, password, trusted_ca)
        self._watching[upstream.name] = asyncio.create_task(_watch(pooler, lambda: lost(upstream)))
        return [streams.pipe_cluster(upstream, str(pooler.socket))]

    async def refuse(self, upstream: Upstream, denied: Denied) -> dict[Key, Any]:
        """Say no to whoever connects."""
        await self.close(upstream)
        path = self._path(REFUSED_SOCKET)
        refusal = self._refusals[upstream.name] = Refusal(path, upstream.destination.scheme, denied)
        await refusal.start()
        return streams.pipe_cluster(upstream, str(path))

    async def close(self, upstream: Upstream) -> None:
        """End what is behind it, with all its connections; idempotent."""
        if upstream.name in self._watching:
            self._watching.pop(upstream.name).cancel()
        if upstream.name in self._refusals:
            self._refusals.pop(upstream.name).close()
        if upstream.name in self._poolers:
            await self._poolers.pop(upstream.name).stop()

    def _path(self, kind: str) -> Path:
        return self._runtime / f"behind-{next(self._numbers)}-{kind}"


async def _watch(pooler: Pooler, lost: Callable[[], None]) -> None:
    await pooler.wait()
    lost()
