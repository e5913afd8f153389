"""Who trusts the tokens of an OpenID provider: its documents are fetched over TLS, and PyJWT does the rest."""

from __future__ import annotations

import json
import ssl
from collections.abc import Mapping
from typing import Any

import httpx
import jwt

from servers.standin import ADDRESS, Asked, StandIn


class Pages(StandIn):
    """Serves ``documents`` by their paths, below :attr:`url`."""

    def __init__(self) -> None:
        self.documents: Mapping[str, bytes] = {}
        super().__init__("oidc")

    @property
    def url(self) -> str:
        return f"https://{ADDRESS}:{self.port}/broker"

    def answer(self, asked: Asked) -> tuple[int, Any]:
        found = self.documents.get(asked.path.removeprefix("/broker/"))
        return (404, {}) if found is None else (200, json.loads(found))


class RelyingParty:
    """``issuer``: whom it trusts; ``audience``: who it is; ``subject``: whom it lets in.

    It believes no algorithm that the provider's documents do not name, and looks for keys nowhere else.
    """

    def __init__(self, pages: Pages, *, issuer: str, audience: str, subject: str) -> None:
        self._trust = ssl.create_default_context(cafile=str(pages.ca))
        self._issuer, self._audience, self._subject = issuer, audience, subject

    def claims(self, token: str) -> Mapping[str, Any]:
        """What the token says; ``jwt.PyJWTError`` when it is not to be believed."""
        path = f"{self._issuer}/.well-known/openid-configuration"
        discovery = httpx.get(path, verify=self._trust, trust_env=False).json()
        if discovery.get("issuer") != self._issuer:
            raise jwt.InvalidIssuerError("the documents are another's")
        keys = jwt.PyJWKClient(discovery["jwks_uri"], ssl_context=self._trust, cache_jwk_set=False)
        claims: Mapping[str, Any] = jwt.decode(
            token,
            keys.get_signing_key_from_jwt(token),
            algorithms=discovery["id_token_signing_alg_values_supported"],
            audience=self._audience,
            issuer=self._issuer,
            options={"require": ["iss", "sub", "aud", "iat", "nbf", "exp", "jti"], "strict_aud": True},
        )
        if claims["sub"] != self._subject:
            raise jwt.InvalidTokenError("somebody else")
        return claims
