"""A DNS server (RFC 1035, UDP) that knows nothing and writes down who was asked for."""

from __future__ import annotations

import socket
import struct
import threading

_NXDOMAIN = 3


class DnsStub:
    """``queries()``: the names asked for, in order, as they came (case kept)."""

    def __init__(self, address: str, port: int = 53) -> None:
        self.address = address
        self.port = port
        self._names: list[str] = []
        self._lock = threading.Lock()
        self._closing = threading.Event()
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind((address, port))
        self._thread = threading.Thread(target=self._serve, name="dns-stub", daemon=True)
        self._thread.start()

    def queries(self) -> list[str]:
        with self._lock:
            return list(self._names)

    def clear(self) -> None:
        with self._lock:
            self._names.clear()

    def close(self) -> None:
        """End the thread; idempotent."""
        if self._thread.is_alive():
            self._closing.set()
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
                sender.sendto(b"", (self.address, self.port))
            self._thread.join(5)
            self._socket.close()

    def _serve(self) -> None:
        while True:
            query, peer = self._socket.recvfrom(4096)
            if self._closing.is_set():
                return
            if len(query) < 17:
                continue
            name, end = _question(query)
            with self._lock:
                self._names.append(name)
            flags = 0x8180 | _NXDOMAIN
            head = query[:2] + struct.pack("!HHHHH", flags, 1, 0, 0, 0)
            self._socket.sendto(head + query[12:end], peer)


def _question(query: bytes) -> tuple[str, int]:
    """The first question's name and where the question ends."""
    labels, at = [], 12
    while at < len(query) and query[at]:
        labels.append(query[at + 1 : at + 1 + query[at]].decode("latin-1"))
        at += 1 + query[at]
    return ".".join(labels), min(at + 5, len(query))
