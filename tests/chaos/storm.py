"""The storm: brokers of one ledger at a provider that fails, one killed and replaced again and again; then the count.

The provider's own log is the witness: it has every role that was ever created, also by who was killed then.
"""

from __future__ import annotations

import json
import os
import re
import selectors
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from random import Random
from typing import IO

import psycopg

from chaos.worker import CLOSED, END, FAULTS, ISSUED, LEFT_OPEN, NOT_ISSUED, SWEPT, Told
from contract.postgres_subject import DatabaseSubject
from leasehold.broker.issuers.ports import NAME_PREFIX
from servers.postgres import PostgresServer

_TESTS = Path(__file__).parents[1]
_ROLE = re.compile(rf'\b(CREATE|DROP) ROLE "?({NAME_PREFIX}\w+)')
_GROUP = "shop_auditors"
MEMBER = (f"member of {_GROUP}",)
"""As the manual of the issuer tells whoever has many leases at once."""
TABLES = ("connect", "usage on schema shop", "select on all tables in schema shop")
"""All brokers change the same access lists."""
_PATIENCE_S = 600.0
_LATER_S = 7200.0
_SHOW_S = 5.0
_TAIL = 2000


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """``leases``: to be issued. ``faults``: share of calls that fail. ``kill_every``: so many events from one kill to
    the next. ``down``: all are issued before the first is taken back, and the provider is stopped while all are tried.
    """

    leases: int
    workers: int
    at_once: int
    kill_every: int
    down: bool
    grants: tuple[str, ...]
    seed: str
    faults: float = 0.2
    call_s: float = 3.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """``unknown``: at the provider once, and not in the ledger. ``left``: roles; ``open``: entries, at the end.
    ``reused``: created again after it had been dropped, or twice in the ledger. ``failed_while_down``: attempts at a
    lease's end while the provider was stopped, without those of sweeps.
    """

    leases: int
    not_issued: int
    faults: Mapping[str, int]
    killed: int
    killed_while_down: int
    failed_while_down: int
    entries: int
    revoked: int
    at_provider: int
    unknown: int
    left: int
    open: int
    reused: int
    seconds: float

    def lost(self) -> int:
        """What must be none."""
        return self.unknown + self.left + self.open + self.reused


class Storm:
    """``ledgers``: the server with the ledger; the provider has one of its own, as it is stopped."""

    def __init__(self, plan: Plan, ledgers: PostgresServer, progress: Callable[[str], None]) -> None:
        self._plan = plan
        self._progress = progress
        self._chance = Random(plan.seed)
        self._books = ledgers.database(f"chaos_{plan.seed}_{'down' if plan.down else 'up'}")
        self._events: Counter[str] = Counter()
        self._selector = selectors.DefaultSelector()
        self._workers: dict[int, subprocess.Popen[bytes]] = {}
        self._started = self._killed = 0
        self._shown = 0.0

    def run(self) -> Result:
        """Issue, take back, kill, sweep, and count what is left."""
        began = time.monotonic()
        provider = PostgresServer()
        try:
            with provider.admin() as admin:
                admin.execute("ALTER SYSTEM SET log_statement = 'ddl'")
                admin.execute("SELECT pg_reload_conf()")
            subject = DatabaseSubject(provider)
            subject.admin.execute(f"GRANT CONNECT ON DATABASE orders TO {_GROUP}".encode())
            with tempfile.TemporaryDirectory(prefix="lh-chaos-") as folder:
                while_down = self._rage(provider, subject, Path(folder))
            found = self._count(provider)
        finally:
            for worker in self._workers.values():
                worker.kill()
                worker.wait()
            self._selector.close()
            provider.close()
        return Result(
            leases=self._events[ISSUED],
            not_issued=self._events[NOT_ISSUED],
            faults={kind: self._events[letter] for kind, letter in FAULTS.items()},
            killed=self._killed,
            **while_down,
            **found,
            seconds=time.monotonic() - began,
        )

    def _rage(self, provider: PostgresServer, subject: DatabaseSubject, folder: Path) -> dict[str, int]:
        plan = self._plan
        told = Told(
            number=0,
            folder=str(folder),
            ledger=self._books,
            provider={**subject.parameters(), "grants": list(plan.grants)},
            secret=subject.secret.reveal().decode(),
            seed=plan.seed,
            faults=plan.faults,
            call_s=plan.call_s,
            at_once=plan.at_once,
            issue=True,
            hold=plan.down,
            last=False,
            ahead_s=0.0,
            began=time.time(),
        )
        for _ in range(plan.workers):
            self._start(told)
        self._until(lambda: self._events[ISSUED] >= plan.leases, "issuing", told)
        killed, failed = self._killed, 0
        if plan.down:
            subject.admin.close()
            provider.stop()
            self._order(END)
            what = "taking back from a provider that is down"
            self._until(self._all_tried, what, replace(told, issue=False, hold=False, at_once=0))
            killed, failed = self._killed - killed, self._events[LEFT_OPEN]
            self._order()
            self._until(self._idle, "ending")
            provider.start()
        else:
            self._order()
            self._until(self._idle, "taking back")
            killed = 0
        # Two hours later: whatever was left is due, and nobody's claim holds.
        for _ in range(plan.workers):
            self._start(replace(told, issue=False, hold=False, last=True, at_once=0, ahead_s=_LATER_S))
        self._order()
        self._until(self._idle, "sweeping")
        return {"killed_while_down": killed, "failed_while_down": failed}

    def _start(self, told: Told) -> None:
        self._started += 1
        told = replace(told, number=self._started)
        with (Path(told.folder) / f"{told.number}.log").open("wb") as log:
            worker = subprocess.Popen(
                [sys.executable, "-m", "chaos.worker"],
                cwd=_TESTS,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
            )
        self._workers[told.number] = worker
        self._write(worker, json.dumps(asdict(told)).encode() + b"\n")
        self._selector.register(_pipe(worker.stdout), selectors.EVENT_READ, (told.number, Path(log.name)))

    def _order(self, what: bytes = b"") -> None:
        """Tell all; without words, that they shall finish."""
        for worker in self._workers.values():
            self._write(worker, what)
            if not what:
                _pipe(worker.stdin).close()

    def _write(self, worker: subprocess.Popen[bytes], what: bytes) -> None:
        pipe = _pipe(worker.stdin)
        pipe.write(what)
        pipe.flush()

    def _until(self, over: Callable[[], bool], what: str, next_one: Told | None = None) -> None:
        """Count what the workers say until ``over``. With a ``next_one``, kill now and then, and start that instead."""
        began = time.monotonic()
        since = self._events.total()
        while not over():
            if time.monotonic() - began > _PATIENCE_S:
                raise TimeoutError(f"{what}: not over after {_PATIENCE_S:g} s: {self._numbers()}")
            for key, _ in self._selector.select(1.0):
                self._read(*key.data)
            if next_one is not None and self._events.total() - since >= self._plan.kill_every:
                since = self._events.total()
                self._kill(next_one)
            self._show(what)

    def _read(self, number: int, log: Path) -> None:
        worker = self._workers[number]
        said = os.read(_pipe(worker.stdout).fileno(), 1 << 16)
        self._events.update(said.decode())
        if said:
            return
        self._selector.unregister(_pipe(worker.stdout))
        del self._workers[number]
        with worker:
            code = worker.wait()
        if code not in (0, -signal.SIGKILL):
            raise RuntimeError(f"worker {number}: exit code {code}\n{log.read_text()[-_TAIL:]}")

    def _kill(self, next_one: Told) -> None:
        self._workers[self._chance.choice(sorted(self._workers))].kill()
        self._killed += 1
        self._start(next_one)

    def _idle(self) -> bool:
        return not self._workers

    def _all_tried(self) -> bool:
        """Whether each lease that was issued is being taken back, or could not be."""
        query = """
        SELECT count(*) FROM leasehold_leases WHERE state IN ('active', 'revoking') AND attempts = 0
        AND coalesce(claimed_until, 0) < extract(epoch FROM now())"""
        with psycopg.connect(self._books, autocommit=True) as books:
            return books.execute(query).fetchone() == (0,)

    def _show(self, what: str) -> None:
        if time.monotonic() - self._shown > _SHOW_S:
            self._shown = time.monotonic()
            self._progress(f"{what}: {self._numbers()}")

    def _numbers(self) -> str:
        said = {"issued": ISSUED, "not issued": NOT_ISSUED, "closed": CLOSED, "left open": LEFT_OPEN, "swept": SWEPT}
        counts = ", ".join(f"{self._events[letter]} {name}" for name, letter in said.items())
        return f"{counts}, {self._killed} killed"

    def _count(self, provider: PostgresServer) -> dict[str, int]:
        created: list[str] = []
        dropped: set[str] = set()
        reused: set[str] = set()
        with provider.log.open(errors="replace") as log:
            for verb, name in (found for line in log for found in _ROLE.findall(line)):
                if verb == "DROP":
                    dropped.add(name)
                    continue
                created.append(name)
                reused |= {name} & dropped
        with provider.admin() as admin:
            roles = admin.execute("SELECT rolname FROM pg_roles WHERE starts_with(rolname, %s)", (NAME_PREFIX,))
            left = len(roles.fetchall())
        with psycopg.connect(self._books, autocommit=True) as books:
            rows = books.execute("SELECT name, closed IS NULL, state FROM leasehold_leases").fetchall()
        names = Counter(name for name, _, _ in rows)
        return {
            "entries": len(rows),
            "revoked": sum(state == "revoked" for _, _, state in rows),
            "at_provider": len({*created}),
            "unknown": len({*created} - {*names}),
            "left": left,
            "open": sum(is_open for _, is_open, _ in rows),
            "reused": len(reused | {name for name, count in names.items() if count > 1}),
        }


def _pipe(pipe: IO[bytes] | None) -> IO[bytes]:
    if pipe is None:
        raise RuntimeError("a worker was started without pipes")
    return pipe
