"""How each figure is taken: the same client, the same upstream, rounds taken in turns, medians."""

from __future__ import annotations

import re
import statistics
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

_UNITS_MS = {"us": 0.001, "ms": 1.0, "s": 1000.0, "m": 60_000.0}


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """One run of wrk: requests/s, latencies in ms, and answers that were no 2xx."""

    rps: float
    p50_ms: float
    p99_ms: float
    bad: int


def wrk(url: str, *, connections: int, seconds: int, headers: Sequence[str] = ()) -> list[str]:
    """The command: one thread, so that the client has one core at most."""
    command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--latency", "--timeout", "10s"]
    for header in headers:
        command += ["-H", header]
    return [*command, url]


def parse(output: str) -> Load:
    """Read wrk's report; ``ValueError`` when it is none."""
    rps = re.search(r"Requests/sec:\s+([\d.]+)", output)
    p50 = re.search(r"50%\s+([\d.]+)(us|ms|s|m)", output)
    p99 = re.search(r"99%\s+([\d.]+)(us|ms|s|m)", output)
    if rps is None or p50 is None or p99 is None:
        raise ValueError(f"wrk said: {output[-500:]}")
    bad = re.search(r"Non-2xx or 3xx responses: (\d+)", output)
    return Load(
        rps=float(rps[1]),
        p50_ms=float(p50[1]) * _UNITS_MS[p50[2]],
        p99_ms=float(p99[1]) * _UNITS_MS[p99[2]],
        bad=int(bad[1]) if bad else 0,
    )


def median(values: Sequence[float]) -> float:
    return statistics.median(values)


def loads(samples: Sequence[Load]) -> Load:
    """The median of each figure; a bad answer in any round counts."""
    return Load(
        rps=median([s.rps for s in samples]),
        p50_ms=median([s.p50_ms for s in samples]),
        p99_ms=median([s.p99_ms for s in samples]),
        bad=sum(s.bad for s in samples),
    )


def timed(command: Callable[[], subprocess.CompletedProcess[str]]) -> float:
    """Wall seconds of one command that has to succeed."""
    began = time.perf_counter()
    done = command()
    took = time.perf_counter() - began
    if done.returncode != 0:
        raise RuntimeError(f"{done.args} failed: {done.stderr[-800:]}")
    return took
