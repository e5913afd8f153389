"""A line to a provider, which loses one of its answers, and with it the process that waits for it."""

from __future__ import annotations

import socket
import subprocess
import threading
from contextlib import suppress
from types import TracebackType
from typing import Self

_ANSWER_S, _POLL_S = 2.0, 0.05
_ADDRESS = "127.0.0.1"


class Wire:
    """Passes on what a client sends to ``target``, in pieces as they come, and the answers.

    ``kill_at``: the piece whose answer nobody gets, counted from 1 over all connections; 0 for none. ``victim`` is
    killed when the provider has answered it, or has had its time to. ``sent``: how many pieces there were.
    """

    def __init__(self, target: tuple[str, int], kill_at: int) -> None:
        self._target = target
        self._kill_at = kill_at
        self.victim: subprocess.Popen[str] | None = None
        self._lock = threading.Lock()
        self._listener = socket.create_server((_ADDRESS, 0))
        self._open: list[socket.socket] = []
        self.sent = 0
        self.address: tuple[str, int] = self._listener.getsockname()

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        for sock in (self._listener, *self._open):
            with suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
            sock.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                server = socket.create_connection(self._target)
                self._open += [client, server]
                deaf = threading.Event()
                threading.Thread(target=self._there, args=(client, server, deaf), daemon=True).start()
                threading.Thread(target=self._back, args=(server, client, deaf), daemon=True).start()

    def _there(self, client: socket.socket, server: socket.socket, deaf: threading.Event) -> None:
        with suppress(OSError):
            while data := client.recv(65536):
                with self._lock:
                    self.sent += 1
                    is_last = self.sent == self._kill_at
                if is_last:
                    deaf.set()
                server.sendall(data)
        with suppress(OSError):
            server.shutdown(socket.SHUT_WR)

    def _back(self, server: socket.socket, client: socket.socket, deaf: threading.Event) -> None:
        server.settimeout(_POLL_S)
        waited = 0.0
        with suppress(OSError):
            while waited < _ANSWER_S:
                try:
                    data = server.recv(65536)
                except TimeoutError:
                    waited += _POLL_S if deaf.is_set() else 0.0
                    continue
                if deaf.is_set() or not data:
                    break
                client.sendall(data)
        if deaf.is_set() and self.victim is not None:
            self.victim.kill()
        with suppress(OSError):
            client.shutdown(socket.SHUT_RDWR)
