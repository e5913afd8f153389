"""How long after a revocation a request is still accepted: through a compartment, and at each provider."""

from __future__ import annotations

import asyncio
import http.client
import socket
import sys
import threading
import time
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.contenders import HOST
from benchmarks.cycle import credential, product
from benchmarks.measure import median
from crash.run import SUBJECTS
from leasehold.broker.lease.machine import State
from leasehold.core import wire
from servers.compartments import Compartment
from servers.postgres import PostgresServer

if TYPE_CHECKING:
    from benchmarks.product import Product
    from contract.subject import Session, Subject

_CLIENTS = 4
_LOADED_S = 0.2
_PATIENCE_S = 20.0
_TTL_S = 900


def percentile(values: list[float], share: float) -> float:
    """The smallest value that is not less than ``share`` of all."""
    return sorted(values)[max(0, -(-int(len(values) * share * 1000) // 1000) - 1)]


def compartments(product: Product, count: int) -> dict[str, float]:
    """Revoke a credential in each of ``count`` tasks while four clients in there ask as fast as they can."""
    product.run("true")
    broker = product.workspace.parent / "run" / "leasehold" / "broker.sock"
    lags: list[float] = []
    requests: list[float] = []
    for _ in range(count):
        with Compartment(broker, product.config, product.workspace) as compartment:
            clients = [_Client(compartment) for _ in range(_CLIENTS)]
            for client in clients:
                client.start()
            time.sleep(_LOADED_S)
            began = time.perf_counter()
            _revoke(broker, str(compartment.reply["task"]))
            for client in clients:
                client.join(_PATIENCE_S)
                if client.is_alive():
                    raise RuntimeError("a revoked credential was still used")
            requests += [took for client in clients for at, took in client.accepted if at <= began]
            lags.append(max(0.0, max(at for client in clients for at, _ in client.accepted) - began))
    return {
        "revoke_lag_p50_ms": median(lags) * 1000,
        "revoke_lag_p99_ms": percentile(lags, 0.99) * 1000,
        "revoke_lag_request_p99_ms": percentile(requests, 0.99) * 1000,
        "revoke_lag_vs_request_p99": percentile(lags, 0.99) / percentile(requests, 0.99),
    }


class _Client(threading.Thread):
    """Asks over one connection until it is refused. ``accepted``: when each answer came, and after what time."""

    def __init__(self, compartment: Compartment) -> None:
        super().__init__(daemon=True)
        self.accepted: list[tuple[float, float]] = []
        self._connection = http.client.HTTPConnection(HOST)
        self._connection.auto_open = 0
        self._connection.sock = compartment.connect(HOST)

    def run(self) -> None:
        try:
            while True:
                began = time.perf_counter()
                self._connection.request("GET", "/small")
                response = self._connection.getresponse()
                response.read()
                if response.status != 200:
                    return
                ended = time.perf_counter()
                self.accepted.append((ended, ended - began))
        except (OSError, http.client.HTTPException):
            return
        finally:
            self._connection.close()


def _revoke(broker: Path, task: str) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.connect(str(broker))
        wire.send(sock, {"op": "lease.revoke", "task": task})
        answer = wire.receive(sock)
        if answer is None or "error" in answer[0]:
            raise RuntimeError(f"lease.revoke: {answer}")


def providers(folder: Path, count: int) -> dict[str, float]:
    """Take back ``count`` leases of each kind with a real server while their client asks; nothing stands between."""
    figures: dict[str, float] = {}
    with ExitStack() as stack:
        server = PostgresServer()
        stack.callback(server.close)
        for kind, opening in SUBJECTS.items():
            print(f"bench: revoke lag of {kind}", file=sys.stderr, flush=True)
            subject = opening(stack, server)
            lags = asyncio.run(_lags(kind, subject, folder / kind, count))
            figures[f"revoke_lag_{kind}_p50_ms"] = median(lags) * 1000
            figures[f"revoke_lag_{kind}_p99_ms"] = percentile(lags, 0.99) * 1000
    return figures


async def _lags(kind: str, subject: Subject, folder: Path, count: int) -> list[float]:
    issuing = product(folder)
    wanted = credential(kind, subject.parameters())
    found = []
    for _ in range(count):
        live = await issuing.issue("bench", wanted, subject.secret, time.time() + _TTL_S)
        user = _User(await asyncio.to_thread(subject.open, live.issued.material))
        user.start()
        await asyncio.sleep(_LOADED_S / 4)
        began = time.perf_counter()
        ended = await issuing.end(live.entry)
        await asyncio.to_thread(user.join, _PATIENCE_S)
        if ended.state is not State.REVOKED or user.is_alive():
            raise RuntimeError(f"{kind}: a lease is {ended.state}: {ended.error}")
        found.append(max(0.0, user.last - began))
    await issuing.stop()
    return found


class _User(threading.Thread):
    """Asks over its session until it has ended. ``last``: when the last answer came."""

    def __init__(self, session: Session) -> None:
        super().__init__(daemon=True)
        self.last = 0.0
        self._session = session

    def run(self) -> None:
        while self._session.alive():
            self.last = time.perf_counter()
        self._session.close()
