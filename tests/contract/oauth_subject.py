"""An authorization server of Authlib's, and an API that asks it, with a client that may do more than is configured."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping, Sequence

from contract.subject import Material, Refused
from leasehold.broker.issuers.builtin import BUILTIN, Parameters
from leasehold.broker.issuers.ports import Issuer
from leasehold.core.secret import Secret
from servers.oauth import CLIENT_ID, OauthServer
from servers.standin import ADDRESS


class TokenSession:
    """A connection on which each request shows the token."""

    def __init__(self, server: OauthServer, token: str) -> None:
        self._connection = server.connection()
        self._headers = {"authorization": f"Bearer {token}"}
        self.closed = False

    def status(self, method: str, path: str) -> int:
        self._connection.request(method, path, headers=self._headers)
        with self._connection.getresponse() as response:
            response.read()
            return response.status

    def alive(self) -> bool:
        return self.status("GET", "/api/orders") == 200

    def close(self) -> None:
        self._connection.close()
        self.closed = True


class OauthSubject:
    """Orders are read and written. Tokens have no names, so a session is of whoever opened one last."""

    scope = frozenset({"orders:read", "orders:write"})
    within: Sequence[str] = ("GET /api/orders", "POST /api/orders")
    beyond: Sequence[str] = ("GET /api/plans", "DELETE /api/users")
    less = frozenset({"orders:read"})
    beyond_less = "POST /api/orders"
    outside = frozenset({"plans:read"})
    ends_by_itself = True
    hostile: Sequence[Mapping[str, object]] = (
        *(
            {key: url}
            for key in ("token_url", "revoke_url", "introspect_url")
            for url in (
                "",
                "http://auth.example/token",
                "https://auth.example",
                "https://leasehold:secret@auth.example/token",
                "https://@auth.example/token",
                "https://auth.example/token?x=1",
                "https://auth.example/token?",
                "https://auth.example/token#x",
                "https://auth.example/to ken",
                "https://auth.example/token\n",
                "https://auth.example:port/token",
                "https:///token",
                "https://a,b/token",
                "https://auth.example/tok\u00e9n",
                5,
            )
        ),
        *(
            {"scopes": scopes}
            for scopes in ([], [""], ["a b"], ["a\n"], ['a"b'], ["a\\b"], ["\u00e4"], ["a", "a"], "a")
        ),
        *({"auth": auth} for auth in ("", "none", "private_key_jwt", "Basic")),
        *({"grant": grant} for grant in ("", "password", "authorization_code", "implicit")),
        *({"subject_type": kind} for kind in ("", "refresh_token", "saml2")),
        *({"client_id": client} for client in ("", "a\nb", "\u00e4", 5)),
        *({"audience": audience} for audience in ("", "a b", 'a"')),
        *({"resource": resource} for resource in ("", "orders", "https://orders.example/#x", "https://a b")),
        *({"token_lasts_s": seconds} for seconds in (0, -1, 86_401, "1h")),
        {"ca": "ca.pem"},
        {"verify": False},
    )

    def __init__(self, server: OauthServer) -> None:
        self.server = server
        self.secret = Secret(server.client.secret.encode())
        self._sessions: list[TokenSession] = []

    def parameters(self, address: tuple[str, int] | None = None) -> Mapping[str, object]:
        host, port = address or (ADDRESS, self.server.port)
        return {
            **{f"{what}_url": f"https://{host}:{port}/oauth/{what}" for what in ("token", "revoke", "introspect")},
            "ca": str(self.server.ca),
            "client_id": CLIENT_ID,
            "scopes": sorted(self.scope),
        }

    def without(self, *keys: str, **changes: object) -> Mapping[str, object]:
        """The parameters without these."""
        return {key: value for key, value in {**self.parameters(), **changes}.items() if key not in keys}

    def with_secret(self, **more: str) -> Secret:
        """The secret of a grant that needs more than the client's."""
        return Secret(json.dumps({"client_secret": self.server.client.secret, **more}).encode())

    def issuer(self, parameters: Mapping[str, object], secret: Secret) -> Issuer:
        table = Parameters("oauth2", parameters)
        issuer = BUILTIN["oauth2"](table, secret)
        table.done()
        return issuer

    def attempt(self, material: Material, operation: str) -> None:
        session = TokenSession(self.server, material["token"].reveal().decode())
        try:
            status = session.status(*operation.split(" "))
            if status in (401, 403):
                raise Refused(str(status))
            assert status == 200, status
        finally:
            session.close()

    def open(self, material: Material) -> TokenSession:
        session = TokenSession(self.server, material["token"].reveal().decode())
        if not session.alive():
            session.close()
            raise Refused("401")
        self._sessions.append(session)
        return session

    def accounts(self) -> Collection[str]:
        """By their digests: there are no names."""
        return {hashlib.sha256(token.access.encode()).hexdigest() for token in self.server.alive()}

    def plant(self, name: str) -> None:
        """A crash leaves a token that nobody has, and nothing else."""

    def remove(self, name: str) -> None:
        """See :meth:`plant`."""

    def expires(self, name: str) -> float | None:
        return float(self.server.tokens[-1].expires)

    def sessions(self, name: str) -> int:
        return len([session for session in self._sessions if not session.closed and session.alive()])
