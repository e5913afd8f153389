"""What every upstream has: where it is, what it accepts, and what it received."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path

from servers.ca import TestCa

RECORD_BYTES_MAX = 4_194_304  # of one connection: uploads of gigabytes must not fill the memory of the tests


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where an upstream will listen, and what it is given; known before it starts."""

    host: str
    address: str
    port: int
    folder: Path
    ca: TestCa

    @property
    def authority(self) -> str:
        """``host`` or ``host:port``."""
        return self.host if self.port == 443 else f"{self.host}:{self.port}"

    @property
    def url(self) -> str:
        return f"https://{self.authority}"


class Upstream(ABC):
    """A running server. ``credential`` is the value that it accepts, made up for the session."""

    def __init__(self, place: Place) -> None:
        self.place = place
        self.host = place.host
        self.address = place.address
        self.port = place.port
        self.url = place.url
        self.credential = ""

    @abstractmethod
    def recorded(self) -> list[bytes]:
        """What was received: one entry per connection or request, as the server says in its own text."""

    @abstractmethod
    def clear(self) -> None:
        """Forget what was received."""

    @abstractmethod
    def close(self) -> None:
        """End the server; idempotent."""


class Recorder:
    """Collects received bytes by connection; safe between threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._open: list[tuple[int, bytearray]] = []

    def connection(self, port: int) -> bytearray:
        """A new entry for a connection on ``port``; :meth:`append` to it."""
        entry = bytearray()
        with self._lock:
            self._open.append((port, entry))
        return entry

    def append(self, entry: bytearray, data: bytes) -> None:
        """Add ``data`` up to :data:`RECORD_BYTES_MAX`."""
        with self._lock:
            entry += data[: max(0, RECORD_BYTES_MAX - len(entry))]

    def entries(self, port: int | None = None) -> list[bytes]:
        """The bytes of each connection that sent any; only those on ``port`` when given."""
        with self._lock:
            return [bytes(data) for at, data in self._open if data and port in (None, at)]

    def contacts(self) -> int:
        """Connections since the last :meth:`clear`, also those that sent nothing."""
        with self._lock:
            return len(self._open)

    def clear(self) -> None:
        """Forget, also what connections that are still open will send."""
        with self._lock:
            self._open.clear()
