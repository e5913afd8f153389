"""A thousand compartments on one node: memory and time of each, and a change that reaches one only."""

from __future__ import annotations

import ctypes
import os
import socket
import threading
import time
from typing import TYPE_CHECKING

from leasehold.core import wire

if TYPE_CHECKING:
    from benchmarks.product import Product

_CLONE_NEWNET = 0x40000000


def namespace() -> int:
    """A descriptor of a new network namespace; a thread makes it, so that this process stays where it is."""
    found: list[int] = []

    def make() -> None:
        if ctypes.CDLL(None, use_errno=True).unshare(_CLONE_NEWNET) == 0:
            found.append(os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC))

    thread = threading.Thread(target=make)
    thread.start()
    thread.join()
    if not found:
        raise OSError("cannot make a network namespace: run the benchmark as root")
    return found[0]


def open_task(product: Product) -> tuple[socket.socket, dict[str, object], float]:
    """Open one task as the launcher does; the socket is its life line. Also the seconds that it took."""
    netns = namespace()
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    sock.connect(str(product.workspace.parent / "run" / "leasehold" / "broker.sock"))
    message = {
        "op": "task.open",
        "class": "local",
        "profile": "generic",
        "purpose": "bench",
        "workspace": str(product.workspace),
        "ttl_s": None,
        "grants": None,
        "config": str(product.config),
        "mode": "netns",
        "java": False,
        "command": ["true"],
    }
    began = time.perf_counter()
    wire.send(sock, message, [netns])
    answer = wire.receive(sock)
    took = time.perf_counter() - began
    os.close(netns)
    if answer is None or "error" in answer[0]:
        raise RuntimeError(f"task.open: {answer}")
    return sock, answer[0], took


def thousand(product: Product, count: int) -> dict[str, float]:
    """Open ``count`` compartments with one credential each; close them all at the end."""
    product.run("true")
    held, times = [], []
    base = product.envoy_mb()
    try:
        for _ in range(count):
            sock, _, took = open_task(product)
            held.append(sock)
            times.append(took)
        grown = product.envoy_mb() - base
    finally:
        for sock in held:
            sock.close()
    early, late = sorted(times[5:15])[5], sorted(times[-10:])[5]
    return {
        "compartments": float(count),
        "compartment_mb": grown / count,
        "compartment_10th_ms": early * 1000,
        "compartment_1000th_ms": late * 1000,
        "compartment_1000th_vs_10th": late / early,
    }
