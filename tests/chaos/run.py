"""`make chaos`: 10,000 leases under fire, and 10,000 whose provider is down when they end; build/chaos.json."""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import asdict
from pathlib import Path
from secrets import token_hex

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests"))

from chaos.storm import MEMBER, Plan, Result, Storm  # noqa: E402  # the path above comes first
from servers.postgres import PostgresServer  # noqa: E402


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--leases", type=int, default=10_000)
    parser.add_argument("--workers", type=int, default=8)
    parser.add_argument("--at-once", type=int, default=3, help="leases that a worker has in hand (default 3)")
    parser.add_argument("--kill-every", type=int, default=600, help="events from one kill to the next (default 600)")
    parser.add_argument("--seed", default=token_hex(4), help="of faults and victims; printed, so that it can be given")
    options = parser.parse_args()
    print(f"chaos: seed {options.seed}", flush=True)
    began = time.monotonic()
    results: dict[str, Result] = {}
    ledgers = PostgresServer()
    try:
        with ledgers.admin() as admin:
            admin.execute("ALTER SYSTEM SET log_statement = 'none'")
            admin.execute("SELECT pg_reload_conf()")
        for down in (False, True):
            plan = Plan(
                leases=options.leases,
                workers=options.workers,
                at_once=options.at_once,
                kill_every=options.kill_every,
                down=down,
                grants=MEMBER,
                seed=options.seed,
            )
            storm = Storm(
                plan, ledgers, lambda line: print(f"chaos: {time.monotonic() - began:4.0f} s {line}", flush=True)
            )
            name = "provider_down" if down else "under_fire"
            results[name] = storm.run()
            print(f"chaos: {name}: {json.dumps(asdict(results[name]))}", flush=True)
    finally:
        ledgers.close()
    (ROOT / "build").mkdir(exist_ok=True)
    found = {name: asdict(result) for name, result in results.items()}
    (ROOT / "build" / "chaos.json").write_text(json.dumps({"seed": options.seed, **found}, indent=2) + "\n")
    return 1 if any(result.lost() for result in results.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
