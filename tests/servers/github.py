"""A stand-in for GitHub's REST API: one App, one installation, its tokens. Not GitHub, and not recorded from it.

It does what the API's documentation (2022-11-28) says of "Create an installation access token for an app" and "Revoke
an installation access token", and of who may read a file and open an issue. What it cannot show: how long a revoked
token is still taken by GitHub's other machines, rate limits, and permissions that the documentation does not tell.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from servers.standin import Asked, StandIn

CLIENT_ID = "Iv23liTESTTESTTEST00"
INSTALLATION = 4711
LASTS_S = 3600
OWNER = "Acme"  # in the spelling of who made it; names are the same in any
PERMISSIONS = {"contents": "write", "issues": "write", "metadata": "read"}
REPOSITORIES = ("Web", "api", "secret-plans")
NEEDS = {("GET", "contents"): ("contents", "read"), ("PUT", "contents"): ("contents", "write")}
NEEDS |= {("GET", "issues"): ("issues", "read"), ("POST", "issues"): ("issues", "write")}
_LEVELS = ("read", "write")
_OUTSIDE = (401, {"message": "Bad credentials"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Token:
    permissions: Mapping[str, str]
    repositories: tuple[str, ...]
    expires: float


class GithubStandIn(StandIn):
    """``key``: of the App, in PEM. ``tokens``: those that are alive. ``altered``: laid over the next answers."""

    def __init__(self) -> None:
        private = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        self.key = private.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption())
        self._public = private.public_key()
        self.tokens: dict[str, Token] = {}
        self.altered: dict[str, Any] = {}
        super().__init__("github")

    def answer(self, asked: Asked) -> tuple[int, Any]:
        self.tokens = {text: token for text, token in self.tokens.items() if token.expires > self.now}
        match [asked.method, *asked.path.strip("/").split("/")]:
            case ["GET", "rate_limit"]:
                return 200, {"resources": {}}
            case ["POST", "app", "installations", number, "access_tokens"]:
                return self._create(number, asked)
        token = self.tokens.get(asked.bearer)
        if token is None:
            return _OUTSIDE
        match [asked.method, *asked.path.strip("/").split("/")]:
            case ["DELETE", "installation", "token"]:
                del self.tokens[asked.bearer]
                return 204, None
            case ["GET", "installation", "repositories"]:
                return 200, {"repositories": [_repository(name) for name in token.repositories]}
            case [method, "repos", owner, name, what]:
                return _used(token, method, owner, name, what)
        return 404, {"message": "Not Found"}

    def _create(self, number: str, asked: Asked) -> tuple[int, Any]:
        try:
            claims = jwt.decode(
                asked.bearer,
                self._public,
                algorithms=["RS256"],
                options={"verify_exp": False, "verify_iat": False, "require": ["iat", "exp", "iss"]},
            )
        except jwt.InvalidTokenError:
            return 401, {"message": "A JSON web token could not be decoded"}
        if not (claims["iat"] <= self.now < claims["exp"] <= self.now + 600) or claims["iss"] != CLIENT_ID:
            return 401, {"message": "'Expiration time' claim ('exp') is too far in the future"}
        if number != str(INSTALLATION):
            return 404, {"message": "Not Found"}
        known = {name.lower(): name for name in REPOSITORIES}
        names = asked.body.get("repositories", REPOSITORIES)
        permissions = asked.body.get("permissions", PERMISSIONS)
        if not {name.lower() for name in names} <= {*known}:
            return 422, {"message": "There is at least one repository that does not exist or is not accessible"}
        if not all(_covers(PERMISSIONS, name, level) for name, level in permissions.items()):
            return 422, {"message": "The permissions requested are not granted to this installation."}
        text = f"ghs_{secrets.token_urlsafe(27)}"
        token = Token(
            permissions={**permissions, "metadata": "read"},
            repositories=tuple(known[name.lower()] for name in names),
            expires=float(int(self.now + LASTS_S)),
        )
        self.tokens[text] = token
        return 201, {
            "token": text,
            "expires_at": datetime.fromtimestamp(token.expires, UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            "permissions": token.permissions,
            "repository_selection": "selected" if "repositories" in asked.body else "all",
            "repositories": [_repository(name) for name in token.repositories],
            **self.altered,
        }


def _used(token: Token, method: str, owner: str, name: str, what: str) -> tuple[int, Any]:
    if owner.lower() != OWNER.lower() or name.lower() not in {known.lower() for known in token.repositories}:
        return 404, {"message": "Not Found"}
    needs = NEEDS.get((method, what))
    if needs is None or not _covers(token.permissions, *needs):
        return 403, {"message": "Resource not accessible by integration"}
    return (200 if method == "GET" else 201), {}


def _covers(permissions: Mapping[str, str], name: str, level: str) -> bool:
    held = permissions.get(name)
    return held is not None and level in _LEVELS[: _LEVELS.index(held) + 1]


def _repository(name: str) -> Mapping[str, Any]:
    return {"id": REPOSITORIES.index(name) + 1, "name": name, "full_name": f"{OWNER}/{name}", "private": True}
