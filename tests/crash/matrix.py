"""The crash matrix: each point, each issuer with its real server, each ledger. Used by ``make crash`` and by a test."""

from __future__ import annotations

import asyncio
import json
import secrets
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from contract.subject import Subject
from crash.worker import POINTS, TTL_S, broker
from leasehold.broker.issuers.ports import NAME_PREFIX
from leasehold.broker.lease.machine import OPEN
from leasehold.broker.lease.store import PostgresLedger, SqliteLedger
from leasehold.core.secret import Secret

_TESTS = Path(__file__).parents[1]
_PATIENCE_S = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One kill. ``alive``: accounts of the task at the provider after it; ``unknown``: of those the ledger has none
    open; ``left``: accounts, and open entries, when the next broker has swept."""

    kind: str
    ledger: str
    point: str
    alive: int
    unknown: int
    left: int


def cases(kind: str, subject: Subject, ledger: str, points: tuple[str, ...] = POINTS) -> Iterator[Case]:
    """Kill a process at each point. ``ledger``: an address of PostgreSQL; empty for SQLite."""
    for point in points:
        with tempfile.TemporaryDirectory() as folder:
            yield _case(kind, subject, ledger, point, folder)


def _case(kind: str, subject: Subject, ledger: str, point: str, folder: str) -> Case:
    task = "".join(secrets.choice("abcdefghjkmnpqrstuvwxyz") for _ in range(6))
    told = {
        "folder": folder,
        "ledger": ledger,
        "kind": kind,
        "parameters": dict(subject.parameters()),
        "secret": subject.secret.reveal().decode(),
        "point": point,
        "task": task,
        "now": time.time(),
    }
    done = subprocess.run(
        [sys.executable, "-m", "crash.worker"],
        cwd=_TESTS,
        input=json.dumps(told),
        text=True,
        capture_output=True,
        timeout=_PATIENCE_S,
        check=False,
    )
    if done.returncode != -9:
        raise RuntimeError(f"{kind} {point}: exit code {done.returncode}, not killed\n{done.stderr[-2000:]}")
    ours = f"{NAME_PREFIX}{task}_"
    alive = {name for name in subject.accounts() if name.startswith(ours)}
    books = PostgresLedger(Secret(ledger.encode())) if ledger else SqliteLedger(Path(folder))
    try:
        known = {entry.name for entry in books.entries(task=task, states=OPEN)}
        asyncio.run(_next_broker(told))
        left = [name for name in subject.accounts() if name.startswith(ours)]
        still_open = books.entries(task=task, states=OPEN)
    finally:
        books.close()
    return Case(
        kind=kind,
        ledger="postgresql" if ledger else "sqlite",
        point=point,
        alive=len(alive),
        unknown=len(alive - known),
        left=len(left) + len(still_open),
    )


async def _next_broker(told: dict[str, Any]) -> None:
    """What the broker that starts next does, an hour later: an intent is looked at when nobody can be at work on it."""
    later = told["now"] + 4 * TTL_S
    issuing = broker(told, owner="second", now=later)
    await issuing.take_over(later)
    while await issuing.sweep():
        pass
    await issuing.stop()
