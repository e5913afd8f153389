"""The delta ADS server: Envoy's whole configuration, pushed over a unix socket and acknowledged.

Source: Envoy's xDS protocol, "Incremental xDS" and "Aggregated Discovery Service". Every change is one response for
each type, in the order that never leaves a reference dangling, and a change is done when Envoy has said so.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from envoy.service.discovery.v3.discovery_pb2 import DeltaDiscoveryRequest, DeltaDiscoveryResponse, Resource
from google.protobuf.any_pb2 import Any as AnyProto

from leasehold.core.errors import EgressError

_PREFIX = "type.googleapis.com/"
CLUSTER = _PREFIX + "envoy.config.cluster.v3.Cluster"
SECRET = _PREFIX + "envoy.extensions.transport_sockets.tls.v3.Secret"
LISTENER = _PREFIX + "envoy.config.listener.v3.Listener"
ROUTE = _PREFIX + "envoy.config.route.v3.RouteConfiguration"

# What refers to another type is added after it and removed before it.
_ADD_ORDER = (CLUSTER, SECRET, LISTENER, ROUTE)
_REMOVE_ORDER = (LISTENER, ROUTE, CLUSTER, SECRET)
_WILDCARD = frozenset((CLUSTER, LISTENER))

Key = tuple[str, str]
"""Type URL and resource name."""


@dataclass(slots=True)
class _Subscription:
    wildcard: bool
    names: set[str] = field(default_factory=set)
    sent: dict[str, str] = field(default_factory=dict)

    def wants(self, name: str) -> bool:
        return self.wildcard or name in self.names


class _Stream:
    """One connected Envoy."""

    def __init__(self) -> None:
        self.queue: asyncio.Queue[DeltaDiscoveryResponse | None] = asyncio.Queue()
        self.types: dict[str, _Subscription] = {}
        self.in_flight: dict[str, dict[Key, str]] = {}


class ResourceServer:
    """Holds all resources and serves them to the one Envoy of this node.

    ``wanted`` is called with the name of a cluster that Envoy asks for and that is not there (on-demand CDS).
    Not thread-safe: lives on one event loop. Resources are ``Any`` payloads that may hold secrets; they are never
    logged and errors carry only Envoy's own words about them.
    """

    def __init__(self, wanted: Callable[[str], None] = lambda _: None) -> None:
        self._wanted = wanted
        self._resources: dict[str, dict[str, tuple[str, AnyProto]]] = {t: {} for t in _ADD_ORDER}
        self._versions = itertools.count(1)
        self._nonces = itertools.count(1)
        self._stream: _Stream | None = None
        self._waiters: dict[Key, list[tuple[str, asyncio.Future[None]]]] = {}

    def update(self, changes: Mapping[Key, Any]) -> list[asyncio.Future[None]]:
        """Set or (``None``) remove resources and push them; a future for each set resource that Envoy will have."""
        futures = []
        for type_url in _REMOVE_ORDER:
            gone = [name for (t, name), message in changes.items() if t == type_url and message is None]
            gone = [name for name in gone if self._resources[type_url].pop(name, None) is not None]
            if gone:
                self._push(type_url, removed=gone)
        for type_url in _ADD_ORDER:
            names = []
            for (t, name), message in changes.items():
                if t != type_url or message is None:
                    continue
                payload = AnyProto(type_url=t, value=message.SerializeToString(deterministic=True))
                version = str(next(self._versions))
                self._resources[t][name] = (version, payload)
                futures.append(self._wait(t, name, version))
                names.append(name)
            if names:
                self._push(type_url, changed=names)
        return futures

    async def apply(self, changes: Mapping[Key, Any], timeout_s: float) -> None:
        """``update``, and wait until Envoy has acknowledged every set resource; ``EgressError`` if it refuses."""
        await self.settle(self.update(changes), timeout_s)

    async def settle(self, futures: Iterable[asyncio.Future[None]], timeout_s: float) -> None:
        """Wait for acknowledgements, at most ``timeout_s`` seconds."""
        pending = list(futures)
        if not pending:
            return
        _, late = await asyncio.wait(pending, timeout=timeout_s, return_when=asyncio.FIRST_EXCEPTION)
        refused = [f.exception() for f in pending if f.done() and not f.cancelled() and f.exception()]
        for future in late:
            future.cancel()
        if refused and refused[0] is not None:
            raise refused[0]
        if late:
            raise EgressError(
                f"Envoy did not acknowledge its configuration within {timeout_s:g} s",
                hint="run `leasehold doctor`; the machine may be overloaded",
            )

    @property
    def connected(self) -> bool:
        """Whether an Envoy is subscribed now."""
        return self._stream is not None

    async def serve(self, requests: AsyncIterator[DeltaDiscoveryRequest], _context: Any) -> Any:
        """The ``DeltaAggregatedResources`` method."""
        stream = _Stream()
        self._stream = stream
        reader = asyncio.create_task(self._read(stream, requests))
        try:
            while (response := await stream.queue.get()) is not None:
                yield response
        finally:
            reader.cancel()
            if self._stream is stream:
                self._stream = None

    async def _read(self, stream: _Stream, requests: AsyncIterator[DeltaDiscoveryRequest]) -> None:
        try:
            async for request in requests:
                self._on_request(stream, request)
        finally:
            stream.queue.put_nowait(None)

    def _on_request(self, stream: _Stream, request: DeltaDiscoveryRequest) -> None:
        type_url = request.type_url
        if type_url not in self._resources:
            return
        if request.response_nonce:
            self._on_answer(stream, request)
        subscription = stream.types.get(type_url)
        begins = subscription is None
        if subscription is None:
            subscription = stream.types[type_url] = _Subscription(wildcard=type_url in _WILDCARD)
            subscription.sent.update(request.initial_resource_versions)
            if subscription.wildcard:
                stale = [n for n in subscription.sent if n not in self._resources[type_url]]
                self._push(type_url, changed=list(self._resources[type_url]), removed=stale, always=True)
        fresh = set(request.resource_names_subscribe) - {"*"}
        subscription.names |= fresh
        subscription.names -= set(request.resource_names_unsubscribe)
        for name in request.resource_names_unsubscribe:
            subscription.sent.pop(name, None)
        known = [name for name in fresh if name in self._resources[type_url]]
        for name in known:
            subscription.sent.pop(name, None)
        self._push(type_url, changed=known)
        if type_url == CLUSTER and not begins:  # at its beginning a stream only repeats what was asked for before
            for name in fresh.difference(known):
                self._wanted(name)

    def absent(self, cluster: str) -> None:
        """Answer Envoy, which has asked for this cluster, that there is none."""
        subscription = self._stream.types.get(CLUSTER) if self._stream else None
        if subscription is not None:
            subscription.sent[cluster] = ""
            self._push(CLUSTER, removed=[cluster])

    def _on_answer(self, stream: _Stream, request: DeltaDiscoveryRequest) -> None:
        refused = request.HasField("error_detail")
        for key, version in stream.in_flight.pop(request.response_nonce, {}).items():
            still = []
            for wanted, future in self._waiters.pop(key, []):
                if future.done():
                    continue
                if int(version) < int(wanted):
                    still.append((wanted, future))
                elif refused:
                    future.set_exception(
                        EgressError(
                            f"Envoy refused {key[1]}: {request.error_detail.message[:500]}",
                            hint="this is a defect in Leasehold; please report it with this message",
                        )
                    )
                else:
                    future.set_result(None)
            if still:
                self._waiters[key] = still

    def _wait(self, type_url: str, name: str, version: str) -> asyncio.Future[None]:
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        # Nobody may be left to look at a refusal (the caller timed out): that must not be reported as unhandled.
        future.add_done_callback(lambda f: f.cancelled() or f.exception())
        key = (type_url, name)
        waiters = [w for w in self._waiters.get(key, []) if not w[1].done()]
        self._waiters[key] = [*waiters, (version, future)]
        return future

    def _push(
        self, type_url: str, changed: Iterable[str] = (), removed: Iterable[str] = (), always: bool = False
    ) -> None:
        stream = self._stream
        subscription = stream.types.get(type_url) if stream else None
        for name in removed:
            for _, future in self._waiters.pop((type_url, name), []):
                future.cancel()
        if stream is None or subscription is None:
            return
        resources, in_flight = [], {}
        for name in changed:
            version, payload = self._resources[type_url][name]
            if subscription.wants(name) and subscription.sent.get(name) != version:
                resources.append(Resource(name=name, version=version, resource=payload))
                subscription.sent[name] = version
                in_flight[(type_url, name)] = version
        gone = [n for n in removed if subscription.sent.pop(n, None) is not None]
        if not (resources or gone or always):
            return
        nonce = str(next(self._nonces))
        stream.in_flight[nonce] = in_flight
        stream.queue.put_nowait(
            DeltaDiscoveryResponse(
                system_version_info=nonce,
                type_url=type_url,
                nonce=nonce,
                resources=resources,
                removed_resources=gone,
            )
        )
