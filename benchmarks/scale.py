"""A thousand compartments on one node: memory and time of each, and a change that reaches one only."""

from __future__ import annotations

import http.client
import time
from contextlib import ExitStack
from typing import TYPE_CHECKING

from benchmarks.contenders import HOST
from servers.compartments import Compartment

if TYPE_CHECKING:
    from benchmarks.product import Product

_CUT_S = 10.0


def thousand(product: Product, count: int) -> dict[str, float]:
    """Open ``count`` compartments with one credential each, use each, end one, use the others; then end them all."""
    product.run("true")
    broker = product.workspace.parent / "run" / "leasehold" / "broker.sock"
    base = product.envoy_mb()
    with ExitStack() as stack:
        many = [stack.enter_context(Compartment(broker, product.config, product.workspace)) for _ in range(count)]
        opened = product.envoy_mb()
        began = time.perf_counter()
        for compartment in many:
            _use(compartment)
        used_s = time.perf_counter() - began
        connected = product.envoy_mb()
        cut_s = _end(many[count // 2])
        for compartment in many:
            if compartment is not many[count // 2]:
                _use(compartment)  # over the connection that it had
    times = [compartment.opened_s for compartment in many]
    early, late = sorted(times[5:15])[5], sorted(times[-10:])[5]
    return {
        "compartments": float(count),
        "compartment_mb": (opened - base) / count,
        "compartment_connected_mb": (connected - base) / count,
        "compartment_10th_ms": early * 1000,
        "compartment_1000th_ms": late * 1000,
        "compartment_1000th_vs_10th": late / early,
        "compartment_first_use_ms": used_s / count * 1000,
        "compartment_end_ms": cut_s * 1000,
    }


def _use(compartment: Compartment) -> None:
    status, _ = compartment.get(HOST, "/small")
    if status != 200:
        raise RuntimeError(f"a compartment's request was answered with {status}")


def _end(compartment: Compartment) -> float:
    """Seconds from a task's end until its open connection is cut."""
    began = time.perf_counter()
    compartment.end()
    while time.perf_counter() - began < _CUT_S:
        try:
            compartment.get(HOST, "/small")
        except (OSError, http.client.HTTPException):
            return time.perf_counter() - began
    raise RuntimeError("the connection of an ended task was not cut")
