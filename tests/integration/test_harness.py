"""The harness sees what a run leaves behind: a test that proves absence must be able to see presence."""

from __future__ import annotations

import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from servers.processes import leftovers, owned

Start = Callable[..., subprocess.Popen[bytes]]


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts a process that sleeps, and ends it afterwards."""
    started: list[subprocess.Popen[bytes]] = []

    def start(*command: str, **more: str) -> subprocess.Popen[bytes]:
        process = subprocess.Popen([*command, "sleep", "60"], env={"PATH": "/usr/bin:/bin", **more}, cwd="/")
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()


def _appears(process: subprocess.Popen[bytes], base: Path) -> bool:
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        if process.pid in [found.pid for found in owned(base)]:
            return True
        time.sleep(0.02)
    return False


def test_nothing_is_found_where_nothing_is_left(tmp_path: Path, start: Start) -> None:
    start("env")
    assert leftovers(tmp_path / "base") == []


def test_a_process_is_found_by_its_environment(tmp_path: Path, start: Start) -> None:
    assert _appears(start("env", SOME=f"{tmp_path}/base/run"), tmp_path / "base")


def test_a_process_is_found_by_a_mount_of_its_namespace(tmp_path: Path, start: Start) -> None:
    base = tmp_path / "base"
    base.mkdir()
    script = tmp_path / "mount.sh"
    script.write_text(f'mount --bind {base} /mnt\nexec "$@"\n')
    process = start("unshare", "--mount", "--propagation", "private", "sh", str(script))
    assert _appears(process, base)


def test_a_listener_is_found(tmp_path: Path) -> None:
    path = Path(f"/tmp/lh-test-{tmp_path.name}.sock")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        kinds = [found.kind for found in leftovers(path)]
    path.unlink()
    assert "socket" in kinds
    assert leftovers(path) == []
