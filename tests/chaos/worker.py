"""One broker of many: issues leases and takes them back, sweeps, says that it is alive; until it is told, or killed.

Told on standard input what to do, as no secret may stand in its arguments; says what happens on standard output, a
letter each.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
import time
from collections.abc import Awaitable
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

from chaos.faults import KINDS, Faults
from crash.worker import KEY, TTL_S, credential
from leasehold.broker.audit.log import AuditLog
from leasehold.broker.lease.issuing import Clocks, Issuing
from leasehold.broker.lease.machine import OPEN, Entry
from leasehold.broker.lease.sealing import Recipes
from leasehold.broker.lease.store import PostgresLedger
from leasehold.core.errors import LeaseholdError
from leasehold.core.secret import Secret

ISSUED, CLOSED, LEFT_OPEN, NOT_ISSUED = "icon"
"""A lease was issued; it was taken back; it was not, and is left to a sweep; none was issued."""
SWEPT = "s"
"""A sweep has worked on an entry."""
END = b"end\n"
"""The order to issue no more, and to take back what is held; the end of standard input says it too, and to finish."""
FAULTS = dict(zip(KINDS, "bahx", strict=True))
_PAUSE_S = 1.0
_BEAT_S = 2.0
_DEAD_S = 10.0
_SWEEPS = 1
_FAST = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """``hold``: keep what was issued until the order to end it. ``last``: sweep until nothing is open.

    ``ahead_s``: how far the clock is set forward; the last sweepers' runs ten times as fast too, because what has
    failed often is tried minutes later.
    """

    number: int
    folder: str
    ledger: str
    provider: dict[str, Any]
    secret: str
    seed: str
    faults: float
    call_s: float
    at_once: int
    issue: bool
    hold: bool
    last: bool
    ahead_s: float
    began: float


def say(what: str) -> None:
    os.write(1, what.encode())


def _fault(kind: str) -> None:
    say(FAULTS[kind])


class Worker:
    """A broker's issuing over the ledger that all share, and a provider that fails."""

    def __init__(self, told: Told) -> None:
        self._told = told
        self._folder = Path(told.folder) / str(told.number)
        self._folder.mkdir(mode=0o700)
        self._ledger = PostgresLedger(Secret(told.ledger.encode()))
        faults = Faults(told.faults, told.call_s, Random(f"{told.seed}/{told.number}"), _fault)
        self._issuing = Issuing(
            lambda: self._ledger,
            AuditLog(self._folder / "audit", KEY, clock=self.now),
            Recipes(KEY),
            faults.make,
            # All have one clock here, so that an intent that is due needs no waiting for besides.
            Clocks(wall=self.now, boot=time.monotonic, sleep=_at_once),
            owner=f"worker-{told.number}",
        )
        self._credential = credential({"kind": "postgres", "parameters": told.provider})
        self._admin = Secret(told.secret.encode())
        self._held: list[Entry] = []
        self._issues = told.issue

    def now(self) -> float:
        passed = time.time() - self._told.began
        return self._told.began + passed * (_FAST if self._told.last else 1.0) + self._told.ahead_s

    async def work(self) -> None:
        """Until standard input ends and all that this worker has begun is done."""
        await self._tried(self._issuing.take_over(self.now() - _DEAD_S))
        orders = asyncio.create_task(self._orders())
        beats = asyncio.create_task(self._beats())
        sweeps = [asyncio.create_task(self._sweeps()) for _ in range(_SWEEPS)]
        await asyncio.gather(*(self._leases() for _ in range(self._told.at_once)))
        await asyncio.gather(*(self._end_held() for _ in range(self._told.at_once)))
        await orders
        if self._told.last:
            await asyncio.gather(*sweeps)
        for task in (beats, *sweeps):
            task.cancel()
        await asyncio.gather(beats, *sweeps, return_exceptions=True)
        await self._issuing.stop()

    async def _orders(self) -> None:
        while await asyncio.to_thread(sys.stdin.readline):
            self._issues = False
        self._issues = False

    async def _leases(self) -> None:
        while self._issues:
            try:
                live = await self._issuing.issue("chaos", self._credential, self._admin, self.now() + TTL_S)
            except LeaseholdError as e:
                self._failed(e)
                say(NOT_ISSUED)
                continue
            say(ISSUED)
            self._held.append(live.entry)
            if not self._told.hold:
                await self._end_held()

    async def _end_held(self) -> None:
        while self._held:
            entry = self._held.pop()
            with contextlib.suppress(LeaseholdError):
                entry = await self._issuing.end(entry)
            say(LEFT_OPEN if entry.state in OPEN else CLOSED)

    async def _beats(self) -> None:
        while True:
            await asyncio.sleep(_BEAT_S)
            await self._tried(self._issuing.beat())
            await self._tried(self._issuing.take_over(self.now() - _DEAD_S))

    async def _sweeps(self) -> None:
        while not (self._told.last and await self._is_done()):
            swept = await self._tried(self._issuing.sweep())
            say(SWEPT * swept)
            if not swept:
                await asyncio.sleep(_PAUSE_S)

    async def _is_done(self) -> bool:
        return await asyncio.to_thread(self._ledger.next_due) is None

    async def _tried(self, work: Awaitable[int | None]) -> int:
        try:
            return await work or 0
        except LeaseholdError as e:
            self._failed(e)
            return 0

    def _failed(self, error: LeaseholdError) -> None:
        print(f"{self._told.number}: {error.message}", file=sys.stderr, flush=True)


async def _at_once(_pause_s: float) -> None:
    return


if __name__ == "__main__":
    asyncio.run(Worker(Told(**json.loads(sys.stdin.readline()))).work())
