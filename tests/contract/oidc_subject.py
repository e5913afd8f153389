"""Who trusts the broker as an OpenID provider, and who does not: see ``tests/servers/relying.py``."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import jwt

from contract.subject import Material, Refused
from leasehold.broker.issuers.builtin import BUILTIN, Parameters
from leasehold.broker.issuers.oidc import documents
from leasehold.broker.issuers.ports import Issuer
from leasehold.core.secret import Secret
from servers.relying import Pages, RelyingParty

AUDIENCE = "https://deploy.example"
SUBJECT = "agents:acme:{task}"


class TokenSession:
    """Whoever is shown the token each time, and never told of it by anybody else."""

    def __init__(self, subject: OidcSubject, material: Material) -> None:
        self._subject, self._material = subject, material
        self.closed = False
        subject.attempt(material, "deploy")

    def alive(self) -> bool:
        try:
            self._subject.attempt(self._material, "deploy")
        except Refused:
            return False
        return True

    def close(self) -> None:
        self.closed = True


class OidcSubject:
    """Tokens are for ``deploy``; the others are somebody else, or trust somebody else."""

    scope = frozenset({AUDIENCE})
    within: Sequence[str] = ("deploy",)
    beyond: Sequence[str] = ("other audience", "other task")
    less = frozenset[str]()
    beyond_less = ""
    outside = frozenset({"https://elsewhere.example"})
    ends_by_itself = False
    hostile: Sequence[Mapping[str, object]] = (
        *(
            {"issuer_url": url}
            for url in (
                "",
                "http://broker.example",
                "https://broker.example/",
                "https://broker.example/a/",
                "https://broker.example/a//b",
                "https://broker.example?x",
                "https://broker.example?",
                "https://broker.example#",
                "https://a@broker.example",
                "https://@broker.example",
                "https://broker.example:port",
                "HTTPS://broker.example",
                "https://broker.example/\u00e4",
                "https://broker.example\n",
                "https://",
                5,
            )
        ),
        *({"audience": audience} for audience in ("", "a b", "a\n", "\u00e4", ["a", "b"])),
        *(
            {"subject": subject}
            for subject in ("", "a b", "a\n", "\u00e4", "{name}", "{task", "a" * 191, "{task}{task}", 5)
        ),
        {"ca": "/ca.pem"},
        {"algorithm": "none"},
    )

    def __init__(self, pages: Pages, secret: Secret) -> None:
        self.pages = pages
        self.secret = secret
        pages.documents = documents(self.parameters(), secret)
        self.parties = {
            "deploy": self.party(),
            "other audience": self.party(audience="https://elsewhere.example"),
            "other task": self.party(subject="agents:acme:t2"),
        }
        self._sessions: list[TokenSession] = []

    def party(self, **changes: str) -> RelyingParty:
        """One that trusts the broker, with these changes."""
        trusted = {"issuer": self.pages.url, "audience": AUDIENCE, "subject": "agents:acme:t1"}
        return RelyingParty(self.pages, **{**trusted, **changes})

    def parameters(self, address: tuple[str, int] | None = None) -> Mapping[str, object]:
        return {"issuer_url": self.pages.url, "audience": AUDIENCE, "subject": SUBJECT}

    def issuer(self, parameters: Mapping[str, object], secret: Secret) -> Issuer:
        table = Parameters("oidc", parameters)
        issuer = BUILTIN["oidc"](table, secret)
        table.done()
        return issuer

    def attempt(self, material: Material, operation: str) -> None:
        try:
            self.parties[operation].claims(material["token"].reveal().decode())
        except jwt.PyJWTError as e:
            raise Refused(str(e)) from None

    def open(self, material: Material) -> TokenSession:
        self._sessions.append(TokenSession(self, material))
        return self._sessions[-1]

    def accounts(self) -> Collection[str]:
        return ()

    def plant(self, name: str) -> None:
        """There is nothing that could be left half made."""

    def remove(self, name: str) -> None:
        """See :meth:`plant`."""

    def expires(self, name: str) -> float | None:
        return None

    def sessions(self, name: str) -> int:
        return len([session for session in self._sessions if not session.closed])
