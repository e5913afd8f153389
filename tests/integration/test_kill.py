"""`kill -9` of Envoy, daemon or launcher at ten points of a run: access ends or is restored, and nothing is left."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

    from servers.harness import Leasehold

_POINTS_S = (0.0, 0.02, 0.04, 0.06, 0.08, 0.11, 0.15, 0.25, 0.5, 0.9)
_WORK = "i=0; while [ $i -lt 12 ]; do curl -sS -m 5 https://api.forge.test/v1/me; sleep 0.05; i=$((i+1)); done"


def _until(condition: Callable[[], bool], timeout_s: float = 15.0) -> bool:
    until = time.monotonic() + timeout_s
    while time.monotonic() < until:
        if condition():
            return True
        time.sleep(0.02)
    return condition()


def _names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def _kill(pid: int | None) -> None:
    if pid is not None:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            return


def _strays(lh: Leasehold) -> list[str]:
    """Everything of this harness but a daemon and its Envoy."""
    keep = {lh.daemon_pid(), lh.envoy_pid()}
    return [process.command for process in lh.processes() if process.pid not in keep]


def _works(lh: Leasehold) -> None:
    done = lh.run("curl", "-sS", "-f", "https://api.forge.test/v1/me")
    assert done.returncode == 0 and '"authenticated": true' in done.stdout, done.stderr


def _relay_sockets(lh: Leasehold) -> list[str]:
    runtime = lh.base / "run" / "leasehold"
    return [path.name for path in runtime.glob("*-*.sock") if not path.name.startswith("envoy-")]


@pytest.mark.parametrize("harness", ["leasehold", "leasehold_of_user"])
@pytest.mark.parametrize("point", _POINTS_S)
@pytest.mark.parametrize("victim", ["envoy", "daemon", "launcher"])
def test_kill(request: pytest.FixtureRequest, harness: str, victim: str, point: float) -> None:
    lh: Leasehold = request.getfixturevalue(harness)
    _works(lh)
    workspace = lh.workspace()
    before = _names(workspace)
    running = lh.start("sh", "-c", _WORK, workspace=workspace)
    time.sleep(point)
    daemon, envoy = lh.daemon_pid(), lh.envoy_pid()
    assert daemon and envoy
    _kill({"envoy": envoy, "daemon": daemon}.get(victim) or _launcher(lh, running.pid))
    _, errors = running.communicate(timeout=60)
    if victim == "daemon":
        assert running.returncode == 0 or b"error: broker-" in errors, errors
        assert _until(lambda: not Path(f"/proc/{envoy}").exists()), "Envoy outlived its daemon"
    assert _until(lambda: not _strays(lh)), _strays(lh)
    assert _until(lambda: _names(workspace) == before), _names(workspace)
    _works(lh)
    assert _until(lambda: not _relay_sockets(lh)), _relay_sockets(lh)


def _launcher(lh: Leasehold, started: int) -> int:
    """The process that runs ``leasehold run``; a wrapper may stand before it."""
    for process in lh.processes():
        if "leasehold run" in process.command and process.pid != started and "python" in process.command.split()[0]:
            return process.pid
    return started


def test_open_requests_end_with_envoy_and_the_next_ones_work(leasehold: Leasehold) -> None:
    """Envoy dies while the agent works: it is told, and what comes after is served by the next Envoy."""
    call = "curl -sS -f https://api.forge.test/v1/me >/dev/null"
    script = (
        f"{call} && echo first; touch ready; while [ -e ready ]; do sleep 0.05; done;"
        f" for i in 1 2 3 4 5 6 7 8 9 10; do {call} && echo second && break; sleep 0.3; done"
    )
    workspace = leasehold.workspace()
    running = leasehold.start("sh", "-c", script, workspace=workspace)
    assert _until((workspace / "ready").exists)
    envoy = leasehold.envoy_pid()
    _kill(envoy)
    assert _until(lambda: leasehold.envoy_pid() not in (None, envoy))
    (workspace / "ready").unlink()
    out, errors = running.communicate(timeout=60)
    assert out.split() == [b"first", b"second"], errors
    assert b"Envoy ended" in errors
