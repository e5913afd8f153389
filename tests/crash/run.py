"""`make crash`: every point, every issuer with a real server, both ledgers; the table, and build/crash.json."""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests"))

from contract.mysql_subject import MariaSubject  # noqa: E402  # the path above comes first
from contract.postgres_subject import DatabaseSubject  # noqa: E402
from contract.redis_subject import RedisSubject  # noqa: E402
from contract.subject import Subject  # noqa: E402
from crash.matrix import Case, cases  # noqa: E402
from crash.worker import POINTS  # noqa: E402
from servers.mariadb import MariaServer  # noqa: E402
from servers.postgres import PostgresServer  # noqa: E402
from servers.redis import RedisServer  # noqa: E402

Open = Callable[[ExitStack, PostgresServer], Subject]


def _postgres(stack: ExitStack, server: PostgresServer) -> Subject:
    subject = DatabaseSubject(server)
    stack.callback(subject.close)
    return subject


def _mysql(stack: ExitStack, _server: PostgresServer) -> Subject:
    server = MariaServer()
    stack.callback(server.close)
    subject = MariaSubject(server)
    stack.callback(subject.close)
    return subject


def _redis(stack: ExitStack, _server: PostgresServer) -> Subject:
    server = RedisServer()
    stack.callback(server.close)
    subject = RedisSubject(server)
    stack.callback(subject.close)
    return subject


SUBJECTS: dict[str, Open] = {"postgres": _postgres, "mysql": _mysql, "redis": _redis}


def main() -> int:
    found: list[Case] = []
    with ExitStack() as stack:
        server = PostgresServer()
        stack.callback(server.close)
        ledgers = ("", server.database("ledger"))
        for kind, open_subject in SUBJECTS.items():
            subject = open_subject(stack, server)
            for ledger in ledgers:
                print(f"crash: {kind}, ledger on {'PostgreSQL' if ledger else 'SQLite'}", flush=True)
                found += told(cases(kind, subject, ledger))
    sums = Counter({"cases": len(found), "unknown_alive": 0, "alive_after_sweep": 0})
    for case in found:
        sums["unknown_alive"] += case.unknown
        sums["alive_after_sweep"] += case.left
    (ROOT / "build").mkdir(exist_ok=True)
    (ROOT / "build" / "crash.json").write_text(json.dumps(dict(sums), indent=2) + "\n")
    print(", ".join(f"{name.replace('_', ' ')}: {number}" for name, number in sums.items()))
    expected = len(POINTS) * 2 * len(SUBJECTS)
    return 0 if sums["cases"] == expected and not (sums["unknown_alive"] or sums["alive_after_sweep"]) else 1


def told(found: Iterator[Case]) -> Iterator[Case]:
    """Pass them on, and print each as a line of the table."""
    print(f"  {'killed at':15} {'alive':>6} {'unknown':>8} {'after the sweep':>16}")
    for case in found:
        print(f"  {case.point:15} {case.alive:6} {case.unknown:8} {case.left:16}", flush=True)
        yield case


if __name__ == "__main__":
    sys.exit(main())
