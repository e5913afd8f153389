"""The operator's view of leases: shown without a secret, and ended at once."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest

from fakes.provider import ADMIN, Provider, issuing
from leasehold.broker.lease.issuing import Issuing
from leasehold.broker.lease.machine import Entry, Revocability, State
from leasehold.broker.lease.model import Refusal
from leasehold.broker.lease.store import SqliteLedger
from leasehold.core.errors import LedgerError
from leasehold.wiring.leasing import Leasing

from .host import Host, Scenario
from .parts import FORGE_HOST, NOON, credential

ORDERS = credential("orders", "db.example", issuer="fake", parameters=(("server", "somewhere"),))


class Operator:
    """What the daemon has, with a provider in a folder; ``other`` is a broker whose leases are in the same ledger."""

    def __init__(self, host: Host) -> None:
        self.host = host
        self.provider = Provider(host.state / "provider")
        self.issuing = self._issuing("one")
        self.other = self._issuing("dead")
        daemon = host.daemon
        daemon._tasks._leases._issuing = self.issuing
        daemon._leasing = Leasing(
            daemon._tasks,
            daemon._tasks._leases,
            self.issuing,
            daemon._audit,
            (host.state / "ledger.db").exists,
            daemon._of_vault,
        )
        self.client = host.client()

    def _issuing(self, owner: str) -> Issuing:
        return issuing(self.host.state, self.provider, self.host.daemon._audit, self.host.clock, owner=owner)

    async def issue(
        self, task: str = "dead2a", *, other: bool = False, ttl_s: float = 900, name: str = "orders"
    ) -> str:
        """The id of a lease that a provider has made."""
        made = replace(ORDERS, name=name)
        live = await (self.other if other else self.issuing).issue(task, made, ADMIN, self.host.clock() + 900)
        return live.entry.id

    async def list(self, **asked: Any) -> dict[str, str]:
        """Id to state."""
        said = await self.client.ask("lease.list", **asked)
        return {row["id"]: row["state"] for row in said["leases"]}

    async def revoke(self, **asked: Any) -> dict[str, str]:
        """Id to outcome."""
        said = await self.client.ask("lease.revoke", **asked)
        return {row["id"]: row["outcome"] for row in said["leases"]}

    def asked(self) -> list[tuple[str | None, Any]]:
        return [(record.task, record.fields["credential"]) for record in self.host.records("lease:revoke-asked")]

    def close(self) -> None:
        self.issuing.close()
        self.other.close()


@pytest.fixture
def operate(run: Callable[[Scenario], None]) -> Callable[[Callable[[Operator], Any]], None]:
    def whole(scenario: Callable[[Operator], Any]) -> None:
        async def inner(host: Host) -> None:
            operator = Operator(host)
            try:
                await scenario(operator)
            finally:
                operator.close()

        run(inner)

    return whole


Operate = Callable[[Callable[[Operator], Any]], None]


async def using(host: Host) -> tuple[str, str]:
    """A task that has used ``forge``, and its upstream."""
    await host.store()
    _, reply = await host.open()
    name = f"{reply['task']}/0/forge/{FORGE_HOST}:443"
    assert (await host.envoy.check(name)).status.code == 0
    return reply["task"], name


def test_a_question_makes_no_ledger(operate: Operate) -> None:
    async def scenario(operator: Operator) -> None:
        assert await operator.list() == {}
        assert await operator.revoke(all=True) == {}
        assert (await operator.client.ask("lease.show", id="x"))["error"]["code"] == "usage"
        assert not (operator.host.state / "ledger.db").exists()

    operate(scenario)


def test_open_leases_are_listed_and_closed_ones_when_asked_for(operate: Operate) -> None:
    async def scenario(operator: Operator) -> None:
        task, _ = await using(operator.host)
        first, second = await operator.issue(), await operator.issue("other2", other=True)
        assert await operator.list() == {f"{task}/forge": "active", first: "active", second: "active"}
        assert await operator.revoke(id=first) == {first: "revoked"}
        assert await operator.list() == {f"{task}/forge": "active", second: "active"}
        assert await operator.list(states=["revoked"]) == {first: "revoked"}
        assert await operator.list(states=["ended"]) == {}
        assert await operator.list(task="other2") == {second: "active"}
        wrong = await operator.client.ask("lease.list", states=["gone"])
        assert wrong["error"]["message"] == "there is no state 'gone'"

    operate(scenario)


def test_pages_hold_each_lease_once(operate: Operate) -> None:
    async def scenario(operator: Operator) -> None:
        made = {await operator.issue() for _ in range(5)}
        found: list[str] = []
        after: str | None = ""
        while after is not None:
            page = await operator.client.ask("lease.list", after=after, limit=2)
            found += [row["id"] for row in page["leases"]]
            after = page["after"]
        assert found == sorted(made)

    operate(scenario)


def test_no_secret_and_no_recipe_is_shown(operate: Operate) -> None:
    async def scenario(operator: Operator) -> None:
        task, _ = await using(operator.host)
        made = await operator.issue()
        for lease in (made, f"{task}/forge"):
            said = await operator.client.ask("lease.show", id=lease)
            assert "s3cr3t" not in str(said)
            assert set(said["lease"]) == {
                "id", "task", "credential", "issuer", "name", "state", "revocability", "created", "expires", "due",
                "closed", "attempts", "error", "this_broker",
            }  # fmt: skip
        shown = (await operator.client.ask("lease.show", id=made))["lease"]
        assert (shown["state"], shown["expires"], shown["this_broker"]) == ("active", NOON + 900, True)

    operate(scenario)


def test_an_id_may_be_cut_short_as_long_as_it_means_one(operate: Operate) -> None:
    async def scenario(operator: Operator) -> None:
        first, second = await operator.issue("task2a"), await operator.issue("task2b")
        most = next(n for n in range(1, 21) if first[:n] != second[:n])

        async def shown(wanted: str) -> Any:
            said = await operator.client.ask("lease.show", id=wanted)
            return said["lease"]["id"] if "lease" in said else said["error"]

        assert await shown(first) == first
        assert await shown(first[:most]) == first
        assert await shown("task2b/orders") == second
        assert await shown("task2a/") == first
        third = await operator.issue("task2a", name="stock")
        assert await shown("task2a/s") == third
        assert (await shown("task2a/"))["message"] == "'task2a/' begins 2 leases"
        assert (await shown("task2a/"))["hint"] == "write more of it: task2a/orders, task2a/stock"
        assert (await shown(""))["message"] == "there is no lease ''"

    operate(scenario)


def test_of_several_leases_of_a_credential_the_open_one_is_shown(operate: Operate) -> None:
    async def scenario(operator: Operator) -> None:
        first = await operator.issue("task2a")
        await operator.revoke(id=first)
        said = await operator.client.ask("lease.show", id="task2a/orders")
        assert said["lease"]["id"] == first
        second = await operator.issue("task2a")
        operator.host.clock.now += 1
        await operator.issue("task2a", name="orders2")
        said = await operator.client.ask("lease.show", id="task2a/orders")
        assert said["lease"]["id"] == second

    operate(scenario)


def test_g_a_revoked_credential_is_cut_recorded_and_not_issued_again(operate: Operate) -> None:
    async def scenario(operator: Operator) -> None:
        host = operator.host
        task, name = await using(host)
        other = (await host.open())[1]["task"]
        assert await operator.revoke(id=f"{task}/forge") == {f"{task}/forge": "ended"}
        await host.envoy.until(lambda: host.envoy.answer_of(FORGE_HOST) == (f"closed/{name}", "access-ended"))
        (record,) = host.records("lease:revoke-asked")
        assert (record.task, record.fields["credential"], record.fields["uid"]) == (task, "forge", 0)
        refused = await host.daemon._tasks._leases.first_use(task, credential("forge", FORGE_HOST))
        assert isinstance(refused, Refusal)
        assert (refused.code, refused.message) == ("access-ended", "forge: revoked by the operator.")
        assert await operator.list(states=["ended"]) == {f"{task}/forge": "ended"}
        # The task goes on, and so does the other, with the same credential.
        assert {task, other} <= set(host.daemon._tasks.open_tasks)
        assert (await host.envoy.check(f"{other}/0/forge/{FORGE_HOST}:443")).status.code == 0

    operate(scenario)


def test_what_was_not_issued_yet_is_not_issued_any_more(operate: Operate) -> None:
    async def scenario(operator: Operator) -> None:
        await operator.host.store()
        task = (await operator.host.open())[1]["task"]
        assert await operator.revoke(credential="forge") == {f"{task}/forge": "withheld"}
        refused = await operator.host.daemon._tasks._leases.first_use(task, credential("forge", FORGE_HOST))
        assert isinstance(refused, Refusal)

    operate(scenario)


def test_all_means_every_lease_of_every_task_and_of_brokers_that_are_dead(operate: Operate) -> None:
    async def scenario(operator: Operator) -> None:
        task, _ = await using(operator.host)
        mine, others = await operator.issue(), await operator.issue("other2", other=True)
        found = await operator.revoke(all=True)
        assert found == {mine: "revoked", others: "revoked", f"{task}/forge": "ended", f"{task}/own": "withheld"}
        assert operator.provider.names() == set()
        assert sorted(operator.asked()) == sorted(
            [("dead2a", "orders"), ("other2", "orders"), (task, "forge"), (task, "own")]
        )
        assert task in operator.host.daemon._tasks.open_tasks

    operate(scenario)


def test_a_task_and_a_credential_are_ended_as_a_whole_and_no_other(operate: Operate) -> None:
    async def scenario(operator: Operator) -> None:
        here = [await operator.issue("task2a"), await operator.issue("task2a", name="stock")]
        there = await operator.issue("task2b", name="stock")
        assert await operator.revoke(task="task2a") == dict.fromkeys(here, "revoked")
        assert await operator.list() == {there: "active"}
        assert await operator.revoke(credential="orders") == {}
        assert await operator.revoke(credential="stock") == {there: "revoked"}

    operate(scenario)


def test_what_can_only_expire_is_not_called_revoked(operate: Operate) -> None:
    async def scenario(operator: Operator) -> None:
        operator.provider.revocability = Revocability.TTL_ONLY
        made = await operator.issue()
        assert await operator.revoke(id=made) == {made: "expires"}
        operator.host.clock.now += 901
        assert await operator.revoke(id=made) == {made: "expired"}

    operate(scenario)


def test_a_provider_that_is_down_is_said_and_tried_again(operate: Operate) -> None:
    async def scenario(operator: Operator) -> None:
        made = await operator.issue()
        operator.provider.down = True
        assert await operator.revoke(id=made) == {made: "trying"}
        shown = (await operator.client.ask("lease.show", id=made))["lease"]
        assert (shown["state"], shown["error"]) == ("revoking", "issuer(fake) revoke: the provider does not answer")
        operator.provider.down = False
        operator.host.clock.now += 2
        assert await operator.issuing.sweep() == 1
        assert await operator.list() == {}

    operate(scenario)


def test_an_intent_is_left_to_the_sweep(operate: Operate) -> None:
    """The provider may be at work on it: what it creates after it was asked to drop it would live."""

    async def scenario(operator: Operator) -> None:
        operator.provider.down = True
        with pytest.raises(Exception, match="does not answer"):
            await operator.issue()
        operator.provider.down = False
        (made,) = await operator.list()
        assert await operator.revoke(id=made) == {made: "trying"}
        assert await operator.list() == {made: "intended"}

    operate(scenario)


def test_without_a_ledger_what_is_in_memory_is_ended_all_the_same(operate: Operate) -> None:
    async def scenario(operator: Operator) -> None:
        task, name = await using(operator.host)
        await operator.issue()
        SqliteLedger(operator.host.state).close()
        (operator.host.state / "ledger.db").rename(operator.host.state / "away.db")
        (operator.host.state / "ledger.db").write_bytes(b"no ledger")
        said = await operator.client.ask("lease.revoke", all=True)
        assert said["error"]["code"] == "ledger-unusable"
        assert "the routes of 2 credentials in open tasks are closed" in said["error"]["message"]
        await operator.host.envoy.until(
            lambda: operator.host.envoy.answer_of(FORGE_HOST) == (f"closed/{name}", "access-ended")
        )
        assert sorted(operator.asked()) == [(task, "forge"), (task, "own")]

    operate(scenario)


@pytest.mark.parametrize("asked", [{}, {"all": True, "task": "x"}, {"id": "x", "credential": "y"}])
def test_one_thing_has_to_be_meant(operate: Operate, asked: dict[str, Any]) -> None:
    async def scenario(operator: Operator) -> None:
        made = await operator.issue()
        said = await operator.client.ask("lease.revoke", **asked)
        assert said["error"]["code"] == "usage"
        assert await operator.list() == {made: State.ACTIVE}

    operate(scenario)


def test_whoever_watches_sees_each_change_at_once_and_how_it_ended(operate: Operate) -> None:
    async def scenario(operator: Operator) -> None:
        host, watcher = operator.host, operator.host.client()

        async def next_states() -> dict[str, str]:
            message = await watcher.next()
            assert message is not None
            assert "s3cr3t" not in str(message)
            return {row["id"]: row["state"] for row in message["leases"]}

        async def until(row: dict[str, str]) -> None:
            while await next_states() != row:
                pass

        first = await operator.issue()
        watcher.tell("lease.watch")
        assert await next_states() == {first: "active"}
        task, _ = await using(host)
        assert await next_states() == {f"{task}/forge": "active"}
        second = await operator.issue("task2a")
        await until({second: "active"})
        await operator.revoke(id=second)
        await until({second: "revoked"})
        await operator.revoke(id=f"{task}/forge")
        assert await next_states() == {f"{task}/forge": "ended"}
        watcher.leave()

    operate(scenario)


def test_whoever_watches_one_task_sees_no_other(operate: Operate) -> None:
    async def scenario(operator: Operator) -> None:
        watcher = operator.host.client()
        assert (await watcher.ask("lease.watch", task="task2b"))["leases"] == []
        await operator.issue("task2a")
        there = await operator.issue("task2b")
        message = await watcher.next()
        assert message is not None
        assert [row["id"] for row in message["leases"]] == [there]

    operate(scenario)


def test_what_nobody_watches_any_more_is_told_to_nobody(operate: Operate) -> None:
    async def scenario(operator: Operator) -> None:
        watcher = operator.host.client()
        assert (await watcher.ask("lease.watch"))["leases"] == []
        assert len(operator.issuing._listeners) == 1
        watcher.leave()
        operator.client.leave()
        async with asyncio.timeout(10):
            while operator.host.daemon._clients > 0:
                await asyncio.sleep(0)
        assert operator.issuing._listeners == set()

    operate(scenario)


def test_a_lease_that_a_start_makes_due_meanwhile_is_revoked_all_the_same(operate: Operate) -> None:
    async def scenario(operator: Operator) -> None:
        made = await operator.issue(other=True)
        end = operator.issuing.end

        async def taken_over_first(entry: Entry) -> Entry:
            operator.issuing.end = end  # type: ignore[method-assign]  # once
            assert await operator.issuing.take_over(operator.host.clock() + 1) == 1
            return await end(entry)

        operator.issuing.end = taken_over_first  # type: ignore[method-assign]  # what happens between two steps
        assert await operator.revoke(id=made) == {made: "revoked"}

    operate(scenario)


async def inventory(operator: Operator, *, repair: bool = False) -> dict[str, Any]:
    return await operator.client.ask("lease.audit", config=str(operator.host.config), repair=repair)


def test_an_inventory_of_what_agrees_finds_nothing(operate: Operate) -> None:
    async def scenario(operator: Operator) -> None:
        assert (await inventory(operator))["looked_at"] == 0
        assert not (operator.host.state / "ledger.db").exists()
        await operator.issue()
        await operator.issue(other=True)
        found = await inventory(operator, repair=True)
        assert (found["looked_at"], found["orphans"], found["ghosts"], found["problems"]) == (1, [], [], [])
        assert len(operator.provider.names()) == 2

    operate(scenario)


def test_an_orphan_is_reported_and_taken_back_only_when_told_to(operate: Operate) -> None:
    """Another broker, with another ledger, may have made it."""

    async def scenario(operator: Operator) -> None:
        made = await operator.issue()
        (operator.provider.folder / "lh_other_1").write_text("{}")
        (operator.provider.folder / "somebody").write_text("{}")
        orphan = {"issuer": "fake", "name": "lh_other_1"}
        assert (await inventory(operator))["orphans"] == [{**orphan, "taken_back": False}]
        assert "lh_other_1" in operator.provider.names()
        assert (await inventory(operator, repair=True))["orphans"] == [{**orphan, "taken_back": True}]
        assert "lh_other_1" not in operator.provider.names()
        assert "somebody" in operator.provider.names()
        assert await operator.list() == {made: "active"}
        assert [record.outcome for record in operator.host.records("lease:orphan")] == ["failed", "done"]

    operate(scenario)


def test_an_intent_is_no_orphan(operate: Operate) -> None:
    async def scenario(operator: Operator) -> None:
        made = operator.provider.folder
        begun, goes_on = asyncio.Event(), asyncio.Event()

        async def meanwhile() -> None:
            begun.set()
            await goes_on.wait()

        await operator.issue()
        operator.provider.meanwhile = meanwhile
        issuing = asyncio.create_task(operator.issue("task2b"))
        await begun.wait()
        (intent,) = [key for key, state in (await operator.list()).items() if state == "intended"]
        (made / (await operator.issuing.entry(intent)).name).write_text("{}")  # type: ignore[union-attr]  # it is there
        assert (await inventory(operator, repair=True))["orphans"] == []
        goes_on.set()
        assert await issuing == intent

    operate(scenario)


def test_a_ghost_is_reported_and_closed(operate: Operate) -> None:
    async def scenario(operator: Operator) -> None:
        made, kept = await operator.issue(), await operator.issue()
        name = (await operator.client.ask("lease.show", id=made))["lease"]["name"]
        (operator.provider.folder / name).unlink()
        found = await inventory(operator)
        assert [(row["id"], row["state"]) for row in found["ghosts"]] == [(made, "revoked")]
        assert await operator.list() == {kept: "active"}
        assert [record.fields["lease"] for record in operator.host.records("lease:ghost")] == [made]
        assert (await inventory(operator))["ghosts"] == []

    operate(scenario)


def test_where_a_provider_lists_nothing_there_is_no_ghost(operate: Operate) -> None:
    async def scenario(operator: Operator) -> None:
        operator.provider.lists = False
        made = await operator.issue()
        for path in operator.provider.folder.iterdir():
            path.unlink()
        found = await inventory(operator)
        assert (found["ghosts"], found["unlisted"]) == ([], ["fake"])
        assert await operator.list() == {made: "active"}

    operate(scenario)


def test_a_provider_that_cannot_be_looked_at_is_a_problem_and_closes_nothing(operate: Operate) -> None:
    async def scenario(operator: Operator) -> None:
        made = await operator.issue()
        operator.provider.down = True
        found = await inventory(operator)
        assert found["problems"] == [{"issuer": "fake", "message": "issuer(fake) find: the provider does not answer"}]
        assert await operator.list() == {made: "active"}

    operate(scenario)


def test_a_ledger_that_lacks_what_was_issued_is_compared_before_anything_is(operate: Operate) -> None:
    async def scenario(operator: Operator) -> None:
        leasing = operator.host.daemon._leasing
        operator.host.daemon._vault.set("orders", ADMIN)
        await leasing.take_stock([ORDERS])  # nothing was ever issued
        leasing._stock_taken = False
        await operator.issue()
        await leasing.take_stock([ORDERS])  # the ledger knows it
        leasing._stock_taken = False
        lost = {await operator.issue(), await operator.issue()}
        names = operator.provider.names()
        kept, open_entries, entry = operator.host.state / "lh_other_1", operator.issuing.entries, operator.issuing.entry

        async def without_entry(entry_id: str) -> Entry | None:
            return None if entry_id in lost else await entry(entry_id)

        async def without(**asked: Any) -> Sequence[Entry]:
            return [found for found in await open_entries(**asked) if found.id not in lost]

        operator.issuing.entry, operator.issuing.entries = without_entry, without  # type: ignore[method-assign]  # an old copy
        operator.provider.down = True
        with pytest.raises(LedgerError, match="older than the audit log, and fake cannot be looked at: issuer"):
            await leasing.take_stock([ORDERS])
        operator.provider.down = False
        (operator.provider.folder / kept.name).write_text("{}")
        await leasing.take_stock([ORDERS])
        assert len(names) == 3 and len(operator.provider.names() - {kept.name}) == 1
        assert kept.name in operator.provider.names(), "it may be another broker's"
        operator.provider.down = True
        await leasing.take_stock([ORDERS])  # once is enough

    operate(scenario)
