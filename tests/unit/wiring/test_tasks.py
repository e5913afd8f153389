"""Tasks, with a real log and real leases, and an Envoy that takes what it gets."""

from __future__ import annotations

import asyncio
import base64
import os
import secrets
from collections.abc import Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from envoy.config.listener.v3.listener_pb2 import Listener

from fakes.provider import Provider, issuing
from leasehold.broker.audit.log import AuditLog
from leasehold.broker.audit.model import Record
from leasehold.broker.audit.query import Filter
from leasehold.broker.lease.service import Leases
from leasehold.core.errors import AuditError, EgressError, GrantRefused
from leasehold.core.limits import Limits
from leasehold.core.model import Environment, Network, Placeholder, Rule
from leasehold.core.secret import Secret
from leasehold.node.egress.model import Denied, Released, Upstream
from leasehold.node.egress.ports import Use
from leasehold.node.egress.xds import LISTENER, ROUTE
from leasehold.wiring.tasks import Task, Tasks

from .parts import DOCS_HOST, FORGE_HOST, NOON, NPM_HOST, Clock, Envoy, Used, credential, plan

_LOG_MAX = 6000


class Node:
    """Tasks and what they stand on. ``task`` is open when the test begins."""

    def __init__(self, folder: Path, limits: Limits) -> None:
        self.clock = Clock()
        self.runtime = folder
        self.audit = AuditLog(folder / "audit", Secret(b"k" * 32), clock=lambda: self.clock.now, limits=limits)
        self.provider = Provider(folder / "provider")
        made = issuing(folder, self.provider, self.audit, self.clock)
        leases = Leases(self.audit, self._resolve, self.clock, made)
        self.used = Used()
        self.tasks = Tasks(runtime=folder, audit=self.audit, leases=leases, clock=self.clock, counter=self.used)
        self.envoy = Envoy(self.tasks.egress)

    async def _resolve(self, _task: str, reference: str) -> Secret:
        return Secret(reference.encode())

    async def open(self, **changes: Any) -> Task:
        return (await self.reply(**changes))[0]

    async def reply(self, **changes: Any) -> tuple[Task, dict[str, Any]]:
        more = {"netns_fd": changes.pop("netns_fd", None), "java": changes.pop("java", False)}
        return await self.tasks.open(plan(**changes), uid=1000, **more)

    async def close(self, task: Task, reason: str = "ended", exit_code: int | None = 0) -> dict[str, Any]:
        return await self.tasks.close(task, reason=reason, exit_code=exit_code)

    async def use(self, task: Task, host: str) -> Released | Denied:
        return await self.tasks.first_use(task.id, upstream(task, host))

    def expire(self, after_s: float) -> None:
        self.clock.now += after_s
        self.tasks.expire()

    def events(self) -> list[tuple[str, str]]:
        return [(record.event, record.outcome) for record in self.records()]

    def records(self, event: str = "") -> list[Record]:
        return [record for record in self.audit.query(Filter()).records if event in ("", record.event)]


@pytest.fixture
def node(tmp_path: Path) -> Callable[..., Any]:
    @asynccontextmanager
    async def made(limits: Limits | None = None) -> Any:
        node = Node(tmp_path, limits or Limits())
        async with node.envoy:
            yield node
            for task in list(node.tasks.open_tasks.values()):
                await node.close(task)
        node.audit.close()

    return made


def upstream(task: Task, host: str) -> Upstream:
    return next(found for found in task.upstreams.values() if found.destination.host == host)


def use(task: Task, host: str, *, reason: str = "", method: str = "GET", target: str = "/x", count: int = 1) -> Use:
    return Use(
        task=task.id,
        upstream="" if reason else upstream(task, host).name,
        reason=reason,
        host=host,
        method=method,
        target=target,
        status=403 if reason else 200,
        count=count,
        first=NOON,
        last=NOON,
        received=0,
        sent=1,
    )


def run(scenario: Coroutine[Any, Any, None]) -> None:
    asyncio.run(scenario)


def test_a_task_opens_with_all_that_its_compartment_needs(node: Any) -> None:
    async def scenario() -> None:
        async with node() as n:
            key = Placeholder(variable="FORGE_KEY", credential="forge", prefix="sk-")
            task, reply = await n.reply(placeholders=(key,))
            assert reply["names"] == {FORGE_HOST: "198.18.0.2", DOCS_HOST: "198.18.0.3", NPM_HOST: "198.18.0.4"}
            assert reply["ports"] == [443, 80]
            assert reply["sockets"] == {str(p): str(n.runtime / f"{task.id}-{p}.sock") for p in (443, 80)}
            assert reply["ca_pem"].startswith("-----BEGIN CERTIFICATE-----")
            assert reply["truststore_b64"] is None
            assert reply["placeholders"]["FORGE_KEY"].startswith("sk-")
            assert [(g["name"], g["lines"]) for g in reply["grants"]] == [("forge", [FORGE_HOST]), ("npm", [NPM_HOST])]
            assert (reply["expires_in_s"], reply["class"], reply["hosts"]) == (3600, "local", [DOCS_HOST])
            assert task.deadline == NOON + 3600
            assert n.envoy.has(LISTENER, f"{task.id}/443")
            [opened] = n.records("task:opened")
            assert opened.fields["credentials"] == ["forge", "npm"]
            assert opened.fields["uid"] == 1000

    run(scenario())


def test_java_gets_a_truststore_of_its_own(node: Any) -> None:
    async def scenario() -> None:
        async with node() as n:
            _, reply = await n.reply(java=True)
            assert base64.b64decode(reply["truststore_b64"])

    run(scenario())


def test_in_a_namespace_envoy_listens_there(node: Any, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with node() as n:
            fd = os.open(tmp_path, os.O_RDONLY)
            task, reply = await n.reply(netns_fd=fd)
            link = tmp_path / f"netns-{task.id}"
            assert link.readlink() == Path(f"/proc/{os.getpid()}/fd/{fd}")
            assert reply["sockets"] == {}
            listener = Listener()
            listener.ParseFromString(n.envoy.resources[(LISTENER, f"{task.id}/443")].value)
            assert listener.address.socket_address.network_namespace_filepath == str(link)
            await n.close(task)
            assert not link.is_symlink()
            os.close(fd)

    run(scenario())


def test_a_port_is_either_encrypted_or_not(node: Any) -> None:
    async def scenario() -> None:
        async with node() as n:
            both = (Rule(host="a.example", port=8443), Rule(host="b.example", port=8443, scheme="http"))
            with pytest.raises(GrantRefused, match="port 8443"):
                await n.open(hosts=both)
            assert n.records() == []
            _, reply = await n.reply(hosts=both[:1])
            assert reply["ports"] == [443, 80, 8443]

    run(scenario())


def test_what_envoy_does_not_take_does_not_start(node: Any) -> None:
    async def scenario() -> None:
        async with node() as n:
            n.envoy.refuses = ROUTE
            with pytest.raises(EgressError):
                await n.open()
            assert n.tasks.open_tasks == {}
            assert n.events() == [("task:opened", "allowed"), ("task:closed", "done")]
            assert n.records("task:closed")[0].fields["reason"] == "did not start"
            n.envoy.refuses = ""
            await n.open()

    run(scenario())


def test_a_first_use_gets_addresses_and_the_whole_header(node: Any) -> None:
    async def scenario() -> None:
        async with node() as n:
            task = await n.open()
            forge = await n.use(task, FORGE_HOST)
            assert isinstance(forge, Released)
            assert forge.addresses == ("10.1.2.3",)
            assert forge.secret is not None
            assert forge.secret.reveal() == b"Bearer vault:forge"
            docs = await n.use(task, DOCS_HOST)
            assert isinstance(docs, Released)
            assert docs.secret is None
            assert [record.fields["credential"] for record in n.records("credential:first-use")] == ["forge"]

    run(scenario())


def test_what_policy_refuses_is_denied_in_its_words(node: Any) -> None:
    async def scenario() -> None:
        async with node() as n:
            live = credential("forge", FORGE_HOST, environment=Environment.PRODUCTION)
            task = await n.open(credentials=(live, credential("npm", NPM_HOST)))
            denied = await n.use(task, FORGE_HOST)
            assert isinstance(denied, Denied)
            assert (denied.code, denied.status) == ("approval-needed", 403)
            assert isinstance(await n.use(task, NPM_HOST), Released)

    run(scenario())


def test_a_credential_without_a_way_of_delivery_is_refused(node: Any) -> None:
    async def scenario() -> None:
        async with node() as n:
            bare = credential("forge", FORGE_HOST, endpoints=(Rule(host=FORGE_HOST),))
            task = await n.open(credentials=(bare,))
            with pytest.raises(GrantRefused, match="no way of delivery"):
                await n.use(task, FORGE_HOST)

    run(scenario())


def test_a_private_address_that_nobody_named_is_not_dialled(node: Any) -> None:
    async def scenario() -> None:
        async with node() as n:
            network = plan().network
            task = await n.open(network=replace(network, allow_private=()))
            denied = await n.use(task, DOCS_HOST)
            assert isinstance(denied, Denied)
            assert (denied.code, denied.status) == ("upstream-address-refused", 503)
            assert isinstance(await n.use(await n.open(), DOCS_HOST), Released)

    run(scenario())


def test_after_the_end_there_is_no_first_use_and_no_address(node: Any) -> None:
    async def scenario() -> None:
        async with node() as n:
            task = await n.open()
            forge = upstream(task, FORGE_HOST)
            assert await n.tasks.addresses(forge) == ("10.1.2.3",)
            await n.close(task)
            denied = await n.tasks.first_use(task.id, forge)
            assert isinstance(denied, Denied)
            assert denied.code == "access-ended"
            assert await n.tasks.addresses(forge) == ()

    run(scenario())


def test_a_credential_ends_before_its_task(node: Any) -> None:
    async def scenario() -> None:
        async with node() as n:
            task = await n.open()
            forge, npm = (upstream(task, host).name for host in (FORGE_HOST, NPM_HOST))
            assert [(await n.envoy.check(name)).status.code for name in (forge, npm)] == [0, 0]
            n.expire(899)
            assert len(n.records("credential:first-use")) == 2
            n.expire(1)
            await n.envoy.until(lambda: n.envoy.answer_of(FORGE_HOST) == (f"closed/{forge}", "access-ended"))
            assert n.envoy.answer_of(NPM_HOST) == (f"allow/{npm}", "")
            ended = n.records("credential:expired")
            assert [(r.outcome, r.task, r.fields) for r in ended] == [("denied", task.id, {"credential": "forge"})]
            n.expire(60)
            assert len(n.records("credential:first-use")) == 2
            assert len(n.records("credential:expired")) == 1
            # A request that asked before Envoy had the new route is denied here.
            late = await n.envoy.check(forge)
            assert late.status.code == 7
            headers = {option.header.key: option.header.value for option in late.denied_response.headers}
            assert headers["x-leasehold-decision"] == "deny; code=access-ended"

    run(scenario())


def test_the_summary_says_when_each_access_ended(node: Any) -> None:
    async def scenario() -> None:
        async with node() as n:
            task = await n.open()
            await n.use(task, FORGE_HOST)
            n.expire(900)
            n.tasks.record([use(task, FORGE_HOST, reason=f"closed: {task.id}/0/forge/{FORGE_HOST}:443", count=2)])
            n.clock.now += 100
            summary = await n.close(task)
            [forge, npm] = summary["credentials"]
            assert forge == {
                "name": "forge",
                "requests": 0,
                "first_use": NOON,
                "ended": NOON + 900,
                "revocability": "stops-being-injected",
                "lease": None,
            }
            assert (npm["first_use"], npm["ended"], npm["revocability"]) == (None, NOON + 1000, "never-issued")
            reasons = [(row["reason"], row["count"]) for row in summary["denied"]]
            assert reasons == [("the credential's time in the task was over (max_ttl), or the operator revoked it", 2)]

    run(scenario())


def test_an_end_that_cannot_be_recorded_ends_the_access_first(node: Any) -> None:
    async def scenario() -> None:
        async with node(Limits(audit_bytes_max=_LOG_MAX)) as n:
            task = await n.open()
            forge = upstream(task, FORGE_HOST).name
            await n.envoy.check(forge)
            with pytest.raises(AuditError):
                while True:
                    n.tasks.record([use(task, FORGE_HOST)])
            with pytest.raises(AuditError):
                n.expire(900)
            await n.envoy.until(lambda: n.envoy.answer_of(FORGE_HOST) == (f"closed/{forge}", "access-ended"))
            del n.tasks.open_tasks[task.id]  # its end cannot be recorded either

    run(scenario())


def test_a_task_that_is_being_closed_needs_no_expiry(node: Any) -> None:
    async def scenario() -> None:
        async with node() as n:
            task = await n.open()
            await n.use(task, FORGE_HOST)
            n.used.answers.clear()
            closing = asyncio.create_task(n.close(task))
            await n.used.asked.wait()
            n.expire(900)
            n.used.answers.set()
            await closing
            assert len(n.records("credential:first-use")) == 1

    run(scenario())


def test_uses_are_recorded_first_and_counted(node: Any) -> None:
    async def scenario() -> None:
        async with node() as n:
            task = await n.open()
            n.tasks.record(
                [
                    use(task, FORGE_HOST, count=3),
                    use(task, DOCS_HOST),
                    use(task, FORGE_HOST, reason="deny: rule", method="POST", target="/keys?k=v"),
                    use(task, "x.example", reason="connection: unknown name", method="", target=""),
                    use(task, FORGE_HOST, reason="upstream_reset"),
                ]
            )
            assert n.events()[1:] == [
                ("credential:used", "allowed"),
                ("host:used", "allowed"),
                ("request:denied", "denied"),
                ("connection:denied", "denied"),
                ("request:denied", "denied"),
            ]
            n.used.counts[task.id] = 6
            n.tasks.egress.usage.counts[task.id] = 6
            summary = await n.close(task)
            assert summary["credentials"][0]["requests"] == 3
            assert summary["hosts"] == [{"host": DOCS_HOST, "requests": 1}]
            assert {(row["method"], row["path"], row["reason"]) for row in summary["denied"]} == {
                ("POST", "/keys?k=[redacted]", "no rule allows it"),
                ("", "", "not a known host: allow it under [hosts]"),
                ("GET", "/x", "upstream_reset"),
            }
            assert summary["alarm"] == ""

    run(scenario())


def test_a_use_of_a_task_that_nobody_knows_is_recorded_too(node: Any) -> None:
    async def scenario() -> None:
        async with node() as n:
            task = await n.open()
            await n.close(task)
            n.tasks.record([use(task, FORGE_HOST)])
            assert n.events()[-1] == ("request:denied", "denied")
            assert n.records()[-1].task == task.id

    run(scenario())


def test_a_placeholder_in_a_target_is_an_alarm(node: Any) -> None:
    async def scenario() -> None:
        async with node() as n:
            key = Placeholder(variable="FORGE_KEY", credential="forge", prefix="sk-")
            task = await n.open(placeholders=(key,))
            n.tasks.record([use(task, DOCS_HOST, target="/search?q=harmless")])
            assert task.alarm == ""
            n.tasks.record([use(task, DOCS_HOST, target=f"/search?q={task.canaries['FORGE_KEY'].upper()}")])
            assert [record.fields["name"] for record in n.records("canary:seen")] == ["FORGE_KEY"]
            n.used.counts[task.id] = 0
            assert "FORGE_KEY" in (await n.close(task))["alarm"]
            assert n.events()[-1] == ("task:closed", "failed")
            n.tasks.look_for_canaries(task.id, DOCS_HOST, task.canaries["FORGE_KEY"], 1)
            assert len(n.records("canary:seen")) == 1

    run(scenario())


@pytest.mark.parametrize(("counted", "alarm"), [(3, "3 requests, 1 were"), (None, "? requests, 1 were"), (1, "")])
def test_what_envoy_counted_must_have_been_recorded(node: Any, counted: int | None, alarm: str) -> None:
    async def scenario() -> None:
        async with node() as n:
            task = await n.open()
            n.clock.step = 1.0
            n.tasks.egress.usage.counts[task.id] = 1
            if counted is None:
                n.used.counts = None
            else:
                n.used.counts[task.id] = counted
            summary = await n.close(task)
            assert alarm in summary["alarm"]
            assert bool(n.records("usage:mismatch")) == bool(summary["alarm"]) == bool(alarm)

    run(scenario())


def test_the_last_uses_may_come_while_the_task_is_being_closed(node: Any) -> None:
    async def scenario() -> None:
        async with node() as n:
            task = await n.open()
            n.used.counts[task.id] = 1
            closing = asyncio.create_task(n.close(task))
            await task.ended.wait()
            n.tasks.record([use(task, FORGE_HOST)])
            n.tasks.egress.usage.counts[task.id] = 1
            summary = await closing
            assert (summary["credentials"][0]["requests"], summary["alarm"]) == (1, "")

    run(scenario())


def test_a_task_is_closed_once(node: Any) -> None:
    async def scenario() -> None:
        async with node() as n:
            task = await n.open()
            summary = await n.close(task, exit_code=3)
            assert (summary["task"], summary["exit_code"], summary["reason"]) == (task.id, 3, "ended")
            assert await n.close(task) == {}
            assert [event for event, _ in n.events()] == ["task:opened", "task:closed"]
            assert task.end_reason == "ended"

    run(scenario())


def test_no_two_tasks_have_one_name(node: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        async with node() as n:
            first = await n.open()
            letters = iter(first.id + "22aaaa")
            monkeypatch.setattr(secrets, "choice", lambda _: next(letters))
            assert (await n.open()).id == "22aaaa"

    run(scenario())


def test_a_name_that_the_operator_did_not_place_is_looked_up(node: Any) -> None:
    async def scenario() -> None:
        async with node() as n:
            task = await n.open(hosts=(Rule(host="localhost"),), network=Network(allow_private=("127.0.0.0/8",)))
            assert "127.0.0.1" in await n.tasks.addresses(upstream(task, "localhost"))

    run(scenario())
