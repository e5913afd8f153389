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
from urllib.parse import urlsplit

from contract.subject import Refused, Subject
from crash.wire import Wire
from crash.worker import POINTS, broker
from leasehold.broker.issuers.ports import NAME_PREFIX
from leasehold.broker.lease.machine import OPEN, State
from leasehold.broker.lease.store import PostgresLedger, SqliteLedger
from leasehold.core.secret import Secret

_TESTS = Path(__file__).parents[1]
_PATIENCE_S = 60.0
_KILLED = -9
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
            told = _told(kind, subject.parameters(), subject.secret, ledger, folder) | {"point": point}
            code, given = _run(told)
            if code != _KILLED:
                raise RuntimeError(f"{kind} {point}: exit code {code}, not killed")
            yield _case(told, subject, given)


def between_answers(kind: str, subject: Subject, at_most: int) -> Iterator[Case]:
    """Kill a process while it waits for an answer of the provider's: at each, or at so many, evenly, from the first."""
    sent = _between(kind, subject, 0)[0]
    for number in range(1, sent + 1, max(1, -(-sent // at_most))):
        yield _between(kind, subject, number)[1]


def _between(kind: str, subject: Subject, number: int) -> tuple[int, Case]:
    """How many there were, and the case."""
    with tempfile.TemporaryDirectory() as folder, Wire(_where(subject), number) as wire:
        told = _told(kind, subject.parameters(wire.address), subject.secret, "", folder)
        code, given = _run(told | {"point": ""}, wire)
        if code not in (0, _KILLED):  # the last it sends is a farewell, and it waits for no answer
            raise RuntimeError(f"{kind}, answer {number}: exit code {code}")
        return wire.sent, _case(told | {"point": f"answer {number}"}, subject, given)


def _where(subject: Subject) -> tuple[str, int]:
    """Where the provider listens."""
    for value in subject.parameters().values():
        parts = urlsplit(value) if isinstance(value, str) else None
        if parts and parts.hostname and parts.port:
            return parts.hostname, parts.port
    raise RuntimeError("the provider has no address")


def _told(kind: str, parameters: Mapping[str, object], secret: Secret, ledger: str, folder: str) -> dict[str, Any]:
    return {
        "folder": folder,
        "ledger": ledger,
        "kind": kind,
        "parameters": dict(parameters),
        "secret": secret.reveal().decode(),
        "task": "".join(secrets.choice("abcdefghjkmnpqrstuvwxyz") for _ in range(6)),
        "now": time.time(),
    }


def _run(told: Mapping[str, Any], wire: Wire | None = None) -> tuple[int, Mapping[str, Any]]:
    """The exit code of a process, and what it had been given by then; empty when that was nothing."""
    with subprocess.Popen(
        [sys.executable, "-m", "crash.worker"],
        cwd=_TESTS,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        if wire:
            wire.victim = process
        try:
            said, _ = process.communicate(json.dumps(told), timeout=_PATIENCE_S)
        except BaseException:
            process.kill()
            raise
    given: Mapping[str, Any] = json.loads(said or "{}")
    return process.returncode, given


def _case(told: dict[str, Any], subject: Subject, given: Mapping[str, Any]) -> Case:
    """What the next broker finds, and leaves."""
    ledger, task, later = told["ledger"], told["task"], told["now"] + _LATER_S
    books = PostgresLedger(Secret(ledger.encode())) if ledger else SqliteLedger(Path(told["folder"]))
    try:
        known = books.entries(task=task, states=OPEN)
        alive = _alive(subject, task, given)
        asyncio.run(_next_broker(told, later))
        still_open = books.entries(task=task, states=OPEN)
        closed = books.entries(task=task, states=[State.REVOKED, State.EXPIRED])
        left = len(_accounts(subject, task)) + len(still_open)
        if not left and _takes(subject, given):
            left += closed[0].state is State.REVOKED or given["expires"] > later
    finally:
        books.close()
    return Case(
        kind=told["kind"],
        ledger="postgresql" if ledger else "sqlite",
        point=told["point"],
        alive=alive,
        unknown=max(0, alive - len(known)),
        left=left,
        lapsed=any(entry.state is State.EXPIRED for entry in closed),
    )


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
