"""Password files that a real nginx reads, and the issuer of the example as the product finds it."""

from __future__ import annotations

import base64
import fcntl
import hashlib
import os
import secrets
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from contract.subject import Material, Refused
from leasehold.broker.issuers import plugins
from leasehold.broker.issuers.builtin import BUILTIN, Parameters
from leasehold.broker.issuers.ports import Issuer
from leasehold.core.secret import Secret
from servers.realms import RealmServer, lets_in

REALMS = ("admin", "builds", "wiki")
PERSON = "somebody:{SHA}W6ph5Mm5Pz8GgiULbPgzG37mj9g="


class RealmSession:
    """A connection that is kept open; each request says who asks, as HTTP has it."""

    def __init__(self, server: RealmServer, name: str, authorization: str) -> None:
        self.name = name
        self.closed = False
        self._connection = server.connection()
        self._authorization = authorization

    def lets_in(self, realm: str) -> bool:
        return lets_in(self._connection, realm, self._authorization)

    def alive(self) -> bool:
        return any(self.lets_in(realm) for realm in REALMS)

    def close(self) -> None:
        self._connection.close()
        self.closed = True


class HtpasswdSubject:
    """Three realms, of which two are configured; a person has an account in each."""

    scope = frozenset({"builds", "wiki"})
    within: Sequence[str] = ("builds", "wiki")
    beyond: Sequence[str] = ("admin",)
    less = frozenset({"wiki"})
    beyond_less = "builds"
    outside = frozenset({"admin"})
    ends_by_itself = False
    hostile: Sequence[Mapping[str, object]] = (
        *(
            {"realms": [realm]}
            for realm in ("", ".", "..", "../wiki", "a/b", ".issuer", ".wiki.new", "Wiki", "wi ki", "wiki\n", "wiki\0")
        ),
        {"realms": []},
        {"realms": ["wiki", "wiki"]},
        {"realms": "wiki"},
        {"folder": "passwords"},
        {"folder": "/passwords\0"},
        {"folder": 5},
    )

    def __init__(self, server: RealmServer, folder: Path) -> None:
        self.server = server
        self.secret = Secret(secrets.token_urlsafe(24).encode())
        (server.passwords / ".issuer").write_text(f"{hashlib.sha256(self.secret.reveal()).hexdigest()}\n")
        for realm in REALMS:
            (server.passwords / realm).write_text(f"# {realm}\n{PERSON}\n")
        self._sessions: list[RealmSession] = []
        self._busy = folder / "busy"
        self._busy.mkdir()
        self._held = os.open(self._busy, os.O_RDONLY)
        fcntl.flock(self._held, fcntl.LOCK_EX)

    def close(self) -> None:
        os.close(self._held)

    def parameters(self, address: tuple[str, int] | None = None) -> Mapping[str, object]:
        """In the place of who does not answer: a folder that somebody else has locked for ever."""
        folder = self._busy if address else self.server.passwords
        return {"folder": str(folder), "realms": sorted(self.scope)}

    def issuer(self, parameters: Mapping[str, object], secret: Secret) -> Issuer:
        table = Parameters("htpasswd", parameters)
        factory = plugins.find("htpasswd", BUILTIN)
        assert factory is not None
        issuer = factory(table, secret)
        table.done()
        return issuer

    def attempt(self, material: Material, operation: str) -> None:
        session = self._session(material)
        try:
            if not session.lets_in(operation):
                raise Refused(operation)
        finally:
            session.close()

    def open(self, material: Material) -> RealmSession:
        session = self._session(material)
        if not session.alive():
            session.close()
            raise Refused("no realm lets it in")
        self._sessions.append(session)
        return session

    def _session(self, material: Material) -> RealmSession:
        fields = {name: value.reveal().decode() for name, value in material.items()}
        pair = base64.b64encode(f"{fields['username']}:{fields['password']}".encode()).decode()
        return RealmSession(self.server, fields["username"], f"Basic {pair}")

    def accounts(self) -> Collection[str]:
        return {line.partition(":")[0] for realm in REALMS for line in self.lines(realm) if line[:1] != "#"}

    def lines(self, realm: str) -> list[str]:
        return (self.server.passwords / realm).read_text().splitlines()

    def plant(self, name: str) -> None:
        self._write("wiki", [*self.lines("wiki"), f"{name}:!"])

    def remove(self, name: str) -> None:
        self._write("wiki", [line for line in self.lines("wiki") if not line.startswith(f"{name}:")])

    def _write(self, realm: str, lines: Sequence[str]) -> None:
        (self.server.passwords / realm).write_text("".join(f"{line}\n" for line in lines))

    def expires(self, name: str) -> float | None:
        return None

    def sessions(self, name: str) -> int:
        return len([each for each in self._sessions if each.name == name and not each.closed and each.alive()])
