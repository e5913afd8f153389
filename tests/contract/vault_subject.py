"""The stand-in for Vault, with the policies that the page of the issuer ``vault`` tells an operator to write."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from contract.subject import Material, Refused
from leasehold.broker.issuers.builtin import BUILTIN, Parameters
from leasehold.broker.issuers.ports import Issuer
from leasehold.core.secret import Secret
from servers.standin import ADDRESS
from servers.vault import VaultStandIn

PAGE = Path(__file__).parents[2] / "docs" / "issuers" / "vault.md"
ROLE = "leasehold"


class UserSession:
    """A connection to the database that Vault makes users of."""

    def __init__(self, vault: VaultStandIn, material: Material) -> None:
        fields = {name: value.reveal().decode() for name, value in material.items()}
        self.name, self._password = fields["username"], fields["password"]
        self._vault = vault
        self.closed = False

    def does(self, what: str) -> bool | None:
        return self._vault.query(self.name, self._password, what)

    def alive(self) -> bool:
        return self.does("SELECT") is not None

    def close(self) -> None:
        self.closed = True


class VaultSubject:
    """Users of one role of the database engine."""

    scope = frozenset({"database/creds/readonly"})
    within: Sequence[str] = ("SELECT",)
    beyond: Sequence[str] = ("DROP",)
    less: frozenset[str] = frozenset()
    beyond_less = ""
    outside = frozenset({"database/creds/admin"})
    ends_by_itself = True
    hostile: Sequence[Mapping[str, object]] = (
        *(
            {"path": path}
            for path in (
                "",
                "database",
                "/database/creds/readonly",
                "database/creds/readonly/",
                "database//creds",
                "database/../sys/raw",
                "database/./creds",
                "database/creds/read only",
                "database/creds/readonly?list=true",
                "database/creds/readonly#x",
                "database/creds/%2e%2e",
                "database/creds/readonly\n",
                "sys/raw/core",
                "auth/token/create",
                "identity/entity",
                "cubbyhole/x",
                5,
            )
        ),
        *(
            {"server": server}
            for server in ("http://vault.example:8200", "https://t@vault.example", "https://v/ui", "x")
        ),
        *({"token_role": role} for role in ("", "a/b", "a b", "a\n")),
        *({"namespace": namespace} for namespace in ("", "/a", "a//b", "a b", "a\r\nX-Vault-Token: b")),
        *(
            {"fields": fields}
            for fields in ([], ["username"], ["user=username"], ["password=a=b"], ["password="], ["token=a", "token=b"])
        ),
        {"ca": "ca.pem"},
        {"verify": False},
    )

    def __init__(self, vault: VaultStandIn) -> None:
        self.vault = vault
        issuers, leases = re.findall(r"^```hcl\n(.*?)^```", PAGE.read_text(), flags=re.MULTILINE | re.DOTALL)
        vault.policy("leasehold-issuer", issuers)
        vault.policy("leasehold-orders", leases)
        vault.token_roles[ROLE] = ("leasehold-orders",)
        self.secret = Secret(vault.mint("leasehold-issuer", lasts_s=86_400).encode())
        self._sessions: list[UserSession] = []

    def parameters(self, address: tuple[str, int] | None = None) -> Mapping[str, object]:
        host, port = address or (ADDRESS, self.vault.port)
        [path] = self.scope
        return {"server": f"https://{host}:{port}", "ca": str(self.vault.ca), "path": path}

    def issuer(self, parameters: Mapping[str, object], secret: Secret) -> Issuer:
        table = Parameters("vault", parameters)
        issuer = BUILTIN["vault"](table, secret)
        table.done()
        return issuer

    def attempt(self, material: Material, operation: str) -> None:
        if not UserSession(self.vault, material).does(operation):
            raise Refused(operation)

    def open(self, material: Material) -> UserSession:
        session = UserSession(self.vault, material)
        if not session.alive():
            raise Refused("the database does not know it")
        self._sessions.append(session)
        return session

    def accounts(self) -> Collection[str]:
        """Tokens by the name in their metadata, and users of the database."""
        named = [token.meta.get("leasehold", token.accessor) for token in self.vault.tokens.values()]
        return [*named, *self.vault.users]

    def plant(self, name: str) -> None:
        self.vault.mint("leasehold-orders", meta={"leasehold": name}, role=ROLE)

    def remove(self, name: str) -> None:
        for token in list(self.vault.tokens.values()):
            if token.meta.get("leasehold") == name:
                self.vault.end(token.accessor)

    def expires(self, name: str) -> float | None:
        [ends] = [token.expires for token in self.vault.tokens.values() if token.meta.get("leasehold") == name]
        return ends

    def sessions(self, name: str) -> int:
        return len([session for session in self._sessions if not session.closed and session.alive()])
