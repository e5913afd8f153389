"""The delta ADS server against a scripted Envoy."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from envoy.config.cluster.v3.cluster_pb2 import Cluster
from envoy.config.listener.v3.listener_pb2 import Listener
from envoy.config.route.v3.route_pb2 import RouteConfiguration
from envoy.service.discovery.v3.discovery_pb2 import DeltaDiscoveryRequest, DeltaDiscoveryResponse

from leasehold.core.errors import EgressError
from leasehold.node.egress.xds import CLUSTER, LISTENER, ROUTE, ResourceServer


class Envoy:
    """Speaks the client's half of one stream."""

    def __init__(self, server: ResourceServer) -> None:
        self._requests: asyncio.Queue[DeltaDiscoveryRequest | None] = asyncio.Queue()
        self._responses: asyncio.Queue[DeltaDiscoveryResponse] = asyncio.Queue()
        self._pump = asyncio.create_task(self._run(server))

    async def _run(self, server: ResourceServer) -> None:
        async for response in server.serve(self._stream(), None):
            self._responses.put_nowait(response)

    async def _stream(self) -> AsyncIterator[DeltaDiscoveryRequest]:
        while (request := await self._requests.get()) is not None:
            yield request

    async def subscribe(self, type_url: str, *names: str, unsubscribe: tuple[str, ...] = ()) -> None:
        self._requests.put_nowait(
            DeltaDiscoveryRequest(
                type_url=type_url, resource_names_subscribe=names, resource_names_unsubscribe=unsubscribe
            )
        )
        await asyncio.sleep(0.01)

    async def answer(self, response: DeltaDiscoveryResponse, error: str = "") -> None:
        request = DeltaDiscoveryRequest(type_url=response.type_url, response_nonce=response.nonce)
        if error:
            request.error_detail.message = error
        self._requests.put_nowait(request)
        await asyncio.sleep(0.01)

    async def next(self) -> DeltaDiscoveryResponse:
        return await asyncio.wait_for(self._responses.get(), 2)

    def nothing(self) -> bool:
        return self._responses.empty()

    async def leave(self) -> None:
        self._requests.put_nowait(None)
        await self._pump


async def _connected(server: ResourceServer) -> Envoy:
    envoy = Envoy(server)
    await envoy.subscribe(CLUSTER)
    await envoy.answer(await envoy.next())
    await envoy.subscribe(LISTENER)
    await envoy.answer(await envoy.next())
    return envoy


def test_a_change_is_done_only_when_envoy_has_said_so() -> None:
    async def scenario() -> None:
        server = ResourceServer()
        envoy = await _connected(server)
        assert server.connected
        applying = asyncio.create_task(server.apply({(CLUSTER, "a"): Cluster(name="a")}, 2))
        response = await envoy.next()
        assert [r.name for r in response.resources] == ["a"]
        assert not applying.done()
        await envoy.answer(response)
        await applying
        await envoy.leave()
        assert not server.connected

    asyncio.run(scenario())


def test_a_refusal_reaches_whoever_waits_with_envoys_words() -> None:
    async def scenario() -> None:
        server = ResourceServer()
        envoy = await _connected(server)
        applying = asyncio.create_task(server.apply({(CLUSTER, "a"): Cluster(name="a")}, 2))
        await envoy.answer(await envoy.next(), error="no such thing")
        with pytest.raises(EgressError, match="no such thing"):
            await applying

    asyncio.run(scenario())


def test_silence_is_a_failure_not_a_success() -> None:
    async def scenario() -> None:
        server = ResourceServer()
        await server.apply({}, 0.1)
        with pytest.raises(EgressError, match="did not acknowledge"):
            await server.apply({(CLUSTER, "a"): Cluster(name="a")}, 0.05)

    asyncio.run(scenario())


def test_routes_go_out_when_they_are_asked_for_and_clusters_before_listeners() -> None:
    async def scenario() -> None:
        server = ResourceServer()
        envoy = await _connected(server)
        futures = server.update(
            {
                (ROUTE, "r"): RouteConfiguration(name="r"),
                (LISTENER, "l"): Listener(name="l"),
                (CLUSTER, "c"): Cluster(name="c"),
            }
        )
        first, second = await envoy.next(), await envoy.next()
        assert (first.type_url, second.type_url) == (CLUSTER, LISTENER)
        assert envoy.nothing()
        await envoy.answer(first)
        await envoy.answer(second)
        await envoy.subscribe(ROUTE, "r", "unknown")
        third = await envoy.next()
        assert [r.name for r in third.resources] == ["r"]
        await envoy.answer(third)
        await server.settle(futures, 1)
        await envoy.subscribe(ROUTE, unsubscribe=("r",))
        server.update({(ROUTE, "r"): RouteConfiguration(name="r", ignore_port_in_host_matching=True)})
        await asyncio.sleep(0.01)
        assert envoy.nothing()

    asyncio.run(scenario())


def test_removal_takes_listeners_before_clusters_and_is_sent_once() -> None:
    async def scenario() -> None:
        server = ResourceServer()
        envoy = await _connected(server)
        server.update({(CLUSTER, "c"): Cluster(name="c"), (LISTENER, "l"): Listener(name="l")})
        for _ in range(2):
            await envoy.answer(await envoy.next())
        server.update({(CLUSTER, "c"): None, (LISTENER, "l"): None, (CLUSTER, "never"): None})
        first, second = await envoy.next(), await envoy.next()
        assert (list(first.removed_resources), list(second.removed_resources)) == (["l"], ["c"])
        server.update({(CLUSTER, "c"): None})
        await asyncio.sleep(0.01)
        assert envoy.nothing()

    asyncio.run(scenario())


def test_a_removal_ends_the_wait_for_what_it_removes() -> None:
    async def scenario() -> None:
        server = ResourceServer()
        (future,) = server.update({(CLUSTER, "c"): Cluster(name="c")})
        server.update({(CLUSTER, "c"): None})
        await asyncio.sleep(0)
        assert future.cancelled()

    asyncio.run(scenario())


def test_a_new_envoy_gets_everything_and_an_old_one_is_told_what_has_gone() -> None:
    async def scenario() -> None:
        server = ResourceServer()
        server.update({(CLUSTER, "c"): Cluster(name="c")})
        envoy = Envoy(server)
        envoy._requests.put_nowait(DeltaDiscoveryRequest(type_url=CLUSTER, initial_resource_versions={"gone": "1"}))
        response = await envoy.next()
        assert [r.name for r in response.resources] == ["c"]
        assert list(response.removed_resources) == ["gone"]
        await envoy.subscribe("type.googleapis.com/other", "x")
        assert envoy.nothing()

    asyncio.run(scenario())


def test_an_older_acknowledgement_does_not_settle_a_newer_change() -> None:
    async def scenario() -> None:
        server = ResourceServer()
        envoy = await _connected(server)
        (old,) = server.update({(CLUSTER, "c"): Cluster(name="c")})
        (new,) = server.update({(CLUSTER, "c"): Cluster(name="c", alt_stat_name="x")})
        await envoy.answer(await envoy.next())
        assert old.done() and not new.done()
        await envoy.answer(await envoy.next())
        assert new.done()

    asyncio.run(scenario())
