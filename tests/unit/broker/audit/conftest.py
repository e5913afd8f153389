"""A log of several segments, and a clock that the test moves."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from leasehold.broker.audit.log import AuditLog
from leasehold.broker.audit.model import Event, Outcome, Record
from leasehold.core.limits import Limits
from leasehold.core.secret import Secret

KEY = Secret(b"k" * 32)
SMALL = Limits(audit_segment_bytes_max=1200)  # three records


class Clock:
    """Unix seconds; each reading is a second later."""

    def __init__(self) -> None:
        self.now = 1_700_000_000.0

    def __call__(self) -> float:
        self.now += 1
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "audit"


@pytest.fixture
def opened(folder: Path, clock: Clock) -> Iterator[Callable[[], AuditLog]]:
    """Opens the log with small segments; closed at the end."""
    logs: list[AuditLog] = []

    def open_log() -> AuditLog:
        logs.append(AuditLog(folder, KEY, clock=clock, limits=SMALL))
        return logs[-1]

    yield open_log
    for log in logs:
        log.close()


def started(log: AuditLog, pid: int = 1) -> Record:
    """Append any record."""
    return log.append(Event.DAEMON_STARTED, outcome=Outcome.DONE, pid=pid)
