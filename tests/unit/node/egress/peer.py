"""An egress on a socket of its own, a stand-in for Envoy that is connected to it, and an authority that is scripted."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
from envoy.config.cluster.v3.cluster_pb2 import Cluster
from envoy.config.listener.v3.listener_pb2 import Listener
from envoy.config.route.v3.route_pb2 import RouteConfiguration
from envoy.extensions.transport_sockets.tls.v3.secret_pb2 import Secret as SecretProto
from envoy.service.auth.v3.external_auth_pb2 import CheckRequest, CheckResponse
from envoy.service.discovery.v3.discovery_pb2 import DeltaDiscoveryRequest, DeltaDiscoveryResponse
from google.protobuf.message import Message
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest, ExportLogsServiceResponse

from leasehold.core.errors import AuditError
from leasehold.core.secret import Secret
from leasehold.node.egress.model import Denied, Listen, Released, Upstream
from leasehold.node.egress.ports import Use
from leasehold.node.egress.service import Egress
from leasehold.node.egress.xds import CLUSTER, LISTENER, ROUTE, SECRET, Key
from unit.node.egress.parts import TASK, leaves, tables_of

VALUE = b"Bearer made-up-value"
PORTS = {443: "https", 80: "http"}
_CLASSES: dict[str, Callable[[], Any]] = {
    CLUSTER: Cluster,
    LISTENER: Listener,
    ROUTE: RouteConfiguration,
    SECRET: SecretProto,
}
_PATIENCE_S = 30.0


class _Watched:
    """Something that a test can wait for a change of."""

    def __init__(self) -> None:
        self._changed = asyncio.Event()

    def changed(self) -> None:
        self._changed.set()

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(_PATIENCE_S):
            while not condition():
                self._changed.clear()
                await self._changed.wait()


class Authority(_Watched):
    """Releases what it is asked for, or answers by host; decides while ``decides`` is set."""

    def __init__(self) -> None:
        super().__init__()
        self.answers: dict[str, Released | Denied | Exception] = {}
        self.at: Sequence[str] = ("192.0.2.1",)
        self.asked: list[tuple[str, str]] = []
        self.looked_up: list[str] = []
        self.decides = asyncio.Event()
        self.decides.set()

    async def first_use(self, task: str, upstream: Upstream) -> Released | Denied:
        self.asked.append((task, upstream.name))
        self.changed()
        await self.decides.wait()
        answer = self.answers.get(upstream.destination.host)
        if isinstance(answer, Exception):
            raise answer
        return answer or Released(addresses=self.at, secret=Secret(VALUE) if upstream.credential else None)

    async def addresses(self, upstream: Upstream) -> Sequence[str]:
        self.looked_up.append(upstream.name)
        self.changed()
        await self.decides.wait()
        return self.at


class Sink:
    """Takes uses until its disk is full."""

    def __init__(self) -> None:
        self.uses: list[Use] = []
        self.full = False

    def record(self, uses: Sequence[Use]) -> None:
        if self.full:
            raise AuditError("disk full", hint="free some")
        self.uses += uses


class Peer(_Watched):
    """Envoy's half: subscribes to what is referred to, acknowledges what comes while ``answers`` is set, and keeps it.

    ``refuses``: a type whose changes it does not take. ``pushed``: type, names set and names removed, in order.
    """

    def __init__(self, channel: grpc.aio.Channel) -> None:
        super().__init__()
        self.refuses = ""
        self.answers = asyncio.Event()
        self.answers.set()
        self.pushed: list[tuple[str, list[str], list[str]]] = []
        self._resources: dict[Key, Any] = {}
        self._subscribed: set[Key] = set()
        self._requests: asyncio.Queue[DeltaDiscoveryRequest | None] = asyncio.Queue()
        self._delta = channel.stream_stream(
            "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources",
            request_serializer=_bytes,
            response_deserializer=DeltaDiscoveryResponse.FromString,
        )
        self._check = channel.unary_unary(
            "/envoy.service.auth.v3.Authorization/Check",
            request_serializer=_bytes,
            response_deserializer=CheckResponse.FromString,
        )
        self._export = channel.unary_unary(
            "/opentelemetry.proto.collector.logs.v1.LogsService/Export",
            request_serializer=_bytes,
            response_deserializer=ExportLogsServiceResponse.FromString,
        )
        self._running = asyncio.create_task(self._run())

    async def leave(self) -> None:
        self._requests.put_nowait(None)
        await self._running

    async def ask(self, upstream: str) -> CheckResponse:
        """What a route that waits for a decision asks for."""
        request = CheckRequest()
        request.attributes.context_extensions["upstream"] = upstream
        return await self._check(request, timeout=_PATIENCE_S)

    async def log(self, *lines: str) -> None:
        request = ExportLogsServiceRequest()
        logs = request.resource_logs.add().instrumentation_library_logs.add().logs
        for line in lines:
            logs.add().body.string_value = line
        await self._export(request, timeout=_PATIENCE_S)

    def names(self, type_url: str) -> set[str]:
        """What it has of one type, but for the holder of the access log."""
        return {name for kind, name in self._resources if kind == type_url} - {"leasehold/holder"}

    def get(self, type_url: str, name: str) -> Any:
        return self._resources[(type_url, name)]

    async def _run(self) -> None:
        for type_url in (CLUSTER, LISTENER):
            self._requests.put_nowait(DeltaDiscoveryRequest(type_url=type_url))
        async for response in self._delta(self._stream()):
            await self.answers.wait()
            self._take(response)
            self.changed()

    async def _stream(self) -> AsyncIterator[DeltaDiscoveryRequest]:
        while (request := await self._requests.get()) is not None:
            yield request

    def _take(self, response: DeltaDiscoveryResponse) -> None:
        type_url = response.type_url
        names = [resource.name for resource in response.resources]
        self.pushed.append((type_url, names, list(response.removed_resources)))
        answer = DeltaDiscoveryRequest(type_url=type_url, response_nonce=response.nonce)
        self._requests.put_nowait(answer)
        if type_url == self.refuses and names:
            answer.error_detail.message = "not like this"
            return
        for name in response.removed_resources:
            self._resources.pop((type_url, name), None)
        for resource in response.resources:
            message = _CLASSES[type_url]()
            message.ParseFromString(resource.resource.value)
            self._resources[(type_url, resource.name)] = message
        if type_url == CLUSTER and names:
            self._subscribe(SECRET, [f"{name}/secret" for name in names])
        if type_url == LISTENER and names:
            listeners = [self.get(LISTENER, name) for name in names if name != "leasehold/holder"]
            self._subscribe(ROUTE, [table for listener in listeners for table in tables_of(listener)])

    def _subscribe(self, type_url: str, names: Sequence[str]) -> None:
        fresh = [name for name in names if (type_url, name) not in self._subscribed]
        self._subscribed |= {(type_url, name) for name in fresh}
        if fresh:
            self._requests.put_nowait(DeltaDiscoveryRequest(type_url=type_url, resource_names_subscribe=fresh))


class Node:
    """An egress with all that it meets."""

    def __init__(self, egress: Egress, authority: Authority, sink: Sink, peer: Peer) -> None:
        self.egress = egress
        self.authority = authority
        self.sink = sink
        self.peer = peer

    async def open(self, *upstreams: Upstream, task: str = TASK, ports: Mapping[int, str] = PORTS) -> None:
        hosts = [upstream.destination.host for upstream in upstreams]
        await self.egress.open(task, Listen(netns="/n"), ports, upstreams, leaves(*hosts), "/ca.pem")


@asynccontextmanager
async def node(folder: Path, kind: type[Egress] = Egress) -> AsyncIterator[Node]:
    authority, sink = Authority(), Sink()
    egress = kind(authority, sink, folder)
    socket = folder / "broker.sock"
    await egress.serve(socket)
    assert egress._server is not None
    try:
        async with grpc.aio.insecure_channel(f"unix:{socket}") as channel:
            peer = Peer(channel)
            await peer.until(lambda: any("leasehold/holder" in names for _, names, _ in peer.pushed))
            yield Node(egress, authority, sink, peer)
            await peer.leave()
    finally:
        await egress._server.stop(None)


def code_of(response: CheckResponse) -> str:
    """The code of a denial, as the agent gets it; empty for a yes."""
    if response.status.code == 0:
        assert response.HasField("ok_response")
        return ""
    body: dict[str, dict[str, str]] = json.loads(response.denied_response.body)
    return body["error"]["code"]


def _bytes(message: Message) -> bytes:
    return bytes(message.SerializeToString())
