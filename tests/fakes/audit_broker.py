"""A broker that answers the audit's questions only, from a real log, over a real socket."""

from __future__ import annotations

import queue
import socket
import threading
from pathlib import Path
from typing import Any

from leasehold.broker.audit.log import AuditLog
from leasehold.broker.audit.query import Filter
from leasehold.core import wire
from leasehold.core.errors import LeaseholdError


class AuditBroker:
    """Listens at ``path``. ``following`` is set once a client follows; ``stop`` ends it and every client."""

    def __init__(self, path: Path, log: AuditLog) -> None:
        self._log = log
        self._ended = threading.Event()
        self._fresh: queue.Queue[Any] = queue.Queue()
        self.following = threading.Event()
        self._listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listening.bind(str(path))
        self._listening.listen()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        if self._ended.is_set():
            return
        self._ended.set()
        self._fresh.put(None)
        self._listening.shutdown(socket.SHUT_RDWR)
        self._thread.join(5)
        self._listening.close()

    def _serve(self) -> None:
        while not self._ended.is_set():
            try:
                client, _ = self._listening.accept()
            except OSError:
                return
            with client:
                while (received := wire.receive(client)) is not None:
                    try:
                        done = self._answer(client, received[0])
                    except LeaseholdError as e:
                        wire.send(client, {"error": e.as_dict()})
                        done = False
                    if done:
                        break

    def _answer(self, client: socket.socket, message: dict[str, Any]) -> bool:
        if message["op"] == "audit.query":
            wire.send(client, {"ok": True, **self._log.query(Filter.parse(message)).as_dict()})
        elif message["op"] == "audit.verify":
            wire.send(client, {"ok": True, **self._log.verify().as_dict()})
        else:
            self._tail(client, message)
            return True
        return False

    def _tail(self, client: socket.socket, message: dict[str, Any]) -> None:
        for record in self._log.tail(message["count"], self._fresh.put if message["follow"] else None):
            wire.send(client, {"record": record.as_dict()})
        if message["follow"]:
            self.following.set()
            while (record := self._fresh.get()) is not None:
                wire.send(client, {"record": record.as_dict()})
