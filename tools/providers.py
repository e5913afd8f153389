"""The second half of the story: servers that make a credential for each task, and take it back."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, Self

from contract.postgres_subject import DatabaseSubject
from contract.subject import Subject
from servers import postgres
from servers.postgres import PostgresServer
from servers.upstreams import Upstreams


class Provider(Protocol):
    """One server of the story. ``secret``: the issuer's own, which the agent must not get either."""

    name: str
    host: str
    what: str

    @property
    def secret(self) -> str: ...

    def configuration(self, folder: Path) -> str:
        """Its credential in the operator's file; ``folder`` is the broker's."""

    def left(self) -> Sequence[str]:
        """What the provider still has of ours, by its own word."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Database:
    """PostgreSQL: a role of its own for each task."""

    subject: Subject
    host: str
    port: int
    name: str = "orders"
    what: str = "a role in PostgreSQL"

    @property
    def secret(self) -> str:
        return self.subject.secret.reveal().decode()

    def configuration(self, folder: Path) -> str:
        parameters = {**self.subject.parameters(), "ca": str(folder / "upstream-ca.pem")}
        return credential(self.name, "postgres", folder, self.secret, parameters) + endpoint(
            self.name, {"host": self.host, "port": self.port, "protocol": "postgres"}
        )

    def left(self) -> Sequence[str]:
        return [name for name in self.subject.accounts() if name.startswith("lh_")]


class Providers:
    """All of them, beside the upstreams of ``up``."""

    def __init__(self, up: Upstreams) -> None:
        self._stack = ExitStack()
        self.all: list[Provider] = []
        server = PostgresServer()
        self._stack.callback(server.close)
        subject = DatabaseSubject(server)
        self._stack.callback(subject.close)
        up.beside[postgres.HOST] = server.ca
        self.all.append(Database(subject=subject, host=postgres.HOST, port=server.port))
        self.variables = {"DATABASE": f"host={postgres.HOST} port={server.port} dbname=orders"}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def configuration(self, folder: Path) -> str:
        """What the operator's file has of them."""
        return "".join(provider.configuration(folder) for provider in self.all)


def credential(name: str, issuer: str, folder: Path, secret: str, parameters: Mapping[str, object]) -> str:
    """One that its issuer makes; the issuer's own secret goes to a file of the broker's."""
    path = folder / f"{name}.secret"
    path.touch(mode=0o600)
    path.write_text(secret)
    lines = {
        "issuer": issuer,
        "secret": f"file:{path}",
        "environment": "development",
        "role": "execute",
        "max_ttl": "15m",
        **parameters,
    }
    return f"\n[credentials.{name}]\n" + "".join(f"{key} = {json.dumps(value)}\n" for key, value in lines.items())


def endpoint(name: str, keys: Mapping[str, object]) -> str:
    return f"[[credentials.{name}.endpoints]]\n" + "".join(f"{k} = {json.dumps(v)}\n" for k, v in keys.items())
