"""The egress of one node: compartments in, Envoy's configuration out, first uses answered (DESIGN 4, steps 4 to 9)."""

from __future__ import annotations

import asyncio
import json
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
from envoy.service.auth.v3 import external_auth_pb2
from envoy.service.discovery.v3 import discovery_pb2
from google.protobuf.message import Message
from opentelemetry.proto.collector.logs.v1 import logs_service_pb2

from leasehold.core.errors import EgressError, LeaseholdError
from leasehold.core.secret import Secret
from leasehold.node.egress import clusters, snapshot, streams
from leasehold.node.egress.behind import Behind
from leasehold.node.egress.model import Denied, Leaf, Listen, Released, State, Upstream
from leasehold.node.egress.ports import Authority, UsageSink
from leasehold.node.egress.replies import error
from leasehold.node.egress.usage import ATTEMPT, UsageLog
from leasehold.node.egress.xds import LISTENER, Key, ResourceServer

APPLY_TIMEOUT_S = 20.0
_REFUSED_S = 2.0
_ENDED = Denied(code="access-ended", message="Access has ended.", hint="Start a new task.")


@dataclass(slots=True)
class _Compartment:
    task: str
    ports: dict[int, str]
    upstreams: dict[str, Upstream]
    states: dict[str, State]
    trusted_ca: str
    leaves: Mapping[str, Leaf]
    listeners: dict[Key, Any]
    attempts: Counter[str] = field(default_factory=Counter)
    released: dict[str, Released] = field(default_factory=dict)
    opening: dict[str, asyncio.Task[Released | Denied]] = field(default_factory=dict)


class Egress:
    """Serves one Envoy over a unix socket. Lives on one event loop."""

    def __init__(self, authority: Authority, sink: UsageSink, runtime: Path) -> None:
        self._authority = authority
        self._compartments: dict[str, _Compartment] = {}
        self._by_upstream: dict[str, _Compartment] = {}
        self._xds = ResourceServer(self._wanted)
        self._behind = Behind(runtime)
        self._work: set[asyncio.Task[Any]] = set()
        self.usage = UsageLog(sink, self._cut_unlogged)
        self._server: grpc.aio.Server | None = None  # kept, or it would be collected and stop

    async def serve(self, socket: Path) -> None:
        """Listen on ``socket``; its folder is private to this user."""
        options = (("grpc.max_receive_message_length", 16 << 20), ("grpc.so_reuseport", 0))
        server = grpc.aio.server(options=options)
        server.add_generic_rpc_handlers(_handlers(self._xds, self._check, self.usage))
        server.add_insecure_port(f"unix:{socket}")
        await server.start()
        self._server = server
        self._xds.update(snapshot.holder(str(socket.with_name("envoy-holder.sock"))))

    async def open(
        self,
        task: str,
        listen: Listen,
        ports: Mapping[int, str],
        upstreams: Sequence[Upstream],
        leaves: Mapping[str, Leaf],
        trusted_ca: str,
    ) -> None:
        """Build the compartment's snapshot whole, check it, push it, and wait until Envoy has it all (step 4)."""
        states = {upstream.name: State.PENDING for upstream in upstreams}
        changes = snapshot.listeners(task, listen, ports, upstreams, leaves)
        routes = snapshot.routes(task, ports, upstreams, states)
        compartment = _Compartment(
            task=task,
            ports=dict(ports),
            upstreams={upstream.name: upstream for upstream in upstreams},
            states=states,
            trusted_ca=trusted_ca,
            leaves=leaves,
            listeners=changes,
        )
        self._compartments[task] = compartment
        self._by_upstream.update({upstream.name: compartment for upstream in upstreams})
        try:
            await self._xds.apply({**routes, **changes}, APPLY_TIMEOUT_S)
        except BaseException:
            self.close(task)
            raise

    def close(self, task: str) -> None:
        """Take the compartment's listeners, routes, clusters and secrets away; open streams are cut (step 9)."""
        compartment = self._compartments.pop(task, None)
        if compartment is None:
            return
        for opening in compartment.opening.values():
            opening.cancel()
        gone: dict[Key, None] = dict.fromkeys(compartment.listeners)
        gone |= dict.fromkeys(
            snapshot.routes(task, compartment.ports, list(compartment.upstreams.values()), compartment.states)
        )
        for upstream in compartment.upstreams.values():
            gone |= _withdraw(compartment, upstream)
            self._by_upstream.pop(upstream.name, None)
            if upstream.destination.is_stream:
                self._spawn(self._behind.close(upstream))
        compartment.released.clear()
        self._xds.update(gone)

    def end(self, task: str, credential: str, *, for_good: bool = True) -> None:
        """Step 9 for one credential: deny its routes, cut its hosts' open streams, take cluster and secret away.

        In this order, one push each: no request finds a route without what the route needs. Unless ``for_good``, the
        next use asks anew.
        """
        compartment = self._compartments.get(task)
        if compartment is None:
            return
        over = [upstream for upstream in compartment.upstreams.values() if upstream.credential == credential]
        for upstream in over:
            compartment.states[upstream.name] = State.CLOSED if for_good else State.PENDING
            compartment.released.pop(upstream.name, None)
            if upstream.name in compartment.opening:
                compartment.opening[upstream.name].cancel()  # whoever waits for it is told that access has ended
        tables: dict[Key, Any] = {}
        gone: dict[Key, None] = {}
        for upstream in over:
            tables |= self._table(compartment, upstream)
            gone |= _withdraw(compartment, upstream)
            if upstream.destination.is_stream:
                self._spawn(self._behind.close(upstream))
        cut = snapshot.cut(compartment.listeners, over)
        for upstream in over:
            if upstream.destination.is_stream:
                cut |= _next_attempt(compartment, upstream)
        compartment.listeners.update(cut)
        for changes in (tables, cut, gone):
            self._xds.update(changes)

    async def replace(self, task: str, upstream: str, secret: Secret) -> None:
        """Inject another secret from now on; requests that are under way go on as they began."""
        compartment = self._compartments.get(task)
        released = compartment.released.get(upstream) if compartment else None
        if compartment is not None and released is not None:
            renewed = Released(addresses=released.addresses, secret=secret, username=released.username)
            await self._release(compartment, compartment.upstreams[upstream], renewed)

    async def refresh(self) -> None:
        """Look the addresses of live upstreams up again; what changed is dialled anew."""
        for compartment in list(self._compartments.values()):
            for name, released in list(compartment.released.items()):
                upstream = compartment.upstreams[name]
                if upstream.destination.is_stream:
                    continue  # what is behind it has looked the name up, and keeps its connections
                found = tuple(await self._authority.addresses(upstream))
                if found and found != tuple(released.addresses) and name in compartment.released:
                    await self._release(compartment, upstream, Released(addresses=found, secret=released.secret))

    async def stop(self) -> None:
        """End what stands behind connections that are no HTTP, once all compartments are closed."""
        await asyncio.gather(*self._work, return_exceptions=True)

    def _cut_unlogged(self, task: str) -> None:
        self.close(task)

    async def _release(self, compartment: _Compartment, upstream: Upstream, released: Released) -> None:
        if upstream.destination.is_stream:
            cluster = streams.cluster_name(upstream, compartment.attempts[upstream.name])
            leaf = compartment.leaves[upstream.destination.host]
            steps = await self._behind.open(upstream, cluster, released, leaf, compartment.trusted_ca, self._lost)
        else:
            steps = [clusters.release(upstream, released.addresses, released.secret, compartment.trusted_ca)]
        for changes in steps:
            await self._xds.apply(changes, APPLY_TIMEOUT_S)
        if compartment.states[upstream.name] is not State.CLOSED:  # it may have ended while Envoy was taking it on
            compartment.released[upstream.name] = released

    async def _first_use(self, compartment: _Compartment, upstream: Upstream) -> Released | Denied:
        answer = await self._authority.first_use(compartment.task, upstream)
        if isinstance(answer, Denied):
            return answer
        if (answer.secret is None) != (upstream.credential is None):
            raise EgressError("a credential was expected and none came", hint="this is a defect; please report it")
        await self._release(compartment, upstream, answer)
        compartment.states[upstream.name] = State.LIVE
        # Only from here the route stops asking; requests that wait now go on through the cluster that Envoy has.
        self._xds.update(self._table(compartment, upstream))
        return answer

    def _table(self, compartment: _Compartment, upstream: Upstream) -> dict[Key, Any]:
        if upstream.destination.is_stream:
            return {}
        port = upstream.destination.port
        here = [u for u in compartment.upstreams.values() if u.destination == upstream.destination]
        if upstream.destination.scheme == "http":
            here = list(compartment.upstreams.values())
        return snapshot.routes(compartment.task, {port: upstream.destination.scheme}, here, compartment.states)

    async def _check(self, request: external_auth_pb2.CheckRequest, _context: Any) -> external_auth_pb2.CheckResponse:
        """ext_authz: the first requests to an upstream wait here for one decision (step 6)."""
        name = request.attributes.context_extensions.get("upstream", "")
        compartment = self._by_upstream.get(name)
        # A question may come after the end: it was on its way, or Envoy has not got the new routes yet.
        if compartment is None or compartment.states[name] is State.CLOSED:
            return _answer(_ENDED)
        return _answer(await self._decided(compartment, compartment.upstreams[name]))

    async def _decided(self, compartment: _Compartment, upstream: Upstream) -> Released | Denied:
        """One decision for all that wait for it; a failure is a no."""
        name = upstream.name
        if compartment.states[name] is State.CLOSED:
            return _ENDED
        if compartment.states[name] is State.LIVE and name in compartment.released:
            return compartment.released[name]
        opening = compartment.opening.get(name)
        if opening is None:
            opening = asyncio.create_task(self._first_use(compartment, upstream))
            compartment.opening[name] = opening
            opening.add_done_callback(lambda _: compartment.opening.pop(name, None))
        try:
            # One caller that gives up must not take the decision from the others.
            return await asyncio.shield(opening)
        except LeaseholdError as e:
            return Denied(code=e.code, message=e.message, hint=e.hint, status=503)
        except Exception as e:
            print(f"the decision on {name} failed: {type(e).__name__}: {e}", file=sys.stderr, flush=True)
            return Denied(code="internal", message="The broker failed.", hint="Ask the operator to look.", status=503)

    def _wanted(self, name: str) -> None:
        """On-demand CDS: a connection that is no HTTP waits for its cluster."""
        upstream, _, attempt = name.rpartition(ATTEMPT)
        compartment = self._by_upstream.get(upstream)
        if compartment is None or attempt != str(compartment.attempts[upstream]):
            self._xds.absent(name)
        else:
            self._spawn(self._connect(compartment, compartment.upstreams[upstream], name))

    async def _connect(self, compartment: _Compartment, upstream: Upstream, cluster: str) -> None:
        """Lead what waits to where it may go: to the server, or to an error that says why not."""
        try:
            answer = await self._decided(compartment, upstream)
        except asyncio.CancelledError:
            answer = _ENDED
        if self._by_upstream.get(upstream.name) is not compartment:
            self._xds.absent(cluster)
        elif isinstance(answer, Denied):
            self._xds.update(await self._behind.refuse(upstream, cluster, answer))
            await asyncio.sleep(_REFUSED_S)
            # What was refused may be possible by then.
            if self._by_upstream.get(upstream.name) is compartment:
                await self._asks_anew(compartment, upstream)

    def _lost(self, upstream: Upstream) -> None:
        """What was behind it has ended by itself: the next connection asks for it anew."""
        compartment = self._by_upstream.get(upstream.name)
        if compartment is not None and compartment.states[upstream.name] is State.LIVE:
            compartment.states[upstream.name] = State.PENDING
            compartment.released.pop(upstream.name, None)
            self._spawn(self._asks_anew(compartment, upstream))

    async def _asks_anew(self, compartment: _Compartment, upstream: Upstream) -> None:
        """What was behind it goes, and the next connection asks again."""
        gone = _withdraw(compartment, upstream)
        listener = _next_attempt(compartment, upstream)
        compartment.listeners.update(listener)
        self._xds.update(listener)
        self._xds.update(gone)
        await self._behind.close(upstream)

    def _spawn(self, work: Any) -> None:
        running = asyncio.create_task(work)
        self._work.add(running)
        running.add_done_callback(self._work.discard)


def _withdraw(compartment: _Compartment, upstream: Upstream) -> dict[Key, None]:
    if upstream.destination.is_stream:
        return streams.withdraw(upstream, compartment.attempts[upstream.name])
    return clusters.withdraw(upstream)


def _next_attempt(compartment: _Compartment, upstream: Upstream) -> dict[Key, Any]:
    """The listener of what is no HTTP, asking for a cluster that Envoy has not asked for yet."""
    compartment.attempts[upstream.name] += 1
    cluster = streams.cluster_name(upstream, compartment.attempts[upstream.name])
    key = (LISTENER, streams.listener_name(compartment.task, upstream))
    return {key: streams.redirected(compartment.listeners[key], cluster)}


def _answer(answer: Released | Denied) -> external_auth_pb2.CheckResponse:
    response = external_auth_pb2.CheckResponse()
    if isinstance(answer, Released):
        response.status.code = 0
        response.ok_response.SetInParent()
        return response
    response.status.code = 7  # PERMISSION_DENIED
    denied = response.denied_response
    denied.status.code = answer.status
    denied.body = json.dumps(error(answer.code, answer.message, answer.hint))
    for key, value in (
        ("content-type", "application/json"),
        ("x-leasehold-decision", f"deny; code={answer.code}"),
    ):
        denied.headers.add(header={"key": key, "value": value})
    return response


def _handlers(xds: ResourceServer, check: Any, usage: UsageLog) -> tuple[grpc.GenericRpcHandler, ...]:
    def reply(message: Message) -> bytes:
        return bytes(message.SerializeToString())

    async def answered(request: external_auth_pb2.CheckRequest, context: Any) -> external_auth_pb2.CheckResponse:
        try:
            response: external_auth_pb2.CheckResponse = await check(request, context)
        except asyncio.CancelledError:
            # The task has ended, or the caller has gone. gRPC answers nothing then, and Envoy would wait on.
            return _answer(_ENDED)
        return response

    return (
        grpc.method_handlers_generic_handler(
            "envoy.service.discovery.v3.AggregatedDiscoveryService",
            {
                "DeltaAggregatedResources": grpc.stream_stream_rpc_method_handler(
                    xds.serve, discovery_pb2.DeltaDiscoveryRequest.FromString, reply
                )
            },
        ),
        grpc.method_handlers_generic_handler(
            "envoy.service.auth.v3.Authorization",
            {"Check": grpc.unary_unary_rpc_method_handler(answered, external_auth_pb2.CheckRequest.FromString, reply)},
        ),
        grpc.method_handlers_generic_handler(
            "opentelemetry.proto.collector.logs.v1.LogsService",
            {
                "Export": grpc.unary_unary_rpc_method_handler(
                    usage.serve, logs_service_pb2.ExportLogsServiceRequest.FromString, reply
                )
            },
        ),
    )
