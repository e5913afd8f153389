"""The stand-in for GitHub, with an App that has more than the issuer is configured for."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping, Sequence

from contract.subject import Material, Refused
from leasehold.broker.issuers.builtin import BUILTIN, Parameters
from leasehold.broker.issuers.ports import Issuer
from leasehold.core.secret import Secret
from servers.github import CLIENT_ID, INSTALLATION, GithubStandIn
from servers.standin import ADDRESS, Client


class TokenSession:
    """A connection on which each request shows the token."""

    def __init__(self, github: GithubStandIn, token: str) -> None:
        self.client = Client(github, {"authorization": f"Bearer {token}"})
        self.closed = False

    def alive(self) -> bool:
        return self.client.status("GET", "/installation/repositories") == 200

    def close(self) -> None:
        self.client.close()
        self.closed = True


class GithubSubject:
    """Files and issues of one repository of three. It has no names, so a session is of whoever opened one last."""

    scope = frozenset({"contents:read on acme/web", "issues:write on acme/web"})
    within: Sequence[str] = (
        "GET /repos/acme/web/contents",
        "GET /repos/Acme/Web/contents",
        "GET /repos/acme/web/issues",
        "POST /repos/acme/web/issues",
    )
    beyond: Sequence[str] = (
        "PUT /repos/acme/web/contents",
        "GET /repos/acme/secret-plans/contents",
        "GET /repos/acme/api/issues",
        "POST /repos/acme/api/issues",
    )
    less = frozenset({"contents:read on acme/web"})
    beyond_less = "POST /repos/acme/web/issues"
    outside = frozenset({"contents:read on acme/api"})
    ends_by_itself = True
    hostile: Sequence[Mapping[str, object]] = (
        *(
            {"grants": [grant]}
            for grant in (
                "",
                "contents",
                "contents:read",
                "contents:read on web",
                "contents:read on acme/*",
                "contents:read on */web",
                "contents:read on acme/web/api",
                "contents:read on acme/..",
                "contents:read on acme/.",
                "contents:read on acme/web.git",
                "contents:read on acme/web\n",
                "contents:read  on acme/web",
                "contents:read on acme/w eb",
                "contents:read on -acme/web",
                "contents:read on acme/web,api",
                "contents:read on acme/\u212aeb",
                "contents:admin on acme/web",
                "contents: read on acme/web",
                "*:read on acme/web",
                "administration:write on acme/web",
                "metadata:write on acme/web",
                "workflows:read on acme/web",
                "members:read on acme/web",
                "organization_secrets:read on acme/web",
            )
        ),
        {"grants": []},
        {"grants": "contents:read on acme/web"},
        {"grants": ["contents:read on acme/web", "Contents:read on Acme/Web"]},
        {"grants": ["contents:read on acme/web", "contents:write on acme/web"]},
        {"grants": ["contents:read on acme/web", "issues:write on acme/api"]},
        {"grants": ["contents:read on acme/web", "contents:read on rival/web"]},
        *(
            {"server": server}
            for server in (
                "http://api.github.example",
                "https://token@api.github.example",
                "https://:token@api.github.example",
                "https://@api.github.example",
                "https://api.github.example/graphql",
                "https://api.github.example/api/v3/../v4",
                "https://api.github.example?x",
                "https://api.github.example#x",
                "https://api.github.example:port",
                "https://",
                "https://a,b",
                "api.github.example",
            )
        ),
        *({"client_id": client} for client in ("", "a b", 'x"', 5)),
        *({"installation": number} for number in (0, -1, 1 << 63, "4711")),
        {"ca": "ca.pem"},
        {"verify": False},
    )

    def __init__(self, github: GithubStandIn) -> None:
        self.github = github
        self.secret = Secret(github.key)
        self._sessions: list[TokenSession] = []

    def parameters(self, address: tuple[str, int] | None = None) -> Mapping[str, object]:
        host, port = address or (ADDRESS, self.github.port)
        return {
            "server": f"https://{host}:{port}",
            "ca": str(self.github.ca),
            "client_id": CLIENT_ID,
            "installation": INSTALLATION,
            "grants": sorted(self.scope),
        }

    def issuer(self, parameters: Mapping[str, object], secret: Secret) -> Issuer:
        table = Parameters("github-app", parameters)
        issuer = BUILTIN["github-app"](table, secret)
        table.done()
        return issuer

    def attempt(self, material: Material, operation: str) -> None:
        session = TokenSession(self.github, material["token"].reveal().decode())
        try:
            status = session.client.status(*operation.split(" "))
            if status in (401, 403, 404):
                raise Refused(str(status))
            assert status in (200, 201), status
        finally:
            session.close()

    def open(self, material: Material) -> TokenSession:
        session = TokenSession(self.github, material["token"].reveal().decode())
        if not session.alive():
            session.close()
            raise Refused("401")
        self._sessions.append(session)
        return session

    def accounts(self) -> Collection[str]:
        """By their digests: there are no names."""
        return {hashlib.sha256(token.encode()).hexdigest() for token in self.github.tokens}

    def plant(self, name: str) -> None:
        """A crash leaves a token that nobody has, and nothing else."""

    def remove(self, name: str) -> None:
        """See :meth:`plant`."""

    def expires(self, name: str) -> float | None:
        return [token.expires for token in self.github.tokens.values()][-1]

    def sessions(self, name: str) -> int:
        return len([session for session in self._sessions if not session.closed and session.alive()])
