"""Bodies of any size pass in constant memory, and a stream is neither held back nor cut short.

Bounded stand-ins; ``make bench`` moves the real sizes.
"""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from servers.api import pattern
from servers.config import CLIENTS

if TYPE_CHECKING:
    from servers.harness import Leasehold

_BODY_BYTES = 256 * 1024 * 1024
_GROWTH_KB_MAX = 32 * 1024  # an eighth of the body: nobody kept it


@pytest.fixture
def envoy(leasehold: Leasehold) -> int:
    """The pid of a warm Envoy whose peak of memory is counted from now."""
    assert leasehold.run("curl", "-sS", "-f", "https://api.forge.test/v1/me").returncode == 0
    pid = leasehold.envoy_pid()
    assert pid is not None
    Path(f"/proc/{pid}/clear_refs").write_text("5")
    return pid


def _kb(pid: int, field: str) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(f"{field}:")).split()[1])


@pytest.mark.parametrize("version", ["--http1.1", "--http2"])
def test_a_download_passes_in_constant_memory(leasehold: Leasehold, envoy: int, version: str) -> None:
    before = _kb(envoy, "VmRSS")
    url = f"https://api.forge.test/download?bytes={_BODY_BYTES}"
    done = leasehold.run("sh", "-c", f"curl -sSf {version} '{url}' | sha256sum", timeout=120)
    expected = hashlib.sha256(pattern(0, _BODY_BYTES)).hexdigest()
    assert done.stdout.split()[0] == expected, done.stderr
    assert _kb(envoy, "VmHWM") - before < _GROWTH_KB_MAX


@pytest.mark.parametrize("version", ["--http1.1", "--http2"])
def test_an_upload_passes_in_constant_memory(leasehold: Leasehold, envoy: int, version: str) -> None:
    """Its length is not known beforehand."""
    before = _kb(envoy, "VmRSS")
    script = f"head -c {_BODY_BYTES} /dev/zero | curl -sSf {version} -T - https://api.forge.test/upload"
    done = leasehold.run("sh", "-c", script, timeout=120)
    assert json.loads(done.stdout)["bytes"] == _BODY_BYTES, done.stderr
    assert _kb(envoy, "VmHWM") - before < _GROWTH_KB_MAX


def test_each_event_arrives_when_it_is_sent(leasehold: Leasehold) -> None:
    """Not one event later: nothing of an honest stream is held back until more comes."""
    count, interval_s = 4, 0.7
    url = f"https://api.forge.test/stream?events={count}&interval_ms={interval_s * 1000:.0f}"
    done = leasehold.run(sys.executable, str(CLIENTS / "sse.py"), url)
    times = [float(line.split()[0]) for line in done.stdout.splitlines() if "data: event" in line]
    assert len(times) == count, done.stdout + done.stderr
    assert all(at < (number + 1) * interval_s for number, at in enumerate(times)), times


def test_many_events_all_arrive(leasehold: Leasehold) -> None:
    url = "https://api.forge.test/stream?events=400&interval_ms=0&pad=9000"
    done = leasehold.run(sys.executable, str(CLIENTS / "sse.py"), url)
    events = [line for line in done.stdout.splitlines() if "data: event" in line]
    assert len(events) == 400, done.stderr
