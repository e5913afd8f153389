"""A stand-in for HashiCorp Vault or OpenBao: tokens, leases, and a database whose users it makes. Not Vault.

It does what Vault's API documentation says of ``auth/token`` (create by role, lookup-self, accessors, lookup-accessor,
revoke-accessor), ``sys/leases`` (lookup, revoke with ``sync``) and ``database/creds``: policies decide what a token
may, a token's leases end with it, though a little later, and a child's with its parent. What it cannot show: other
engines, versions that say it in other words, replication, and an engine that cannot take back what it made.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from servers.standin import Asked, StandIn

LEASE_S = 3600
"""How long the engine lets a user last; the token's end is sooner."""
ROLES: Mapping[str, frozenset[str]] = {
    "readonly": frozenset({"SELECT"}),
    "admin": frozenset({"SELECT", "DROP"}),
    "brief": frozenset({"SELECT"}),
}
"""What a user may do whom the engine makes for one of its roles."""
_DENIED = (403, {"errors": ["1 error occurred:\n\t* permission denied\n\n"]})
_INVALID = {"errors": ["1 error occurred:\n\t* invalid accessor\n\n"]}
_VERBS = {"GET": "read", "LIST": "list", "POST": "update", "PUT": "update"}
_POLICY = re.compile(r'path "([^"]+)"\s*\{\s*capabilities\s*=\s*\[([^\]]*)\]')


@dataclass(kw_only=True)
class Token:
    """One token. ``role``: the token role by which it was made; ``leases``: what was made with it."""

    accessor: str
    policies: tuple[str, ...]
    expires: float
    meta: Mapping[str, str] = field(default_factory=dict)
    role: str = ""
    parent: str = ""
    leases: list[str] = field(default_factory=list)


@dataclass(kw_only=True)
class User:
    """A user of the database. ``due``: when the engine drops it."""

    password: str
    role: str
    due: float
    lease: str


class VaultStandIn(StandIn):
    """``tokens`` by their text, ``users`` of the database by name. ``lazy``: leases of a revoked token stay a while.

    ``altered``: laid over what the engine answers; ``broken``: paths that answer with status 500.
    """

    def __init__(self) -> None:
        self.policies: dict[str, dict[str, frozenset[str]]] = {}
        self.token_roles: dict[str, tuple[str, ...]] = {}
        self.tokens: dict[str, Token] = {}
        self.users: dict[str, User] = {}
        self.lazy = False
        self.altered: dict[str, Any] = {}
        self.broken: frozenset[str] = frozenset()
        super().__init__("vault")

    def policy(self, name: str, text: str) -> None:
        """As ``vault policy write`` takes it."""
        found = _POLICY.findall(text)
        self.policies[name] = {path: frozenset(re.findall(r'"(\w+)"', words)) for path, words in found}

    def mint(self, *policies: str, meta: Mapping[str, str] | None = None, role: str = "", lasts_s: float = 3600) -> str:
        """A token, as an administrator makes one."""
        text = f"hvs.{secrets.token_urlsafe(24)}"
        self.tokens[text] = Token(
            accessor=secrets.token_urlsafe(18),
            policies=policies,
            expires=self.now + lasts_s,
            meta=meta or {},
            role=role,
        )
        return text

    def end(self, accessor: str) -> None:
        """Of a token, its children and their leases."""
        for text, token in list(self.tokens.items()):
            if token.accessor == accessor:
                del self.tokens[text]
                for lease in token.leases:
                    self._drop(lease)
                for child in [each.accessor for each in self.tokens.values() if each.parent == accessor]:
                    self.end(child)

    def _drop(self, lease: str) -> None:
        for name, user in list(self.users.items()):
            if user.lease == lease and self.lazy:
                user.due = self.now
            elif user.lease == lease:
                del self.users[name]

    def answer(self, asked: Asked) -> tuple[int, Any]:
        for each in [token.accessor for token in self.tokens.values() if token.expires <= self.now]:
            self.end(each)
        path = asked.path.removeprefix("/v1/")
        token = self.tokens.get(asked.headers.get("x-vault-token", ""))
        if token is None or not self._may(token, path, asked.method):
            return _DENIED
        if path in self.broken:
            return 500, {"errors": ["internal error"]}
        match [asked.method, *path.strip("/").split("/")]:
            case ["GET", "auth", "token", "lookup-self"]:
                return 200, {"data": self._described(token)}
            case ["POST", "auth", "token", "create", role]:
                return self._create(token, role, asked.body)
            case ["LIST", "auth", "token", "accessors"]:
                return 200, {"data": {"keys": [each.accessor for each in self.tokens.values()]}}
            case ["POST", "auth", "token", "lookup-accessor"]:
                found = self._by(asked.body["accessor"])
                return (200, {"data": self._described(found)}) if found else (403, _INVALID)
            case ["POST", "auth", "token", "revoke-accessor"]:
                found = self._by(asked.body["accessor"])
                self.end(asked.body["accessor"])
                return (204, None) if found else (400, _INVALID)
            case ["GET", "database", "creds", role] if role in ROLES:
                return self._user(token, role)
            case ["PUT", "sys", "leases", "revoke"]:
                assert asked.body["sync"] is True
                self.users = {n: user for n, user in self.users.items() if user.lease != asked.body["lease_id"]}
                return 204, None
            case ["PUT", "sys", "leases", "lookup"]:
                there = any(user.lease == asked.body["lease_id"] for user in self.users.values())
                return (200, {"data": {}}) if there else (400, {"errors": ["invalid lease"]})
            case ["GET", "secret", _]:
                return 200, {"lease_id": "", "lease_duration": 0, "data": {"username": "a", "password": "b"}}
        return 404, {"errors": []}

    def _may(self, token: Token, path: str, method: str) -> bool:
        if "root" in token.policies:
            return True
        rules = [self.policies.get(name, {}).get(path, frozenset()) for name in token.policies]
        held: frozenset[str] = frozenset().union(*rules)
        # Listing accessors is one of the paths that want sudo besides.
        wanted = {_VERBS.get(method, "none"), *(["sudo"] if path.startswith("auth/token/accessors") else [])}
        return wanted <= held

    def _by(self, accessor: str) -> Token | None:
        return next((token for token in self.tokens.values() if token.accessor == accessor), None)

    def _described(self, token: Token) -> Mapping[str, Any]:
        return {
            "accessor": token.accessor,
            "policies": list(token.policies),
            "meta": dict(token.meta) or None,
            "role": token.role,
            "id": "",
            "expire_time": datetime.fromtimestamp(token.expires, UTC).isoformat(),
        }

    def _create(self, parent: Token, role: str, body: Mapping[str, Any]) -> tuple[int, Any]:
        if role not in self.token_roles:
            return 400, {"errors": [f"unknown role {role}"]}
        lasts_s = float(body["explicit_max_ttl"].removesuffix("s"))
        lasts_s = min(lasts_s, float(body["ttl"].removesuffix("s")))
        text = self.mint(*self.token_roles[role], meta=body["meta"], role=role, lasts_s=lasts_s)
        self.tokens[text].parent = parent.accessor
        auth = {"client_token": text, "accessor": self.tokens[text].accessor, "lease_duration": int(lasts_s)}
        return 200, {"auth": auth}

    def _user(self, token: Token, role: str) -> tuple[int, Any]:
        name = f"v-token-{role}-{secrets.token_hex(6)}"
        lasts_s = 120 if role == "brief" else LEASE_S
        lease = f"database/creds/{role}/{secrets.token_urlsafe(18)}"
        user = User(password=secrets.token_urlsafe(18), role=role, due=self.now + lasts_s, lease=lease)
        self.users[name] = user
        token.leases.append(lease)
        data = {"username": name, "password": user.password}
        return 200, {"lease_id": lease, "lease_duration": lasts_s, "renewable": True, "data": data, **self.altered}

    def query(self, name: str, password: str, what: str) -> bool | None:
        """Whether the database does it for that user; ``None`` when it does not let it in."""
        with self._lock:
            user = self.users.get(name)
            if user is None or user.due <= self.now or not secrets.compare_digest(user.password, password):
                return None
            return what in ROLES[user.role]
