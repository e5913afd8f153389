"""How long a broker takes from its start to work on leases, by how many leases its ledger has ever had."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

from sqlalchemy import Engine, insert
from sqlalchemy import text as sql_text

from benchmarks.cycle import durable
from benchmarks.measure import median
from leasehold.broker.lease.schema import LEASES
from leasehold.broker.lease.store import PostgresLedger, SqliteLedger, SqlLedger
from leasehold.core.secret import Secret
from servers.postgres import PostgresServer

FEW, MANY = 1_000, 1_000_000
_OPEN = 100
"""Of them are open: those of one broker that has been killed."""
_BATCH = 20_000
_NOW = 1_700_000_000.0
_PATIENCE_S = 120
_READY = """
import json, sys, time
from pathlib import Path
from leasehold.core.secret import Secret
told = json.load(sys.stdin)
if told["url"]:
    from leasehold.broker.lease.store import PostgresLedger
    ledger = PostgresLedger(Secret(told["url"].encode()))
else:
    from leasehold.broker.lease.store import SqliteLedger
    ledger = SqliteLedger(Path(told["folder"]))
now = time.time()
ledger.beat(told["owner"], now)
taken = ledger.orphaned(now, now, keep=[told["owner"]])
claimed = ledger.claim(now, 8, told["owner"], now + 1)
assert claimed, "there is nothing to take over"
print("ready", flush=True)
ledger.close()
"""
"""What a daemon does before it can work on leases: the same calls as ``Issuing.take_over`` and the first sweep."""


def restarts(folder: Path, rounds: int) -> dict[str, float]:
    """Medians in ms for each database and size, the sizes in turns; the key is the worse of both databases."""
    figures: dict[str, float] = {}
    server = PostgresServer()
    try:
        durable(server)
        for kind in ("sqlite", "postgres"):
            told = {}
            for count in (FEW, MANY):
                place = folder / f"{kind}-{count}"
                place.mkdir(mode=0o700, parents=True)
                url = server.database(f"restart_{count}") if kind == "postgres" else ""
                told[count] = {"folder": str(place), "url": url}
                ledger = PostgresLedger(Secret(url.encode())) if url else SqliteLedger(place)
                filled(ledger, count)
                ledger.close()
                if url:
                    # As a server does by itself within the minute.
                    with server.admin(f"restart_{count}") as admin:
                        admin.execute("VACUUM ANALYZE leasehold_leases")
            times: dict[int, list[float]] = {FEW: [], MANY: []}
            for number in range(rounds * 3):
                for count in (FEW, MANY):
                    times[count].append(_restarted(told[count] | {"owner": f"broker-{number}"}))
            for count, name in ((FEW, "1k"), (MANY, "1m")):
                figures[f"restart_{kind}_{name}_ms"] = median(times[count]) * 1000
            figures[f"restart_{kind}_1m_vs_1k"] = median(times[MANY]) / median(times[FEW])
    finally:
        server.close()
    figures["restart_1m_vs_1k"] = max(figures["restart_sqlite_1m_vs_1k"], figures["restart_postgres_1m_vs_1k"])
    return figures


def filled(ledger: SqlLedger, count: int) -> None:
    """Write ``count`` leases, the last hundred of them open."""
    engine: Engine = ledger._writing
    with engine.begin() as connection:
        if engine.dialect.name == "postgresql":
            connection.execute(sql_text("SET synchronous_commit = off"))
        for first in range(0, count, _BATCH):
            rows = [_row(number, count) for number in range(first, min(first + _BATCH, count))]
            connection.execute(insert(LEASES), rows)


def _row(number: int, count: int) -> dict[str, object]:
    is_open = number >= count - _OPEN
    return {
        "id": f"{number * 2654435761 % (1 << 32):020d}",
        "key": f"task{number % 5000}/orders/{number}",
        "owner": "broker-killed",
        "task": f"task{number % 5000}",
        "credential": "orders",
        "issuer": "postgres",
        "name": f"lh_{number:020d}",
        "revocability": "now",
        "recipe": b"r" * 300,
        "state": "active" if is_open else "revoked",
        "epoch": 1 if is_open else 3,
        "created": _NOW + number,
        "expires": _NOW * 2,
        "due": _NOW * 2 if is_open else _NOW + number,
        "closed": None if is_open else _NOW + number,
        "attempts": 0,
        "error": "",
    }


def _restarted(told: dict[str, str]) -> float:
    """Seconds from the start of a process to the first lease that it works on."""
    began = time.perf_counter()
    command = [sys.executable, "-c", _READY]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        if process.stdin is None or process.stdout is None:
            raise RuntimeError("a process was started without pipes")
        process.stdin.write(json.dumps(told))
        process.stdin.close()
        ready = process.stdout.readline()
        took = time.perf_counter() - began
    if ready != "ready\n" or process.wait(_PATIENCE_S) != 0:
        raise RuntimeError(f"a broker did not become ready: exit code {process.returncode}")
    return took
