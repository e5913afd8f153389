"""First uses, from Envoy's question to the route that no longer asks; and the end of a compartment. Over real gRPC."""

from __future__ import annotations

import asyncio
from pathlib import Path

import grpc
import pytest
from envoy.service.auth.v3.external_auth_pb2 import CheckResponse

from leasehold.core.errors import EgressError, VaultError
from leasehold.core.model import Rule
from leasehold.core.secret import Secret
from leasehold.node.egress.model import Denied, Released, Upstream, upstreams
from leasehold.node.egress.usage import FORMAT
from leasehold.node.egress.xds import CLUSTER, LISTENER, ROUTE, SECRET
from unit.node.egress.parts import BEARER, DOCS, FORGE, TASK, Answer, ask, one
from unit.node.egress.peer import VALUE, Node, code_of, node

_TABLE = f"{TASK}/{FORGE}:443"


def _route(there: Node, target: str = "/", table: str = _TABLE, host: str = FORGE) -> Answer:
    return ask(there.peer.get(ROUTE, table), target, host=host)


async def _both(there: Node, upstream: Upstream) -> list[asyncio.Task[CheckResponse]]:
    """Two requests that wait for the same decision."""
    there.authority.decides.clear()
    waiting = [asyncio.create_task(there.peer.ask(upstream.name)) for _ in range(2)]
    await there.authority.until(lambda: bool(there.authority.asked))
    # An answer to a later question: the second waits by now too. (Came it late, all that is asserted would still hold.)
    assert code_of(await there.peer.ask("unknown")) == "access-ended"
    return waiting


def test_a_compartment_is_open_when_envoy_has_it_all_and_not_before(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with node(tmp_path) as there:
            there.peer.answers.clear()
            opening = asyncio.create_task(there.open(one()))
            assert code_of(await there.peer.ask("unknown")) == "access-ended"
            assert not opening.done()
            there.peer.answers.set()
            await opening
            assert there.peer.names(LISTENER) == {f"{TASK}/443", f"{TASK}/80"}
            assert there.peer.names(ROUTE) == {_TABLE, f"{TASK}/:80"}
            assert there.peer.names(CLUSTER) | there.peer.names(SECRET) == set()

    asyncio.run(scenario())


@pytest.mark.parametrize("refused", [LISTENER, ROUTE])
def test_a_compartment_that_envoy_refuses_is_not_open_and_nothing_of_it_stays(tmp_path: Path, refused: str) -> None:
    async def scenario() -> None:
        async with node(tmp_path) as there:
            there.peer.refuses = refused
            with pytest.raises(EgressError, match="not like this"):
                await there.open(one())
            await there.peer.until(lambda: there.peer.pushed[-1][2] != [] and not there.peer.names(LISTENER))
            assert code_of(await there.peer.ask(one().name)) == "access-ended"
            there.peer.refuses = ""
            await there.open(one())
            assert code_of(await there.peer.ask(one().name)) == ""

    asyncio.run(scenario())


def test_the_first_use_is_decided_once_for_all_that_wait_and_then_nobody_asks(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with node(tmp_path) as there:
            upstream = one()
            await there.open(upstream)
            assert _route(there).asked == upstream.name
            waiting = await _both(there, upstream)
            there.authority.decides.set()
            assert [code_of(await each) for each in waiting] == ["", ""]
            assert there.authority.asked == [(TASK, upstream.name)]
            await there.peer.until(lambda: _route(there).asked == "")
            assert _route(there).cluster == upstream.name

    asyncio.run(scenario())


def test_a_yes_means_that_envoy_has_the_cluster_and_its_secret(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with node(tmp_path) as there:
            upstream = one()
            await there.open(upstream)
            there.authority.at = ("192.0.2.7", "192.0.2.8")
            there.peer.answers.clear()
            asking = asyncio.create_task(there.peer.ask(upstream.name))
            await there.authority.until(lambda: bool(there.authority.asked))
            assert code_of(await there.peer.ask("unknown")) == "access-ended"
            assert not asking.done()
            there.peer.answers.set()
            assert code_of(await asking) == ""
            secret = there.peer.get(SECRET, f"{upstream.name}/secret")
            assert secret.generic_secret.secret.inline_bytes == VALUE
            endpoint = there.peer.get(CLUSTER, upstream.name).load_assignment.endpoints[0].lb_endpoints[0].endpoint
            assert endpoint.address.socket_address.address == "192.0.2.7"
            assert endpoint.additional_addresses[0].address.socket_address.address == "192.0.2.8"

    asyncio.run(scenario())


def test_a_request_that_was_on_its_way_when_the_route_changed_is_not_decided_again(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with node(tmp_path) as there:
            await there.open(one())
            assert [code_of(await there.peer.ask(one().name)) for _ in range(3)] == ["", "", ""]
            assert len(there.authority.asked) == 1

    asyncio.run(scenario())


def test_a_denial_says_why_and_the_next_request_is_decided_anew(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with node(tmp_path) as there:
            await there.open(one())
            there.authority.answers[FORGE] = Denied(code="needs-approval", message="Ask.", hint="Wait.", status=423)
            response = await there.peer.ask(one().name)
            assert response.status.code == 7
            denied = response.denied_response
            assert denied.status.code == 423
            assert denied.body == '{"error": {"code": "needs-approval", "message": "Ask.", "hint": "Wait."}}'
            assert {option.header.key: option.header.value for option in denied.headers} == {
                "content-type": "application/json",
                "x-leasehold-decision": "deny; code=needs-approval",
            }
            assert there.peer.names(CLUSTER) | there.peer.names(SECRET) == set()
            assert _route(there).asked == one().name
            del there.authority.answers[FORGE]
            assert code_of(await there.peer.ask(one().name)) == ""

    asyncio.run(scenario())


def test_a_request_that_gives_up_does_not_take_the_decision_from_the_others(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with node(tmp_path) as there:
            await there.open(one())
            first, second = await _both(there, one())
            first.cancel()
            with pytest.raises(asyncio.CancelledError):
                await first
            assert code_of(await there.peer.ask("unknown")) == "access-ended"
            there.authority.decides.set()
            assert code_of(await second) == ""
            assert len(there.authority.asked) == 1

    asyncio.run(scenario())


def test_a_failure_denies_with_its_code_and_an_unknown_one_with_no_more_than_that(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async def scenario() -> None:
        async with node(tmp_path) as there:
            await there.open(one())
            there.authority.answers[FORGE] = VaultError("the vault is sealed", hint="open it")
            response = await there.peer.ask(one().name)
            assert (response.denied_response.status.code, code_of(response)) == (503, "vault-unusable")
            assert "the vault is sealed" in response.denied_response.body
            there.authority.answers[FORGE] = RuntimeError("of the inside")
            response = await there.peer.ask(one().name)
            assert (response.denied_response.status.code, code_of(response)) == (503, "internal")
            assert "of the inside" not in response.denied_response.body
            assert there.peer.names(CLUSTER) | there.peer.names(SECRET) == set()
            assert _route(there).asked == one().name

    asyncio.run(scenario())
    assert "failed: RuntimeError: of the inside" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("upstream", "secret"),
    [(one(), None), (one(None, host=DOCS), Secret(VALUE))],
    ids=["none for a credential", "one for a host without"],
)
def test_nothing_goes_out_without_its_credential_or_with_one_that_is_not_its_own(
    tmp_path: Path, upstream: Upstream, secret: Secret | None
) -> None:
    async def scenario() -> None:
        async with node(tmp_path) as there:
            await there.open(upstream)
            wrong = Released(addresses=["192.0.2.1"], secret=secret)
            there.authority.answers[upstream.destination.host] = wrong
            assert code_of(await there.peer.ask(upstream.name)) == "egress-unavailable"
            assert there.peer.names(CLUSTER) | there.peer.names(SECRET) == set()
            there.authority.answers.clear()
            assert code_of(await there.peer.ask(upstream.name)) == ""

    asyncio.run(scenario())


def test_a_cluster_that_envoy_refuses_is_a_denial_and_the_route_still_asks(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with node(tmp_path) as there:
            await there.open(one())
            there.peer.refuses = CLUSTER
            assert code_of(await there.peer.ask(one().name)) == "egress-unavailable"
            assert _route(there).asked == one().name
            there.peer.refuses = ""
            assert code_of(await there.peer.ask(one().name)) == ""
            assert len(there.authority.asked) == 2

    asyncio.run(scenario())


@pytest.mark.parametrize("name", ["", "t1/9/forge/evil.test:443", "t2/0/forge/api.forge.example:443"])
def test_an_upstream_that_no_compartment_has_is_denied(tmp_path: Path, name: str) -> None:
    async def scenario() -> None:
        async with node(tmp_path) as there:
            await there.open(one())
            response = await there.peer.ask(name)
            assert (response.denied_response.status.code, code_of(response)) == (403, "access-ended")
            assert there.authority.asked == []

    asyncio.run(scenario())


def test_a_credentials_first_use_leaves_the_other_at_the_same_host_undecided(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with node(tmp_path) as there:
            first, second = upstreams(
                TASK, [(name, Rule(host=FORGE, paths=(f"/{name}",), inject=BEARER)) for name in ("forge", "npm")]
            )
            await there.open(first, second)
            assert code_of(await there.peer.ask(first.name)) == ""
            await there.peer.until(lambda: _route(there, "/forge").asked == "")
            assert _route(there, "/npm").asked == second.name
            assert there.peer.names(SECRET) == {f"{first.name}/secret"}

    asyncio.run(scenario())


def test_hosts_without_tls_share_a_table_and_a_first_use_keeps_the_others_in_it(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with node(tmp_path) as there:
            rules = [(None, Rule(host=host, port=80, scheme="http")) for host in ("a.test", "b.test")]
            first, second = upstreams(TASK, [*rules, (None, Rule(host=DOCS))])[:2]
            await there.open(first, second, one())
            assert code_of(await there.peer.ask(first.name)) == ""
            table = f"{TASK}/:80"
            await there.peer.until(lambda: _route(there, table=table, host="a.test").asked == "")
            assert _route(there, table=table, host="b.test").asked == second.name
            assert _route(there, table=table, host=FORGE).code == "host-not-allowed"

    asyncio.run(scenario())


def test_the_end_takes_everything_of_one_task_and_nothing_of_another(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with node(tmp_path) as there:
            (other,) = upstreams("t2", [("forge", Rule(host=FORGE, inject=BEARER))])
            await there.open(one())
            await there.open(other, task="t2")
            for upstream in (one(), other):
                assert code_of(await there.peer.ask(upstream.name)) == ""
            there.egress.close(TASK)
            assert code_of(await there.peer.ask(one().name)) == "access-ended"
            await there.peer.until(lambda: there.peer.names(SECRET) == {f"{other.name}/secret"})
            assert there.peer.names(LISTENER) == {"t2/443", "t2/80"}
            assert there.peer.names(CLUSTER) == {other.name}
            assert there.peer.names(ROUTE) == {f"t2/{FORGE}:443", "t2/:80"}
            assert code_of(await there.peer.ask(other.name)) == ""
            before = len(there.peer.pushed)
            there.egress.close(TASK)
            there.egress.close("never")
            there.egress.close("t2")
            await there.peer.until(lambda: not there.peer.names(SECRET))
            assert there.peer.pushed[before] == (LISTENER, [], ["t2/443", "t2/80"])

    asyncio.run(scenario())


def test_who_waits_for_a_decision_when_the_task_ends_is_not_let_through(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with node(tmp_path) as there:
            await there.open(one())
            waiting = await _both(there, one())
            there.egress.close(TASK)
            there.authority.decides.set()
            assert [code_of(await each) for each in waiting] == ["access-ended", "access-ended"]
            assert there.peer.names(CLUSTER) | there.peer.names(SECRET) == set()

    asyncio.run(scenario())


def test_a_question_that_comes_late_does_not_bring_back_what_has_ended(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with node(tmp_path) as there:
            first, second = one(), one("npm", host=DOCS)
            await there.open(first, second)
            there.egress.end(TASK, "forge")
            response = await there.peer.ask(first.name)
            assert (response.denied_response.status.code, code_of(response)) == (403, "access-ended")
            assert there.authority.asked == []
            assert code_of(await there.peer.ask(second.name)) == ""
            await there.peer.until(lambda: _route(there).code == "access-ended")
            assert there.peer.names(SECRET) == {f"{second.name}/secret"}

    asyncio.run(scenario())


def test_new_addresses_are_dialled_with_the_same_secret_and_the_same_ones_are_left_alone(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with node(tmp_path) as there:
            await there.open(one(), one(None, host=DOCS))
            assert code_of(await there.peer.ask(one().name)) == ""
            await there.peer.until(lambda: there.peer.pushed[-1][0] == ROUTE)
            there.peer.pushed.clear()
            await there.egress.refresh()
            there.authority.at = ()
            await there.egress.refresh()
            assert there.peer.pushed == []
            there.authority.at = ("192.0.2.9",)
            await there.egress.refresh()
            await there.egress.refresh()
            assert there.peer.pushed == [(CLUSTER, [one().name], []), (SECRET, [f"{one().name}/secret"], [])]
            endpoint = there.peer.get(CLUSTER, one().name).load_assignment.endpoints[0].lb_endpoints[0].endpoint
            assert endpoint.address.socket_address.address == "192.0.2.9"
            secret = there.peer.get(SECRET, f"{one().name}/secret")
            assert secret.generic_secret.secret.inline_bytes == VALUE

    asyncio.run(scenario())


def test_a_task_that_ends_while_addresses_are_looked_up_gets_nothing_back(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with node(tmp_path) as there:
            await there.open(one())
            assert code_of(await there.peer.ask(one().name)) == ""
            there.authority.at = ("192.0.2.9",)
            there.authority.decides.clear()
            refreshing = asyncio.create_task(there.egress.refresh())
            await there.authority.until(lambda: bool(there.authority.looked_up))
            there.egress.close(TASK)
            there.authority.decides.set()
            await refreshing
            await there.peer.until(lambda: not there.peer.names(SECRET))
            assert there.peer.names(CLUSTER) == set()

    asyncio.run(scenario())


def _line(task: str) -> str:
    upstream = one().name
    fields = [task, "5.000", f"allow/{upstream}", upstream, "200", "-", "7", "1", "-", "GET", FORGE, FORGE, "/x"]
    assert len(fields) == FORMAT.count("\t") + 1
    return "\t".join(fields)


def test_uses_are_recorded_and_a_task_whose_uses_cannot_be_is_ended(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with node(tmp_path) as there:
            await there.open(one())
            assert code_of(await there.peer.ask(one().name)) == ""
            await there.peer.log(_line(TASK), _line(TASK))
            assert [(use.task, use.count) for use in there.sink.uses] == [(TASK, 2)]
            assert there.egress.usage.counts == {TASK: 2}
            there.sink.full = True
            with pytest.raises(grpc.aio.AioRpcError):
                await there.peer.log(_line(TASK))
            assert code_of(await there.peer.ask(one().name)) == "access-ended"
            await there.peer.until(lambda: not there.peer.names(SECRET))
            assert there.peer.names(LISTENER) | there.peer.names(CLUSTER) == set()

    asyncio.run(scenario())
