"""`make bench`: the budgets of the design, measured side by side in one run, written to build/bench.json."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from benchmarks import contenders, lag  # noqa: E402  # the paths above come first
from benchmarks.cycle import cycles  # noqa: E402
from benchmarks.measure import Load, loads, median, parse, timed, wrk  # noqa: E402
from benchmarks.product import WORKERS, Product  # noqa: E402
from benchmarks.restart import restarts  # noqa: E402
from benchmarks.scale import thousand  # noqa: E402
from benchmarks.upstream import Upstream  # noqa: E402

TARGETS = {
    "http_rps_vs_envoy": (">=", 0.9),
    "http_rps_vs_best_peer": (">=", 2.5),
    "bulk_vs_direct": (">=", 0.8),
    "latency_added_vs_envoy_p50": ("<=", 1.2),
    "latency_added_vs_envoy_p99": ("<=", 1.5),
    "startup_warm_vs_python": ("<=", 8.0),
    "startup_cold_vs_python": ("<=", 30.0),
    "compartment_mb": ("<=", 0.3),
    "compartment_1000th_vs_10th": ("<=", 2.0),
    "lease_cycle_vs_bare_sql": (">=", 0.5),
    "restart_1m_vs_1k": ("<=", 1.5),
    "revoke_lag_vs_request_p99": ("<=", 5.0),
}
PARTS = ("requests", "leases")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=int, default=4, help="length of one load (default 4)")
    parser.add_argument("--rounds", type=int, default=3, help="rounds of each figure, taken in turns (default 3)")
    parser.add_argument("--compartments", type=int, default=1000)
    parser.add_argument("--bulk-gb", type=float, default=5.0, help="download in GB; the upload is 2/5 of it")
    parser.add_argument("--stream-s", type=int, default=60, help="length of the held stream; 3600 for the whole hour")
    parser.add_argument("--revocations", type=int, default=100, help="of each kind (default 100)")
    parser.add_argument("--part", choices=PARTS, help="measure this part, and keep the other figures of the last run")
    options = parser.parse_args()
    out = ROOT / "build" / "bench.json"
    figures: dict[str, float] = json.loads(out.read_text()) if options.part and out.exists() else {}
    with tempfile.TemporaryDirectory(prefix="leasehold-bench-") as name, ExitStack() as stack:
        folder = Path(name)
        upstream = Upstream(folder, int(options.bulk_gb * 1e9))
        stack.callback(upstream.close)
        product = stack.enter_context(Product(folder, upstream))
        if options.part != "leases":
            started(product, options.rounds, figures)
            loaded(product, upstream, folder, options, figures)
            carried(product, upstream, options, figures)
            figures |= thousand(product, options.compartments)
        if options.part != "requests":
            leased(product, folder / "leases", options, figures)
    out.parent.mkdir(exist_ok=True)
    out.write_text(json.dumps(figures, indent=2, sort_keys=True) + "\n")
    report(figures)
    return 0


def started(product: Product, rounds: int, figures: dict[str, float]) -> None:
    """`leasehold run -- true` beside `python3 -c pass`, with the daemon there and without."""
    say("start")
    product.run("true")
    bare, warm = [], []
    for _ in range(rounds * 7):
        bare.append(timed(_python))
        warm.append(timed(lambda: product.run("true")))
    cold = []
    for _ in range(rounds):
        product.stop()
        cold.append(timed(lambda: product.run("true")))
    figures["python_ms"] = median(bare) * 1000
    figures["startup_warm_ms"] = median(warm) * 1000
    figures["startup_cold_ms"] = median(cold) * 1000
    figures["startup_warm_vs_python"] = median(warm) / median(bare)
    figures["startup_cold_vs_python"] = median(cold) / median(bare)


def _python() -> subprocess.CompletedProcess[str]:
    return subprocess.run(["/usr/bin/python3", "-c", "pass"], text=True, capture_output=True, check=False)


def loaded(
    product: Product, upstream: Upstream, folder: Path, options: argparse.Namespace, figures: dict[str, float]
) -> None:
    """Requests/s and latency, all contenders in turns within each round."""
    samples: dict[str, list[Load]] = {}
    quiet: dict[str, list[Load]] = {}
    for number in range(options.rounds):
        for index, start in enumerate(
            (
                lambda: contenders.direct(upstream),
                lambda: contenders.bare_envoy(upstream, folder, 19701, WORKERS),
                lambda: contenders.mitmproxy(upstream, folder, 19702),
                lambda: contenders.nono(upstream, folder, 19703),
            )
        ):
            with start() as peer:
                say(f"round {number + 1}: {peer.name}")
                host = (*peer.headers, f"Host: {contenders.HOST}")
                command = wrk(f"{peer.url}/small", connections=32, seconds=options.seconds, headers=host)
                samples.setdefault(peer.name, []).append(_load(command))
                if index < 2:
                    command = wrk(f"{peer.url}/small", connections=1, seconds=options.seconds, headers=host)
                    quiet.setdefault(peer.name, []).append(_load(command))
        say(f"round {number + 1}: Leasehold")
        url = f"https://{contenders.HOST}/small"
        done = product.run(*wrk(url, connections=32, seconds=options.seconds))
        samples.setdefault("Leasehold", []).append(parse(done.stdout))
        done = product.run(*wrk(url, connections=1, seconds=options.seconds))
        quiet.setdefault("Leasehold", []).append(parse(done.stdout))
    result = {name: loads(rounds) for name, rounds in samples.items()}
    for name, load in result.items():
        key = name.split()[0].lower().replace("-py", "") if name != "bare Envoy" else "envoy"
        figures[f"rps_{key}"] = load.rps
        if load.bad:
            raise RuntimeError(f"{name}: {load.bad} answers were no 2xx")
    ours = result["Leasehold"].rps
    figures["http_rps_vs_envoy"] = ours / result["bare Envoy"].rps
    peers = [load.rps for name, load in result.items() if name.startswith(("mitmproxy", "nono"))]
    figures["http_rps_vs_best_peer"] = ours / max(peers)
    calm = {name: loads(rounds) for name, rounds in quiet.items()}
    for part in ("p50", "p99"):
        direct, envoy, leasehold = (
            getattr(calm[name], f"{part}_ms") for name in ("direct TLS", "bare Envoy", "Leasehold")
        )
        figures[f"latency_direct_{part}_ms"] = direct
        figures[f"latency_envoy_{part}_ms"] = envoy
        figures[f"latency_leasehold_{part}_ms"] = leasehold
        figures[f"latency_added_vs_envoy_{part}"] = (leasehold - direct) / (envoy - direct)


def _load(command: list[str]) -> Load:
    done = subprocess.run(command, text=True, capture_output=True, check=True)
    return parse(done.stdout)


def carried(product: Product, upstream: Upstream, options: argparse.Namespace, figures: dict[str, float]) -> None:
    """A long download, a long upload and a held stream in constant memory."""
    size = int(options.bulk_gb * 1e9)
    fetch = ["curl", "-fsS", "-o", "/dev/null"]
    say(f"download of {options.bulk_gb:g} GB, direct and through a compartment")
    trust = ["--cacert", str(upstream.ca.path), "--resolve", f"{contenders.HOST}:443:{upstream.address}"]
    url = f"https://{contenders.HOST}/bulk"
    direct, ours = [], []
    before = product.envoy_mb()
    for _ in range(2):
        direct.append(
            timed(
                lambda: subprocess.run([*fetch, *trust, "--http1.1", url], text=True, capture_output=True, check=False)
            )
        )
        ours.append(timed(lambda: product.run(*fetch, url)))
    figures["bulk_direct_mb_s"] = size / 1e6 / median(direct)
    figures["bulk_leasehold_mb_s"] = size / 1e6 / median(ours)
    figures["bulk_vs_direct"] = median(direct) / median(ours)
    upload = int(size * 2 / 5)
    say(f"upload of {upload / 1e9:g} GB")
    source = f"head -c {upload} /dev/zero | curl -fsS -T - -o /dev/null https://{contenders.HOST}:8443/"
    took = timed(lambda: product.run("sh", "-c", source))
    figures["upload_mb_s"] = upload / 1e6 / took
    figures["bulk_memory_growth_mb"] = product.envoy_mb() - before
    say(f"a stream of {options.stream_s} s")
    held = f"--limit-rate 1k --max-time {options.stream_s}"
    done = product.run("sh", "-c", f"curl -sS {held} -o /dev/null {url}; test $? = 28")
    figures["stream_s"] = float(options.stream_s) if done.returncode == 0 else 0.0


def leased(product: Product, folder: Path, options: argparse.Namespace, figures: dict[str, float]) -> None:
    """A lease's life, a revocation while requests run, and a start beside many leases."""
    folder.mkdir()
    say("a lease's life beside bare SQL")
    figures |= cycles(folder / "cycle", options.rounds, options.revocations)
    say("revocations while requests run")
    figures |= lag.compartments(product, options.revocations)
    figures |= lag.providers(folder, options.revocations)
    say("restarts with 1,000 and 1,000,000 leases in the ledger")
    figures |= restarts(folder / "restart", options.rounds)


def report(figures: dict[str, float]) -> None:
    """Print figures and verdicts. What is missed stands with its cause in docs/performance.md and is no failure."""
    missed = 0
    print(f"\n{'figure':34} {'value':>12}  target")
    for key in sorted(figures):
        sign, target = TARGETS.get(key, ("", 0.0))
        met = not sign or (figures[key] >= target if sign == ">=" else figures[key] <= target)
        missed += not met
        verdict = f"{sign} {target:g} {'met' if met else 'MISSED'}" if sign else ""
        print(f"{key:34} {figures[key]:12.3f}  {verdict}")
    print(f"\nwritten to build/bench.json; {missed} of {len(TARGETS)} targets missed; {os.cpu_count()} cores")
    if missed:
        print("why: docs/performance.md")


def say(what: str) -> None:
    print(f"bench: {what}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
