"""An authorization server and what it guards: Authlib in Flask, over TLS on loopback.

Authlib does what the RFCs say; here is what it leaves to whoever uses it: where clients and tokens are kept, the grant
of RFC 8693, and what an API lets a token do. What a server may do wrong is done by the attributes of the class.
"""

# mypy: disallow-subclassing-any=False, disable-error-code=import-untyped
# Authlib comes without types.

from __future__ import annotations

import secrets
import shutil
import tempfile
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from http.client import HTTPSConnection
from pathlib import Path
from typing import Any

from authlib.integrations.flask_oauth2 import AuthorizationServer, ResourceProtector
from authlib.oauth2.rfc6749 import ClientMixin, TokenMixin, scope_to_list
from authlib.oauth2.rfc6749.errors import InvalidGrantError
from authlib.oauth2.rfc6749.grants import BaseGrant, ClientCredentialsGrant, RefreshTokenGrant, TokenEndpointMixin
from authlib.oauth2.rfc6750 import BearerTokenValidator
from authlib.oauth2.rfc7009 import RevocationEndpoint
from authlib.oauth2.rfc7662 import IntrospectionEndpoint
from flask import Flask, Response, jsonify, request
from werkzeug.serving import WSGIRequestHandler, make_server

from servers.ca import TestCa
from servers.standin import ADDRESS

LASTS_S = 3600
CLIENT_ID = "leasehold: of acme"
"""With what has to be escaped in a header."""
SCOPES = ("orders:read", "orders:write", "plans:read", "users:admin")
NEEDS = {("GET", "orders"): "orders:read", ("POST", "orders"): "orders:write"}
NEEDS |= {("GET", "plans"): "plans:read", ("DELETE", "users"): "users:admin"}
EXCHANGE = "urn:ietf:params:oauth:grant-type:token-exchange"
TOKEN_TYPE = "urn:ietf:params:oauth:token-type"
METHODS = ("client_secret_basic", "client_secret_post")


@dataclass(kw_only=True)
class Token(TokenMixin):
    """``about``: the audience and the resource that it is for."""

    access: str
    refresh: str
    scope: str
    issued: float
    about: Mapping[str, str]
    revoked: bool = False

    @property
    def expires(self) -> int:
        return int(self.issued) + LASTS_S

    def check_client(self, client: Any) -> bool:
        return isinstance(client, Client)

    def get_scope(self) -> str:
        return self.scope

    def is_expired(self) -> bool:
        return time.time() >= self.expires

    def is_revoked(self) -> bool:
        return self.revoked


class Client(ClientMixin):
    """One that may have all scopes but the last, in each way."""

    def __init__(self, secret: str) -> None:
        self.secret = secret
        self.methods: tuple[str, ...] = METHODS

    def get_client_id(self) -> str:
        return CLIENT_ID

    def get_allowed_scope(self, scope: str) -> str:
        allowed = {*SCOPES[:-1]}
        return " ".join(each for each in scope_to_list(scope) or sorted(allowed) if each in allowed)

    def check_client_secret(self, client_secret: str) -> bool:
        return secrets.compare_digest(self.secret, client_secret)

    def check_endpoint_auth_method(self, method: str, endpoint: str) -> bool:
        return method in self.methods

    def check_grant_type(self, grant_type: str) -> bool:
        return True


class OauthServer:
    """``client``: the one that there is. ``tokens``: all, alive or not. ``asked``: the forms that came.

    ``altered``: laid over the next answers, by path; ``None`` takes a field out. ``deaf``: revocation is answered, and
    not done. ``rotates``: each use of a refresh token gives another.
    """

    def __init__(self) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="lh-oauth-"))
        ca = TestCa(self._folder)
        self.ca = ca.path
        self._trust = ca.client_context()
        self.client = Client(secrets.token_urlsafe(24) + ":+% /")
        self.tokens: list[Token] = []
        self.asked: list[tuple[str, Mapping[str, str], Mapping[str, str]]] = []
        self.altered: dict[str, Mapping[str, Any]] = {}
        self.deaf = self.rotates = False
        self.subject_token = secrets.token_urlsafe(24)
        self._server = make_server(
            ADDRESS,
            0,
            _app(self),
            threaded=True,
            request_handler=_Silent,
            ssl_context=ca.server_context((ADDRESS,)),
        )
        self.port: int = self._server.server_port
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})
        self._thread.start()

    def refresh_token(self) -> str:
        """A new one, for all that the client may have, as a person's consent gives it."""
        token = Token(
            access=secrets.token_urlsafe(24),
            refresh=secrets.token_urlsafe(24),
            scope=self.client.get_allowed_scope(""),
            issued=0.0,
            about={},
        )
        self.tokens.append(token)
        return token.refresh

    def alive(self) -> list[Token]:
        """The access tokens that the server takes."""
        return [token for token in self.tokens if not token.is_expired() and not token.revoked]

    def connection(self) -> HTTPSConnection:
        """For a client of the API, which goes past the issuer."""
        return HTTPSConnection(ADDRESS, self.port, timeout=10, context=self._trust)

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
        shutil.rmtree(self._folder, ignore_errors=True)


class _Silent(WSGIRequestHandler):
    protocol_version = "HTTP/1.1"

    def log(self, type: str, message: str, *args: Any) -> None:  # noqa: A002  the base class's name
        """Nothing is printed."""


def _app(home: OauthServer) -> Flask:
    app = Flask("oauth")
    app.config["OAUTH2_SCOPES_SUPPORTED"] = list(SCOPES)
    app.config["OAUTH2_REFRESH_TOKEN_GENERATOR"] = True
    app.config["OAUTH2_TOKEN_EXPIRES_IN"] = dict.fromkeys(("client_credentials", "refresh_token", EXCHANGE), LASTS_S)

    def save(given: Mapping[str, Any], asked: Any) -> None:
        home.tokens.append(
            Token(
                access=given["access_token"],
                refresh=given.get("refresh_token", ""),
                scope=given.get("scope", ""),
                issued=time.time(),
                about={key: asked.form[key] for key in ("audience", "resource") if key in asked.form},
            )
        )

    server = AuthorizationServer(
        app, query_client=lambda name: home.client if name == CLIENT_ID else None, save_token=save
    )
    for grant in (_Credentials, _refresh(home), _exchange(home)):
        server.register_grant(grant)
    for endpoint in (_revocation(home), _introspection(home)):
        server.register_endpoint(endpoint)
    guard = ResourceProtector()
    guard.register_token_validator(_validator(home))

    @app.post("/oauth/token")
    def token() -> Any:
        return server.create_token_response()

    @app.post("/oauth/revoke")
    def revoke() -> Any:
        return server.create_endpoint_response("revocation")

    @app.post("/oauth/introspect")
    def introspect() -> Any:
        return server.create_endpoint_response("introspection")

    @app.route("/api/<what>", methods=["GET", "POST", "DELETE"])
    def api(what: str) -> Any:
        with guard.acquire([NEEDS[request.method, what]]):
            return jsonify({})

    @app.after_request
    def told(response: Response) -> Response:
        home.asked.append((request.path, request.form.to_dict(), {**request.headers}))
        if request.path in home.altered:
            changed = {**(response.get_json(silent=True) or {}), **home.altered[request.path]}
            return jsonify({name: value for name, value in changed.items() if value is not None})
        return response

    return app


class _Credentials(ClientCredentialsGrant):
    TOKEN_ENDPOINT_AUTH_METHODS = METHODS


def _refresh(home: OauthServer) -> type[RefreshTokenGrant]:
    class Refresh(RefreshTokenGrant):
        TOKEN_ENDPOINT_AUTH_METHODS = METHODS

        @property
        def INCLUDE_NEW_REFRESH_TOKEN(self) -> bool:  # noqa: N802  Authlib's name
            return home.rotates

        def authenticate_refresh_token(self, text: str) -> Token | None:
            return next((each for each in home.tokens if each.refresh == text and not each.revoked), None)

        def authenticate_user(self, token: Token) -> str:
            return "someone"

        def revoke_old_credential(self, token: Token) -> None:
            token.revoked = home.rotates

    return Refresh


def _exchange(home: OauthServer) -> type[BaseGrant]:
    class Exchange(BaseGrant, TokenEndpointMixin):
        GRANT_TYPE = EXCHANGE
        TOKEN_ENDPOINT_AUTH_METHODS = METHODS

        def validate_token_request(self) -> None:
            self.request.client = self.authenticate_token_endpoint_client()
            form = self.request.form
            if form.get("subject_token") != home.subject_token:
                raise InvalidGrantError()
            if form.get("subject_token_type") != f"{TOKEN_TYPE}:access_token":
                raise InvalidGrantError()
            self.validate_requested_scope()

        def create_token_response(self) -> Any:
            token = self.generate_token(scope=self.request.payload.scope, include_refresh_token=False)
            token["issued_token_type"] = f"{TOKEN_TYPE}:access_token"
            self.save_token(token)
            return 200, token, self.TOKEN_RESPONSE_HEADER

    return Exchange


def _found(home: OauthServer, text: str) -> Token | None:
    return next((each for each in home.tokens if text in (each.access, each.refresh)), None)


def _revocation(home: OauthServer) -> type[RevocationEndpoint]:
    class Revocation(RevocationEndpoint):
        CLIENT_AUTH_METHODS = METHODS

        def query_token(self, text: str, hint: str | None) -> Token | None:
            return _found(home, text)

        def revoke_token(self, token: Token, asked: Any) -> None:
            token.revoked = not home.deaf

    return Revocation


def _introspection(home: OauthServer) -> type[IntrospectionEndpoint]:
    class Introspection(IntrospectionEndpoint):
        CLIENT_AUTH_METHODS = METHODS

        def query_token(self, text: str, hint: str | None) -> Token | None:
            return _found(home, text)

        def check_permission(self, token: Token, client: Client, asked: Any) -> bool:
            return True

        def introspect_token(self, token: Token) -> Mapping[str, Any]:
            audience = {"aud": [*token.about.values()]} if token.about else {}
            return {"client_id": CLIENT_ID, "scope": token.scope, "exp": token.expires, **audience}

    return Introspection


def _validator(home: OauthServer) -> BearerTokenValidator:
    class Validator(BearerTokenValidator):
        def authenticate_token(self, text: str) -> Token | None:
            return next((each for each in home.tokens if each.access == text), None)

    return Validator()
