"""One credential's access ends, in Envoy, while the task goes on."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

import pytest
from envoy.config.route.v3.route_pb2 import RouteConfiguration

from leasehold.core.model import InjectAws, Rule
from leasehold.core.secret import Secret
from leasehold.node.egress.model import Denied, Leaf, Listen, Released, Upstream, upstreams
from leasehold.node.egress.ports import Use
from leasehold.node.egress.service import Egress
from leasehold.node.egress.xds import CLUSTER, LISTENER, ROUTE, SECRET

from .parts import DOCS_HOST, FORGE_HOST, NPM_HOST, Envoy, credential, plan

PORTS = {443: "https", 80: "http"}
PLAIN = Rule(host="plain.example", port=80, scheme="http", inject=credential("plain", "x").endpoints[0].inject)

S3 = Rule(host="builds.s3.example", inject=InjectAws(service="s3", region="eu-central-1"))


class Authority:
    """Says yes to everything, at the addresses and at the time that the test chooses."""

    def __init__(self) -> None:
        self.at: Sequence[str] = ("10.1.2.3",)
        self.decides = asyncio.Event()
        self.decides.set()
        self.asked: list[str] = []

    async def first_use(self, _task: str, upstream: Upstream) -> Released | Denied:
        self.asked.append(upstream.name)
        await self.decides.wait()
        return Released(addresses=self.at, secret=Secret(b"Bearer s3cr3t") if upstream.credential else None)

    async def addresses(self, _upstream: Upstream) -> Sequence[str]:
        return self.at

    def record(self, uses: Sequence[Use]) -> None:
        raise AssertionError(uses)


class Compartment:
    """An open task ``one`` with its Envoy; ``names``: host to upstream."""

    def __init__(self) -> None:
        self.authority = Authority()
        self.egress = Egress(self.authority, self.authority, Path("unused"))
        self.envoy = Envoy(self.egress)
        rules = [(c.name, rule) for c in plan().credentials for rule in c.endpoints]
        self.found = upstreams("one", [*rules, ("plain", PLAIN), ("builds", S3), (None, Rule(host=DOCS_HOST))])
        self.names = {upstream.destination.host: upstream.name for upstream in self.found}

    async def __aenter__(self) -> Compartment:
        leaves = {host: Leaf(chain=b"chain", key=Secret(b"key")) for host in self.names}
        await self.egress.open("one", Listen(netns="/n"), PORTS, self.found, leaves, "/ca.pem")
        return self

    async def __aexit__(self, *_: object) -> None:
        self.egress.close("one")
        await self.envoy.__aexit__()

    async def use(self, host: str) -> int:
        """The code of the decision on a first use: 0 for yes."""
        code: int = (await self.envoy.check(self.names[host])).status.code
        return code

    async def end(self, name: str, host: str) -> None:
        self.egress.end("one", name)
        await self.envoy.until(lambda: self.envoy.answer_of(host)[0].startswith("closed/"))


def test_the_route_denies_with_a_code_and_cluster_and_secret_go() -> None:
    async def scenario() -> None:
        async with Compartment() as task:
            forge, envoy = task.names[FORGE_HOST], task.envoy
            assert [await task.use(host) for host in (FORGE_HOST, NPM_HOST, DOCS_HOST)] == [0, 0, 0]
            await envoy.until(lambda: envoy.has(SECRET, f"{forge}/secret"))
            await task.end("forge", FORGE_HOST)
            assert envoy.answer_of(FORGE_HOST) == (f"closed/{forge}", "access-ended")
            await envoy.until(lambda: not envoy.has(CLUSTER, forge) and not envoy.has(SECRET, f"{forge}/secret"))

    asyncio.run(scenario())


def test_other_credentials_and_hosts_go_on() -> None:
    async def scenario() -> None:
        async with Compartment() as task:
            npm, envoy = task.names[NPM_HOST], task.envoy
            for host in (FORGE_HOST, NPM_HOST, DOCS_HOST):
                await task.use(host)
            await envoy.until(lambda: envoy.has(SECRET, f"{npm}/secret"))
            before = envoy.chains("one")
            await task.end("forge", FORGE_HOST)
            await envoy.until(lambda: envoy.chains("one") != before)
            assert envoy.answer_of(NPM_HOST) == (f"allow/{npm}", "")
            assert envoy.has(CLUSTER, npm)
            assert envoy.has(CLUSTER, task.names[DOCS_HOST])
            # Envoy cuts what is open on a chain that changed, and on no other.
            after = envoy.chains("one")
            assert {host for host in before if before[host] != after[host]} == {FORGE_HOST}

    asyncio.run(scenario())


def test_no_request_finds_a_route_without_its_cluster() -> None:
    async def scenario() -> None:
        async with Compartment() as task:
            await task.use(FORGE_HOST)
            await task.envoy.until(lambda: task.envoy.has(SECRET, f"{task.names[FORGE_HOST]}/secret"))
            await task.envoy.until(lambda: task.envoy.pushed[-1][0] == ROUTE)
            task.envoy.pushed.clear()
            await task.end("forge", FORGE_HOST)
            await task.envoy.until(lambda: len(task.envoy.pushed) == 4)
            forge = task.names[FORGE_HOST]
            assert task.envoy.pushed == [
                (ROUTE, [f"one/{FORGE_HOST}:443"], []),
                (LISTENER, ["one/443"], []),
                (CLUSTER, [], [forge]),
                (SECRET, [], [f"{forge}/secret"]),
            ]

    asyncio.run(scenario())


def test_a_port_without_tls_is_one_chain() -> None:
    async def scenario() -> None:
        async with Compartment() as task:
            await task.use("plain.example")
            before = (task.envoy.chains("one"), task.envoy.chains("one", 80))
            task.egress.end("one", "plain")
            await task.envoy.until(lambda: task.envoy.chains("one", 80) != before[1])
            assert task.envoy.chains("one") == before[0]

    asyncio.run(scenario())


def test_metadata_services_go_on_when_another_host_of_their_port_ends() -> None:
    async def scenario() -> None:
        async with Compartment() as task:

            def table() -> RouteConfiguration:
                return RouteConfiguration.FromString(task.envoy.resources[(ROUTE, "one/:80")].value)

            await task.envoy.until(lambda: task.envoy.has(ROUTE, "one/:80"))
            assert await task.use("plain.example") == 0
            task.egress.end("one", "plain")
            await task.envoy.until(lambda: "closed/" in str(table()))
            assert "169.254.169.254" in [host.name for host in table().virtual_hosts]

    asyncio.run(scenario())


def test_what_was_never_used_ends_too() -> None:
    async def scenario() -> None:
        async with Compartment() as task:
            await task.end("forge", FORGE_HOST)
            assert await task.use(NPM_HOST) == 0
            assert task.authority.asked == [task.names[NPM_HOST]]

    asyncio.run(scenario())


def test_a_decision_that_is_being_made_is_given_up() -> None:
    async def scenario() -> None:
        async with Compartment() as task:
            task.authority.decides.clear()
            forge, npm = (asyncio.create_task(task.use(host)) for host in (FORGE_HOST, NPM_HOST))
            while len(task.authority.asked) < 2:
                await asyncio.sleep(0)
            await task.end("forge", FORGE_HOST)
            task.authority.decides.set()
            with pytest.raises(asyncio.CancelledError):  # the server says access-ended then
                await forge
            assert await npm == 0
            assert not task.envoy.has(CLUSTER, task.names[FORGE_HOST])

    asyncio.run(scenario())


def test_new_addresses_do_not_bring_an_ended_credential_back() -> None:
    async def scenario() -> None:
        async with Compartment() as task:
            forge, envoy = task.names[FORGE_HOST], task.envoy
            await task.use(FORGE_HOST)
            await task.use(NPM_HOST)
            task.authority.at = ("10.1.2.4",)
            envoy.answers.clear()
            refreshing = asyncio.create_task(task.egress.refresh())
            await asyncio.sleep(0)
            task.egress.end("one", "forge")
            envoy.answers.set()
            await refreshing
            await envoy.until(lambda: not envoy.has(CLUSTER, forge))
            envoy.pushed.clear()
            task.authority.at = ("10.1.2.5",)
            await task.egress.refresh()
            # What has not ended is brought up to date, each time.
            await envoy.until(lambda: any(task.names[NPM_HOST] in changed for _, changed, _ in envoy.pushed))
            assert all(forge not in changed for _, changed, _ in envoy.pushed)

    asyncio.run(scenario())


def test_a_task_that_has_gone_has_nothing_to_end() -> None:
    async def scenario() -> None:
        async with Compartment() as task:
            task.envoy.pushed.clear()
            task.egress.end("two", "forge")
            task.egress.end("one", "unknown")
            assert await task.use(FORGE_HOST) == 0

    asyncio.run(scenario())
