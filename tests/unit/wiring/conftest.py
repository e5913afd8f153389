"""The daemon of a test, and what runs in Envoy's place."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from .host import Host, Scenario

RUNS = "exec setpriv --pdeathsig KILL sleep 600"  # the system's own: it ends with the daemon


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Scenario], None]:
    """Runs a scenario on a daemon of its own."""
    monkeypatch.delenv("DBUS_SESSION_BUS_ADDRESS", raising=False)

    async def whole(scenario: Scenario) -> None:
        host = Host(tmp_path)
        async with host.envoy:
            await scenario(host)
            await host.close()

    return lambda scenario: asyncio.run(whole(scenario))


@pytest.fixture
def envoy_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """What runs in Envoy's place."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")

    def runs(script: str) -> None:
        program = folder / "setpriv"
        program.write_text(f"#!/bin/sh\n{script}\n")
        program.chmod(0o755)

    runs(RUNS)
    return runs
