"""The audit log against a real kill -9, a really full disk and a second process (BOUNDARY J1, J4)."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from integration.audit_writer import KEY
from leasehold.broker.audit.log import AuditLog
from leasehold.core.errors import AuditError

WRITER = Path(__file__).with_name("audit_writer.py")


def writer(folder: Path, batch: int) -> list[str]:
    return [sys.executable, str(WRITER), str(folder), str(batch)]


@pytest.mark.parametrize("batch", [1, 7, 400])
def test_j4_kill_9_loses_nothing_that_was_acknowledged(tmp_path: Path, batch: int) -> None:
    """Ten times, at ten moments; a later run goes on where the one before was killed."""
    folder = tmp_path / "audit"
    acknowledged = 0
    for moment in range(10):
        with subprocess.Popen(writer(folder, batch), stdout=subprocess.PIPE, text=True) as child:
            assert child.stdout is not None
            first = int(child.stdout.readline())
            assert first > acknowledged
            time.sleep(moment * 0.003)
            child.kill()
            acknowledged = max([first, *map(int, child.stdout.read().split("\n")[:-1])])
        log = AuditLog(folder, KEY, clock=time.time)
        report = log.verify()
        log.close()
        assert report.problem is None
        assert report.records >= acknowledged


def test_j4_a_second_process_may_not_write(tmp_path: Path) -> None:
    folder = tmp_path / "audit"
    with subprocess.Popen(writer(folder, 1), stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        child.stdout.readline()
        try:
            with pytest.raises(AuditError, match="another process writes"):
                AuditLog(folder, KEY, clock=time.time)
        finally:
            child.kill()
    AuditLog(folder, KEY, clock=time.time).close()


def test_j1_a_full_disk_refuses_keeps_the_log_whole_and_goes_on_when_there_is_room(tmp_path: Path) -> None:
    """A file system of 256 KiB in a mount namespace of its own, with a filler that is removed afterwards."""
    script = (
        f"mount -t tmpfs -o size=256k,mode=0700 tmpfs '{tmp_path}' && head -c 65536 /dev/zero > '{tmp_path}/filler' && "
        'exec "$@"'
    )
    command = [
        "unshare",
        "--mount",
        "--propagation",
        "private",
        "sh",
        "-c",
        script,
        "sh",
        *writer(tmp_path / "audit", 3),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    *numbers, refused, after = done.stdout.splitlines()
    assert len(numbers) > 5
    assert refused == "refused: the audit log cannot be written: No space left on device"
    assert after == "1 None"
