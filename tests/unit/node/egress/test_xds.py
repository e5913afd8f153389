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

_PATIENCE_S = 30.0


class Envoy:
    """Speaks the client's half of one stream."""

    def __init__(self, server: ResourceServer) -> None:
        self._server = server
        self._requests: asyncio.Queue[DeltaDiscoveryRequest | None] = asyncio.Queue()
        self._responses: asyncio.Queue[DeltaDiscoveryResponse] = asyncio.Queue()
        self._pump = asyncio.create_task(self._run())

    async def _run(self) -> None:
        async for response in self._server.serve(self._stream(), None):
            self._responses.put_nowait(response)

    async def _stream(self) -> AsyncIterator[DeltaDiscoveryRequest]:
        while (request := await self._requests.get()) is not None:
            yield request
            self._requests.task_done()  # the server asks for the next one: it has taken this one in

    async def send(self, request: DeltaDiscoveryRequest) -> None:
        """Returns when the server has taken the request in."""
        self._requests.put_nowait(request)
        await self._requests.join()

    async def subscribe(self, type_url: str, *names: str, unsubscribe: tuple[str, ...] = ()) -> None:
        await self.send(
            DeltaDiscoveryRequest(
                type_url=type_url, resource_names_subscribe=names, resource_names_unsubscribe=unsubscribe
            )
        )

    async def answer(self, response: DeltaDiscoveryResponse, error: str = "") -> None:
        request = DeltaDiscoveryRequest(type_url=response.type_url, response_nonce=response.nonce)
        if error:
            request.error_detail.message = error
        await self.send(request)

    async def next(self) -> DeltaDiscoveryResponse:
        return await asyncio.wait_for(self._responses.get(), _PATIENCE_S)

    async def nothing(self) -> bool:
        """Whether nothing is on its way: what is changed now is what comes next."""
        self._server.update({(CLUSTER, "next"): Cluster(name="next")})
        return [resource.name for resource in (await self.next()).resources] == ["next"]

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
        applying = asyncio.create_task(server.apply({(CLUSTER, "a"): Cluster(name="a")}, _PATIENCE_S))
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
        applying = asyncio.create_task(server.apply({(CLUSTER, "a"): Cluster(name="a")}, _PATIENCE_S))
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
        assert await envoy.nothing()
        await envoy.answer(first)
        await envoy.answer(second)
        await envoy.subscribe(ROUTE, "r", "unknown")
        third = await envoy.next()
        assert [r.name for r in third.resources] == ["r"]
        await envoy.answer(third)
        await server.settle(futures, 1)
        await envoy.subscribe(ROUTE, unsubscribe=("r",))
        server.update({(ROUTE, "r"): RouteConfiguration(name="r", ignore_port_in_host_matching=True)})
        assert await envoy.nothing()

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
        assert await envoy.nothing()

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
        await envoy.send(DeltaDiscoveryRequest(type_url=CLUSTER, initial_resource_versions={"gone": "1"}))
        response = await envoy.next()
        assert [r.name for r in response.resources] == ["c"]
        assert list(response.removed_resources) == ["gone"]
        await envoy.subscribe("type.googleapis.com/other", "x")
        assert await envoy.nothing()

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


def test_who_has_given_up_waiting_is_not_told_later(caplog: pytest.LogCaptureFixture) -> None:
    async def scenario() -> None:
        server = ResourceServer()
        envoy = await _connected(server)
        with pytest.raises(EgressError, match="did not acknowledge"):
            await server.apply({(CLUSTER, "c"): Cluster(name="c")}, 0)
        await envoy.answer(await envoy.next(), error="too late")
        with pytest.raises(EgressError, match="did not acknowledge"):
            await server.apply({(CLUSTER, "c"): Cluster(name="c", alt_stat_name="y")}, 0)
        late = await envoy.next()
        (again,) = server.update({(CLUSTER, "c"): Cluster(name="c", alt_stat_name="x")})
        await envoy.answer(late, error="too much")
        assert not again.done()
        await envoy.answer(await envoy.next())
        assert again.done() and again.exception() is None

    asyncio.run(scenario())
    assert caplog.records == []


def test_who_waits_for_several_hears_of_the_one_that_is_refused() -> None:
    async def scenario() -> None:
        server = ResourceServer()
        envoy = await _connected(server)
        changes = {(CLUSTER, "c"): Cluster(name="c"), (LISTENER, "l"): Listener(name="l")}
        applying = asyncio.create_task(server.apply(changes, _PATIENCE_S))
        await envoy.next()
        await envoy.answer(await envoy.next(), error="no such listener")
        with pytest.raises(EgressError, match="refused l: no such listener"):
            await applying

    asyncio.run(scenario())


def test_the_end_of_an_earlier_stream_does_not_end_the_later_one() -> None:
    async def scenario() -> None:
        server = ResourceServer()
        earlier = await _connected(server)
        later = await _connected(server)
        await earlier.leave()
        assert server.connected
        applying = asyncio.create_task(server.apply({(CLUSTER, "c"): Cluster(name="c")}, _PATIENCE_S))
        await later.answer(await later.next())
        await applying
        await later.leave()
        assert not server.connected

    asyncio.run(scenario())
