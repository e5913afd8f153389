"""A task in the daemon: from its launcher's request to its end, however that comes."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from leasehold.broker.identity.peer import Peer
from leasehold.core.errors import SecretUnavailable
from leasehold.node.egress.xds import LISTENER, ROUTE
from leasehold.node.guard import handback
from leasehold.node.sandbox.mask import Mask
from leasehold.wiring.local import _variable_of

from .host import Host, Scenario, a_descriptor, held
from .parts import FORGE_HOST


def test_a_task_lives_from_its_reply_to_its_summary(run: Callable[[Scenario], None]) -> None:
    async def scenario(host: Host) -> None:
        await host.store()
        client, reply = await host.open(purpose="fix a bug")
        task = reply["task"]
        assert (reply["ok"], reply["class"]) == (True, "local")
        assert (await host.envoy.check(f"{task}/0/forge/{FORGE_HOST}:443")).status.code == 0
        status = await host.client().ask("daemon.status")
        assert [(t["task"], t["expires_in_s"]) for t in status["tasks"]] == [(task, 3600)]
        assert (status["pid"], status["envoy_pid"]) == (os.getpid(), None)
        assert await client.ask("task.started") == {"ok": True}
        told = await client.ask("task.close", exit_code=3, denied_names={"b.example": 1, "a.example": 2})
        assert (told["summary"]["exit_code"], told["summary"]["reason"]) == (3, "ended")
        assert await client.next() is None
        names = [(record.fields["host"], record.fields["count"]) for record in host.records("name:denied", task)]
        assert names == [("a.example", 2), ("b.example", 1)]
        assert host.records("handback:found") == []
        assert (await host.client().ask("daemon.status"))["tasks"] == []

    run(scenario)


def test_what_the_launcher_found_at_the_end_is_recorded(run: Callable[[Scenario], None]) -> None:
    async def scenario(host: Host) -> None:
        client, reply = await host.open()
        await client.ask("task.close", exit_code=0, handback={"notes": ["made harmless: .git/hooks/post-merge"]})
        found = [record.fields["found"] for record in host.records("handback:found", reply["task"])]
        assert found == [["made harmless: .git/hooks/post-merge"]]

    run(scenario)


def test_a_launcher_that_is_killed_ends_its_task_and_is_cleaned_up_after(run: Callable[[Scenario], None]) -> None:
    async def scenario(host: Host) -> None:
        client, reply = await host.open()
        task = reply["task"]
        mask = Mask(path=".vscode", kind="empty-dir", absent=True)
        os.close(handback.begin(str(host.state), task, str(host.workspace), [mask]).fd)
        assert (host.workspace / ".vscode").exists()
        client.leave()
        closed = await host.gone(task)
        assert (closed.fields["reason"], closed.fields["exit_code"]) == ("the launcher ended", None)
        await host.gone(task, "handback:found")
        assert not (host.workspace / ".vscode").exists()
        await host.envoy.until(lambda: not host.envoy.has(LISTENER, f"{task}/443"))

    run(scenario)


def test_at_its_deadline_a_task_ends_and_the_launcher_is_told(run: Callable[[Scenario], None]) -> None:
    async def scenario(host: Host) -> None:
        client, reply = await host.open(ttl_s=60)
        host.clock.now += 59.99
        host.clock.step = 0.001  # from now on time passes
        assert await client.ask("task.started") == {"ok": True}
        told = await client.next()
        assert told is not None
        assert (told["event"], told["summary"]["reason"]) == ("expired", "expired")
        assert (await host.gone(reply["task"])).fields["reason"] == "expired"

    run(scenario)


def test_a_credential_ends_at_its_own_time_while_the_task_goes_on(run: Callable[[Scenario], None]) -> None:
    async def scenario(host: Host) -> None:
        await host.store()
        client, reply = await host.open()
        name = f"{reply['task']}/0/forge/{FORGE_HOST}:443"
        await host.envoy.check(name)
        host.clock.now += 899
        await host.daemon._expire()
        assert host.envoy.answer_of(FORGE_HOST)[1] == ""
        host.clock.now += 1
        await host.daemon._expire()
        await host.envoy.until(lambda: host.envoy.answer_of(FORGE_HOST) == (f"closed/{name}", "access-ended"))
        assert [r.outcome for r in host.records("credential:first-use")] == ["allowed"]
        assert [r.outcome for r in host.records("credential:expired")] == ["denied"]
        assert await client.ask("task.started") == {"ok": True}
        assert not host.daemon.stopping.is_set()

    run(scenario)


def test_a_clock_that_was_set_back_ends_what_is_live(run: Callable[[Scenario], None]) -> None:
    """Nobody knows then when it was to end; a second or two of drift is none."""

    async def scenario(host: Host) -> None:
        await host.store()
        _, reply = await host.open()
        name = f"{reply['task']}/0/forge/{FORGE_HOST}:443"
        await host.envoy.check(name)
        host.clock.now -= 3
        await host.daemon._expire()
        assert not host.records("clock:set-back")
        assert host.envoy.answer_of(FORGE_HOST)[1] == ""
        host.clock.now -= 3600
        await host.daemon._expire()
        await host.envoy.until(lambda: host.envoy.answer_of(FORGE_HOST) == (f"closed/{name}", "access-ended"))
        [record] = host.records("clock:set-back")
        assert record.fields["seconds"] in range(3599, 3610)
        await host.daemon._expire()
        assert len(host.records("clock:set-back")) == 1

    run(scenario)


def test_an_end_that_cannot_be_recorded_ends_the_daemon(
    run: Callable[[Scenario], None], capsys: pytest.CaptureFixture[str]
) -> None:
    async def scenario(host: Host) -> None:
        await host.store()
        _, reply = await host.open()
        await host.envoy.check(f"{reply['task']}/0/forge/{FORGE_HOST}:443")
        host.daemon._audit.close()
        await host.daemon._expire()
        assert not host.daemon.stopping.is_set()
        host.clock.now += 900
        await host.daemon._expire()
        assert host.daemon.stopping.is_set()
        assert "the end of a lease was not recorded" in capsys.readouterr().err
        host.daemon._tasks.open_tasks.clear()  # their ends cannot be recorded either

    run(scenario)


def test_the_network_namespace_is_held_as_long_as_its_task(run: Callable[[Scenario], None], tmp_path: Path) -> None:
    async def scenario(host: Host) -> None:
        fd = a_descriptor(tmp_path)
        client, reply = await host.open(fd)
        os.close(fd)
        assert reply["sockets"] == {}
        assert held(tmp_path) == 1
        client.leave()
        await host.gone(reply["task"])
        await host.close()
        assert held(tmp_path) == 0

    run(scenario)


def test_what_comes_without_need_is_closed_too(run: Callable[[Scenario], None], tmp_path: Path) -> None:
    async def scenario(host: Host) -> None:
        fd = a_descriptor(tmp_path)
        client, reply = await host.open(fd, fd, mode="relay")
        assert len(reply["sockets"]) == 2
        client.tell("task.started", fd)
        assert await client.next() == {"ok": True}
        no_mode = host.client()
        no_mode.tell("task.open", fd)
        assert await no_mode.next() is None
        os.close(fd)
        await client.ask("task.close", exit_code=0)
        await host.close()
        assert held(tmp_path) == 0

    run(scenario)


def test_a_task_that_is_refused_leaves_nothing(run: Callable[[Scenario], None], tmp_path: Path) -> None:
    async def scenario(host: Host) -> None:
        fd = a_descriptor(tmp_path)
        refused = [
            (await host.open(fd, grants=["other"]))[1],
            (await host.open(mode="netns"))[1],
        ]
        host.envoy.refuses = ROUTE
        refused.append((await host.open(fd))[1])
        assert [reply["error"]["code"] for reply in refused] == ["grant-refused", "usage", "egress-unavailable"]
        await host.close()
        assert held(tmp_path) == 1
        os.close(fd)
        assert [path for path in host.runtime.iterdir() if path.name != "envoy.json"] == []

    run(scenario)


def test_a_launchers_own_variable_is_read_when_it_is_needed(run: Callable[[Scenario], None]) -> None:
    async def scenario(host: Host) -> None:
        variables = {"EMPTY": "", "FORGE_TOKEN": "a=b"}
        launcher = await asyncio.create_subprocess_exec("/bin/sleep", "600", env=variables)
        peer = Peer(pid=launcher.pid, uid=os.getuid(), gid=os.getgid())
        assert _variable_of(peer, "FORGE_TOKEN") == "a=b"
        assert _variable_of(peer, "EMPTY") == ""
        assert _variable_of(peer, "FORGE") is None
        host.daemon._peers["one"] = peer
        assert (await host.daemon._resolve("one", "env:FORGE_TOKEN")).reveal() == b"a=b"
        with pytest.raises(SecretUnavailable):
            await host.daemon._resolve("two", "env:FORGE_TOKEN")
        launcher.kill()
        await launcher.wait()
        assert _variable_of(peer, "FORGE_TOKEN") is None

    run(scenario)
