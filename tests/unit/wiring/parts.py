"""What the tests of the wiring share: a plan, a clock that the test moves, and an Envoy that takes what it gets."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from typing import Any

from envoy.config.listener.v3.listener_pb2 import Listener
from envoy.config.route.v3.route_pb2 import RouteConfiguration
from envoy.extensions.filters.network.http_connection_manager.v3.http_connection_manager_pb2 import (
    HttpConnectionManager,
)
from envoy.service.auth.v3.external_auth_pb2 import CheckRequest, CheckResponse
from envoy.service.discovery.v3.discovery_pb2 import DeltaDiscoveryRequest, DeltaDiscoveryResponse
from google.protobuf.any_pb2 import Any as AnyProto

from leasehold.core.model import (
    AgentClass,
    Credential,
    Environment,
    InjectHeader,
    Network,
    Role,
    Rule,
    SandboxSettings,
    TaskPlan,
)
from leasehold.node.egress.service import Egress
from leasehold.node.egress.xds import CLUSTER, LISTENER, ROUTE, SECRET, Key

FORGE_HOST, NPM_HOST, DOCS_HOST = "api.forge.example", "registry.example", "docs.example"
NOON = 1_767_268_800.0  # 2026-01-01T12:00:00Z
_WAIT_S = 5.0


class Clock:
    """Unix seconds; stands still unless the test moves it, or gives a ``step`` for each reading."""

    def __init__(self) -> None:
        self.now = NOON
        self.step = 0.0

    def __call__(self) -> float:
        self.now += self.step
        return self.now


def credential(name: str, host: str, **changes: Any) -> Credential:
    """One that injects a header at ``host``."""
    rule = Rule(host=host, inject=InjectHeader(name="Authorization", format="Bearer {secret}"))
    made = Credential(
        name=name,
        issuer="static",
        secret=f"vault:{name}",
        environment=Environment.DEVELOPMENT,
        role=Role.EXECUTE,
        max_ttl_s=900,
        endpoints=(rule,),
    )
    return replace(made, **changes)


def plan(**changes: Any) -> TaskPlan:
    """``forge`` and ``npm`` with a host each, and a host without a credential."""
    names = (FORGE_HOST, NPM_HOST, DOCS_HOST)
    made = TaskPlan(
        agent_class=AgentClass.LOCAL,
        profile="generic",
        purpose="fix a bug",
        workspace="/home/ann/web",
        ttl_s=3600,
        credentials=(credential("forge", FORGE_HOST), credential("npm", NPM_HOST, max_ttl_s=1800)),
        hosts=(Rule(host=DOCS_HOST),),
        placeholders=(),
        network=Network(resolve=tuple((name, "10.1.2.3") for name in names), allow_private=("10.1.2.0/24",)),
        sandbox=SandboxSettings(),
    )
    return replace(made, **changes)


class Envoy:
    """The client's half: subscribes to what is referred to, acknowledges what comes, and keeps it.

    ``refuses``: a type whose changes it does not take. ``pushed``: type, names set and names removed, in order.
    """

    def __init__(self, egress: Egress, refuses: str = "") -> None:
        self.egress = egress
        self.refuses = refuses
        self.answers = asyncio.Event()
        self.answers.set()
        self.resources: dict[Key, AnyProto] = {}
        self.pushed: list[tuple[str, list[str], list[str]]] = []
        self._came = asyncio.Event()
        self._requests: asyncio.Queue[DeltaDiscoveryRequest | None] = asyncio.Queue()
        self._running = asyncio.create_task(self._run())

    async def __aenter__(self) -> Envoy:
        return self

    async def __aexit__(self, *_: object) -> None:
        self._requests.put_nowait(None)
        await self._running

    async def check(self, upstream: str) -> CheckResponse:
        """Ask for a decision, as a route does that waits for one."""
        request = CheckRequest()
        request.attributes.context_extensions["upstream"] = upstream
        return await self.egress._check(request, None)

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait until what was pushed makes ``condition`` true."""
        async with asyncio.timeout(_WAIT_S):
            while not condition():
                self._came.clear()
                await self._came.wait()

    def has(self, type_url: str, name: str) -> bool:
        return (type_url, name) in self.resources

    def answer_of(self, host: str) -> tuple[str, str]:
        """Name of the first route of ``host`` that is no ``deny``, and the code that it denies with, if it does."""
        table = RouteConfiguration()
        found = [value for (kind, name), value in self.resources.items() if kind == ROUTE and host in name]
        table.ParseFromString(found[0].value)
        route = next(route for route in table.virtual_hosts[0].routes if not route.name.startswith("deny/"))
        body = route.direct_response.body.inline_string
        return route.name, json.loads(body)["error"]["code"] if body else ""

    def chains(self, task: str, port: int = 443) -> dict[str, bytes]:
        """Each filter chain of a listener, by its server names."""
        listener = Listener()
        listener.ParseFromString(self.resources[(LISTENER, f"{task}/{port}")].value)
        return {
            ",".join(chain.filter_chain_match.server_names): chain.SerializeToString(deterministic=True)
            for chain in listener.filter_chains
        }

    async def _run(self) -> None:
        for type_url in (CLUSTER, LISTENER):
            self._requests.put_nowait(DeltaDiscoveryRequest(type_url=type_url))
        async for response in self.egress._xds.serve(self._stream(), None):
            await self.answers.wait()
            self._take(response)
            self._came.set()

    async def _stream(self) -> AsyncIterator[DeltaDiscoveryRequest]:
        while (request := await self._requests.get()) is not None:
            yield request

    def _take(self, response: DeltaDiscoveryResponse) -> None:
        type_url = response.type_url
        answer = DeltaDiscoveryRequest(type_url=type_url, response_nonce=response.nonce)
        if type_url == self.refuses and response.resources:
            answer.error_detail.message = "no"
            self._requests.put_nowait(answer)
            return
        names = [resource.name for resource in response.resources]
        self.pushed.append((type_url, names, list(response.removed_resources)))
        for name in response.removed_resources:
            self.resources.pop((type_url, name), None)
        self.resources.update({(type_url, resource.name): resource.resource for resource in response.resources})
        self._requests.put_nowait(answer)
        if type_url == CLUSTER and names:
            more = [f"{name}/secret" for name in names]
            self._requests.put_nowait(DeltaDiscoveryRequest(type_url=SECRET, resource_names_subscribe=more))
        if type_url == LISTENER and names:
            tables = [table for name in names for table in self._tables(self.resources[(LISTENER, name)])]
            self._requests.put_nowait(DeltaDiscoveryRequest(type_url=ROUTE, resource_names_subscribe=tables))

    def _tables(self, packed: AnyProto) -> list[str]:
        listener, manager = Listener(), HttpConnectionManager()
        listener.ParseFromString(packed.value)
        found = []
        for chain in listener.filter_chains:
            chain.filters[0].typed_config.Unpack(manager)
            found.append(manager.rds.route_config_name)
        return found


class Used:
    """Envoy's own count of a task's requests, as the daemon asks for it; ``None``: cannot be asked.

    ``asked`` is set by each question, which is answered when ``answers`` is.
    """

    def __init__(self) -> None:
        self.counts: Counter[str] | None = Counter()
        self.asked, self.answers = asyncio.Event(), asyncio.Event()
        self.answers.set()

    async def __call__(self, task: str) -> int | None:
        self.asked.set()
        await self.answers.wait()
        return None if self.counts is None else self.counts[task]
