"""A broker that knows secrets and credentials only, from a real vault, over a real socket."""

from __future__ import annotations

import base64
import socket
import threading
from pathlib import Path
from typing import Any

from leasehold.broker.vault.references import resolve
from leasehold.broker.vault.store import Vault
from leasehold.core import wire
from leasehold.core.config import read_operator
from leasehold.core.errors import LeaseholdError
from leasehold.core.secret import Secret


class VaultBroker:
    """Listens at ``path``. ``heard`` is all that it was sent; ``variables`` are those of whoever asks."""

    def __init__(self, path: Path, vault: Vault, variables: dict[str, str]) -> None:
        self._vault = vault
        self._variables = variables
        self.heard: list[dict[str, Any]] = []
        self._listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listening.bind(str(path))
        self._listening.listen()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._listening.shutdown(socket.SHUT_RDWR)
        self._thread.join(5)
        self._listening.close()

    def _serve(self) -> None:
        while True:
            try:
                client, _ = self._listening.accept()
            except OSError:
                return
            with client:
                while (received := wire.receive(client)) is not None:
                    self.heard.append(received[0])
                    try:
                        reply = {"ok": True, **self._answer(received[0])}
                    except LeaseholdError as e:
                        reply = {"error": e.as_dict()}
                    wire.send(client, reply)
                    if received[0]["op"] == "daemon.stop":
                        break

    def _answer(self, message: dict[str, Any]) -> dict[str, Any]:
        match message["op"]:
            case "secret.set":
                self._vault.set(message["name"], Secret(base64.b64decode(message["value_b64"])))
                return {}
            case "secret.rm":
                self._vault.remove(message["name"])
                return {}
            case "secret.list":
                return {"secrets": [entry.as_dict() for entry in self._vault.list()]}
            case "daemon.status":
                task = {"task": "7f3k", "workspace": "/srv/\x1b[2Jweb", "expires_in_s": 60}
                return {"pid": 1234, "envoy_pid": 1235, "tasks": [task]}
            case "daemon.stop":
                return {"pid": 1234}
        operator = read_operator(Path(message["config"]))
        wanted = [c for c in operator.credentials if message["name"] in (None, c.name)]
        return {"credentials": [self._checked(c.name, c.secret) for c in wanted]}

    def _checked(self, name: str, reference: str) -> dict[str, Any]:
        error = None
        try:
            resolve(reference, self._vault, self._variables.get)
        except LeaseholdError as e:
            error = e.as_dict()
        return {"name": name, "reference": reference, "error": error}
