"""The crash matrix: each point, each issuer with its real server, each ledger. Used by ``make crash`` and by a test."""

from __future__ import annotations

import asyncio
import json
import secrets
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from contract.subject import Refused, Subject
from crash.worker import POINTS, broker
from leasehold.broker.issuers.ports import NAME_PREFIX
from leasehold.broker.lease.machine import OPEN, State
from leasehold.broker.lease.store import PostgresLedger, SqliteLedger
from leasehold.core.secret import Secret

_TESTS = Path(__file__).parents[1]
_PATIENCE_S = 60.0
_LATER_S = 86_400.0
"""Longer than anything lasts that nobody takes back."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One kill. ``alive``: whether the provider has an account of the task's, or takes what it gave to the process that
    was killed; ``unknown``: of that, what the ledger has no open entry for; ``left``: when the next broker has swept, a
    day later, what is open in the ledger, what there is an account for, and what is taken though the ledger says that
    it was revoked, or though it lasts until after that day. ``lapsed``: whether the ledger says that it expired, as it
    says of what nobody can take back.
    """

    kind: str
    ledger: str
    point: str
    alive: int
    unknown: int
    left: int
    lapsed: bool


def cases(kind: str, subject: Subject, ledger: str, points: tuple[str, ...] = POINTS) -> Iterator[Case]:
    """Kill a process at each point. ``ledger``: an address of PostgreSQL; empty for SQLite."""
    for point in points:
        with tempfile.TemporaryDirectory() as folder:
            yield _case(kind, subject, ledger, point, folder)


def _case(kind: str, subject: Subject, ledger: str, point: str, folder: str) -> Case:
    task = "".join(secrets.choice("abcdefghjkmnpqrstuvwxyz") for _ in range(6))
    now = time.time()
    told = {
        "folder": folder,
        "ledger": ledger,
        "kind": kind,
        "parameters": dict(subject.parameters()),
        "secret": subject.secret.reveal().decode(),
        "point": point,
        "task": task,
        "now": now,
    }
    given = _killed(told)
    later = now + _LATER_S
    books = PostgresLedger(Secret(ledger.encode())) if ledger else SqliteLedger(Path(folder))
    try:
        known = books.entries(task=task, states=OPEN)
        alive = _alive(subject, task, given)
        asyncio.run(_next_broker(told, later))
        still_open = books.entries(task=task, states=OPEN)
        [*closed] = books.entries(task=task, states=[State.REVOKED, State.EXPIRED])
        left = len(_accounts(subject, task)) + len(still_open)
        if not left and _takes(subject, given):
            [entry] = closed
            left += entry.state is State.REVOKED or given["expires"] > later
    finally:
        books.close()
    return Case(
        kind=kind,
        ledger="postgresql" if ledger else "sqlite",
        point=point,
        alive=alive,
        unknown=max(0, alive - len(known)),
        left=left,
        lapsed=any(entry.state is State.EXPIRED for entry in closed),
    )


def _killed(told: Mapping[str, Any]) -> Mapping[str, Any]:
    """What the process had been given when it was killed; empty when that was nothing."""
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
        where = f"{told['kind']} {told['point']}"
        raise RuntimeError(f"{where}: exit code {done.returncode}, not killed\n{done.stderr[-2000:]}")
    found: Mapping[str, Any] = json.loads(done.stdout or "{}")
    return found


def _alive(subject: Subject, task: str, given: Mapping[str, Any]) -> int:
    return len(_accounts(subject, task)) or int(_takes(subject, given))


def _accounts(subject: Subject, task: str) -> list[str]:
    return [name for name in subject.accounts() if name.startswith(f"{NAME_PREFIX}{task}_")]


def _takes(subject: Subject, given: Mapping[str, Any]) -> bool:
    if not given:
        return False
    material = {part: Secret(value.encode()) for part, value in given["material"].items()}
    try:
        subject.attempt(material, subject.within[0])
    except Refused:
        return False
    return True


async def _next_broker(told: dict[str, Any], later: float) -> None:
    """What the broker that starts next does: an intent is looked at when nobody can be at work on it."""
    issuing = broker(told, owner="second", now=later)
    await issuing.take_over(later)
    while await issuing.sweep():
        pass
    await issuing.stop()
