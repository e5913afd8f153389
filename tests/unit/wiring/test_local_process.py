"""The daemon's own life: its start, its Envoy, its end."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from leasehold.broker.audit.query import Filter
from leasehold.core.errors import EgressError
from leasehold.node.guard import handback
from leasehold.node.sandbox.mask import Mask
from leasehold.wiring.local import Daemon, every

from .conftest import RUNS
from .host import Host, Scenario

_STATS = (
    "http.{task}.downstream_rq_total: {count}\r\nhttp.other.downstream_rq_total: 9\r\n"
    "tcp.{task}.downstream_cx_total: 1\r\ntcp.other.downstream_cx_total: 9\r\n"
)


def test_envoys_own_count_is_asked_for(run: Callable[[Scenario], None]) -> None:
    async def scenario(host: Host) -> None:
        assert await host.daemon._count("7f3k") is None
        body = _STATS.format(task="7f3k", count=40)

        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            asked = await reader.readuntil(b"\r\n\r\n")
            assert asked.startswith(b"GET /stats?filter=^(http|tcp)\\.")
            writer.write(f"HTTP/1.1 200 OK\r\n\r\n{body}".encode())
            writer.close()

        async with await asyncio.start_unix_server(answer, host.daemon._envoy.admin_socket):
            assert await host.daemon._count("7f3k") == 41
            assert await host.daemon._count("unknown") is None

    run(scenario)


def test_it_starts_records_it_and_puts_right_what_a_killed_run_left(
    run: Callable[[Scenario], None], envoy_process: Callable[[str], None]
) -> None:
    async def scenario(host: Host) -> None:
        mask = Mask(path=".vscode", kind="empty-dir", absent=True)
        os.close(handback.begin(str(host.state), "old", str(host.workspace), [mask]).fd)
        await host.daemon.start()
        assert [(record.event, record.task) for record in host.records()] == [
            ("daemon:started", None),
            ("handback:found", "old"),
        ]
        assert not (host.workspace / ".vscode").exists()
        pid = host.daemon._envoy.pid
        assert (await host.client().ask("daemon.status"))["envoy_pid"] == pid
        _, reply = await host.open()
        await host.daemon.stop()
        assert not Path(f"/proc/{pid}").exists()
        server = host.daemon._egress._server
        assert server is not None
        await server.stop(None)
        again = Daemon(state=host.state, runtime=host.runtime, clock=host.clock)
        found = [(record.event, record.task) for record in again._audit.query(Filter()).records[2:]]
        assert found == [("task:opened", reply["task"]), ("usage:mismatch", reply["task"]),
                         ("task:closed", reply["task"]), ("daemon:stopped", None)]  # fmt: skip
        host.daemon = again

    run(scenario)


def test_what_an_earlier_daemon_left_in_the_runtime_folder_goes(run: Callable[[Scenario], None]) -> None:
    async def scenario(host: Host) -> None:
        for name in ("7f3k-443.sock", "envoy-broker.sock"):
            (host.runtime / name).touch()
        (host.runtime / "netns-7f3k").symlink_to("/proc/1/fd/9")
        (host.runtime / "broker.sock").touch()
        host.daemon._audit.close()
        host.daemon = Daemon(state=host.state, runtime=host.runtime, clock=host.clock)
        assert sorted(path.name for path in host.runtime.iterdir()) == ["broker.sock", "envoy.json"]

    run(scenario)


def test_an_envoy_that_ends_is_started_again_and_said(
    run: Callable[[Scenario], None], envoy_process: Callable[[str], None], tmp_path: Path
) -> None:
    async def scenario(host: Host) -> None:
        envoy_process(f"test -e {tmp_path}/once && {RUNS}; : > {tmp_path}/once; exit 3")
        _, reply = await host.open()
        await host.daemon._envoy.start()
        first = host.daemon._envoy.pid
        keeping = asyncio.create_task(host.daemon._keep_envoy())
        async with asyncio.timeout(10):
            while host.daemon._envoy.pid == first:
                await asyncio.sleep(0.01)
        assert [record.fields["status"] for record in host.records("envoy:restarted")] == [3]
        assert "Envoy ended" in host.daemon._tasks.open_tasks[reply["task"]].alarm
        host.daemon.stopping.set()
        await host.daemon._envoy.stop()
        await keeping
        assert len(host.records("envoy:restarted")) == 1

    run(scenario)


def test_an_envoy_that_does_not_start_again_is_the_end(
    run: Callable[[Scenario], None],
    envoy_process: Callable[[str], None],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    async def scenario(host: Host) -> None:
        envoy_process("exit 3")
        await host.daemon._envoy.start()
        monkeypatch.setenv("PATH", str(host.workspace))
        await host.daemon._keep_envoy()
        assert host.daemon.stopping.is_set()
        assert "Envoy does not start again" in capsys.readouterr().err

    run(scenario)


def test_it_is_idle_when_nobody_is_connected(run: Callable[[Scenario], None]) -> None:
    async def scenario(host: Host) -> None:
        await host.daemon.idle(0.001)
        client = host.client()
        await client.ask("secret.list")
        idle = asyncio.create_task(host.daemon.idle(0.001))
        for _ in range(3):
            await client.ask("secret.list")
            await asyncio.sleep(0.002)
        assert not idle.done()
        client.leave()
        await asyncio.wait_for(idle, 10)

    run(scenario)


def test_it_stops_when_it_is_told_to(run: Callable[[Scenario], None]) -> None:
    async def scenario(host: Host) -> None:
        client = host.client()
        await client.ask("daemon.status")
        assert not host.daemon.stopping.is_set()
        assert await client.ask("daemon.stop") == {"ok": True, "pid": os.getpid()}
        assert host.daemon.stopping.is_set()

    run(scenario)


def test_what_is_done_again_and_again_survives_envoys_failures(capsys: pytest.CaptureFixture[str]) -> None:
    async def scenario() -> None:
        done = 0

        async def work() -> None:
            nonlocal done
            done += 1
            if done == 1:
                raise EgressError("Envoy did not acknowledge", hint="wait")
            if done == 3:
                raise AssertionError("a defect is not hidden")

        with pytest.raises(AssertionError):
            await every(0, work)

    asyncio.run(scenario())
    assert capsys.readouterr().err == "Envoy was not brought up to date: Envoy did not acknowledge\n"
