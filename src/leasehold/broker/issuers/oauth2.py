"""Access tokens of an OAuth 2.0 authorization server, taken back by its revocation endpoint.

RFC 6749 (client credentials, refresh token), RFC 8693 (token exchange), RFC 7009 (revocation), RFC 7662
(introspection), RFC 8707 (``resource``), RFC 6750 (bearer tokens).

- What the answer does not say is not guessed, but for the scope: one that is left out is as asked (RFC 6749, 5.1). One
  that names no end would have none that is known, and one of another type than ``Bearer`` is of no use.
- The server is asked what it thinks of the token, where it says that: what it says then counts too. An endpoint that
  answers ``inactive`` to whatever it is asked would call each revocation done; so it has to say ``active`` first. One
  that does not say for whom the token is, where that was asked, may have passed over it: that is no yes.
- What comes from an exchange may be any token (RFC 8693, 2.2.1): only what is said to be an access token is one.
- A server answers 200 to a revocation whether or not it did anything; and who reads a token without asking the server
  takes it until it is over. How a token lasts is the server's affair: it outlasts an order, and is taken back before.
- A refresh token that comes with the answer would last longer than all of it. An issuer has nowhere to keep one, so a
  new one is refused and revoked, also where the server has put it in the place of ours.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote, urlsplit

from leasehold.broker.issuers.answers import Answer
from leasehold.broker.issuers.ports import NAME_PREFIX, Issued, Order
from leasehold.broker.issuers.rest import Rest
from leasehold.broker.lease.machine import Revocability
from leasehold.core.errors import IssuerError
from leasehold.core.secret import Secret
from leasehold.core.toml import Wrong

LASTS_S = 3600
"""How long a token lasts at most, unless the operator says something else."""
LASTS_S_MAX = 86_400
AUTHS = ("basic", "post")
_TYPE = "urn:ietf:params:oauth:token-type:"
_ACCESS_TOKEN = f"{_TYPE}access_token"
_EXCHANGE = "urn:ietf:params:oauth:grant-type:token-exchange"
GRANTS: Mapping[str, tuple[str, ...]] = {
    "client_credentials": (),
    "refresh_token": ("refresh_token",),
    "token_exchange": ("subject_token",),
}
"""By what a token is had, and what the secret holds besides ``client_secret`` then."""
SUBJECT_TYPES = ("access_token", "id_token", "jwt")

_NAME = re.compile(rf"{NAME_PREFIX}[a-z0-9_]{{1,29}}")
_HOST = re.compile(r"[a-z0-9_-]+(?:\.[a-z0-9_-]+)*")
_PATH = re.compile(r"(?:/[A-Za-z0-9._~!$&'()*+,;=:@%-]*)+")
_SCOPE = re.compile(r"[\x21\x23-\x5b\x5d-\x7e]{1,256}")
_TOKEN = re.compile(r"[\x21-\x7e]{1,8192}")
_VISIBLE = re.compile(r"[\x20-\x7e]{1,8192}")
_HINTS = {
    "invalid_client": ("the client's secret", "is it the secret of this client_id, and is auth what the server takes?"),
    "invalid_grant": (
        "the refresh token, or the subject token",
        "it may be over, used up or taken back: get a new one",
    ),
    "invalid_scope": ("the scopes", "the client has to be granted each of them at the server"),
    "invalid_target": ("the audience or the resource", "the client has to be granted it at the server"),
    "unauthorized_client": ("this grant for this client", "allow the client this grant type at the server"),
    "unsupported_grant_type": ("this grant", "look at the parameters grant and token_url"),
    "unsupported_token_type": ("to revoke access tokens", "leave revoke_url out: they end by themselves only"),
}
"""By the names that the RFCs give: what a server refuses, and where to look. Nothing else of its words is told."""
_CLOCK_SLACK_S = 2.0
_MANUAL = "docs/issuers/oauth2.md says what the server has to do"
_DEFECT = "this is a defect in Leasehold; please report it"


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """The endpoints, each a URL, the last two empty where there are none; and how the client asks there.

    ``about``: what is asked besides: ``audience``, ``resource``. ``lasts_s``: the longest that a token lasts, in
    seconds.
    """

    token_url: str
    revoke_url: str
    introspect_url: str
    client_id: str
    auth: str
    grant: str
    subject_type: str = "access_token"
    about: Mapping[str, str] = field(default_factory=dict)
    lasts_s: int = LASTS_S


class Oauth2Issuer:
    """See :class:`leasehold.broker.issuers.ports.Issuer`. ``scopes``: what an order's scope may hold.

    ``secret``: the client's; with another grant than client credentials a JSON object of it and of what is exchanged.
    """

    kind = "oauth2"

    def __init__(self, api: Rest, secret: Secret, server: Server, scopes: Collection[str]) -> None:
        self._api = api
        self._secret = secret
        self._server = server
        self.scope = frozenset(scopes)
        self.revocability = Revocability.NEXT_USE if server.revoke_url else Revocability.TTL_ONLY
        self.outlasts_s = float(server.lasts_s) if server.revoke_url else 0.0

    async def check(self) -> None:
        """Gets a token with all scopes, and takes it back; where nothing does that, nobody has it.

        What is wider, or lasts longer, than an order's may be is an error here too, when it has been taken back.
        """
        token, answer = await self._create(self.scope)
        issued = await self._described(token, answer, self.scope)
        await self._end(token)
        more = sorted(issued.scope - self.scope)
        if more:
            raise IssuerError(
                f"the server gave more than asked: {', '.join(more)}", hint="look at what the client is granted there"
            )
        lasts_s = issued.expires - answer.date
        if self._server.revoke_url and lasts_s > self._server.lasts_s + _CLOCK_SLACK_S:
            raise IssuerError(
                f"the server's tokens last {lasts_s:.0f} s, expected {self._server.lasts_s} at most",
                hint="give the client shorter tokens there, or say in token_lasts_s how long they last",
            )

    async def issue(self, order: Order) -> Issued:
        """A new one at each call."""
        _ours(order.name)
        if not order.scope <= self.scope or not order.scope:
            raise IssuerError("the order's scope is empty, or not in the configured scopes", hint=_DEFECT)
        token, answer = await self._create(order.scope)
        return await self._described(token, answer, order.scope)

    async def revoke(self, name: str, kept: Secret | None = None) -> bool:
        """Have the server revoke it, and see that it says so. One that nobody has ends by itself."""
        _ours(name)
        return kept is not None and await self._end(kept)

    async def find(self) -> Collection[str]:
        """No RFC has a list of tokens."""
        return ()

    async def close(self) -> None:
        await self._api.close()

    async def _create(self, scope: Collection[str]) -> tuple[Secret, Answer]:
        credentials = self._credentials()
        fields = {"grant_type": self._server.grant, "scope": " ".join(sorted(scope)), **self._server.about}
        if self._server.grant == "token_exchange":
            fields |= {
                "grant_type": _EXCHANGE,
                "subject_token": credentials["subject_token"],
                "subject_token_type": f"{_TYPE}{self._server.subject_type}",
                "requested_token_type": _ACCESS_TOKEN,
            }
        elif self._server.grant == "refresh_token":
            fields["refresh_token"] = credentials["refresh_token"]
        answer = await self._post(self._server.token_url, fields)
        token = answer.get("access_token")
        if answer.status != 200 or not isinstance(token, str) or not _TOKEN.fullmatch(token):
            raise _refusal(answer)
        return Secret(token.encode()), answer

    async def _described(self, token: Secret, answer: Answer, asked: frozenset[str]) -> Issued:
        """What the server says of the token that it gave; one that must not be is taken back here."""
        more = answer.get("refresh_token")
        try:
            if more not in (None, self._credentials().get("refresh_token")):
                raise IssuerError(
                    "the server gave a new refresh token, which nothing could keep",
                    hint="have it give this client none, and let the stored one last (no rotation); get a new one",
                )
            if self._server.grant == "token_exchange" and answer.get("issued_token_type") != _ACCESS_TOKEN:
                raise IssuerError("the server does not say that it gave an access token", hint=_MANUAL)
            scope, expires = _promised(answer, asked)
            if self._server.introspect_url:
                scope, expires = await self._seen(token, scope, expires)
            kept = token if self._server.revoke_url else None
            return Issued(material={"token": token}, expires=expires, scope=scope, kept=kept)
        except IssuerError as e:
            failure = e
        try:
            if isinstance(more, str) and _TOKEN.fullmatch(more) and self._server.revoke_url:
                await self._revoked(Secret(more.encode()), "refresh_token")
        finally:
            await self._end(token)
        raise failure

    async def _seen(self, token: Secret, scope: frozenset[str], expires: float) -> tuple[frozenset[str], float]:
        """What the answer has promised, and what introspection says besides."""
        seen = await self._introspected(token)
        if seen.get("active") is not True:
            raise IssuerError(
                "what the server gave is not active by its introspection",
                hint="may this client introspect its tokens there? its revocation could not be read back",
            )
        ends = seen.get("exp")
        if ends is not None:
            expires = max(expires, _number(ends))
        if self._server.about:
            self._check_audience(seen.get("aud"))
        return scope | _scopes(seen, scope), expires

    def _check_audience(self, audience: object) -> None:
        """For whom the token is, by introspection: somebody that was asked for, and nobody else."""
        named = audience if isinstance(audience, list) else [audience]
        if audience is None or not named:
            raise IssuerError(
                "introspection does not say for whom the token is",
                hint="have the server tell its aud, or leave out what it does not regard: audience, resource",
            )
        if not all(isinstance(each, str) and each in self._server.about.values() for each in named):
            raise IssuerError("the token is for another audience than was asked", hint=_MANUAL)

    async def _end(self, token: Secret) -> bool:
        if not self._server.revoke_url:
            return False
        await self._revoked(token, "access_token")
        if self._server.introspect_url:
            seen = await self._introspected(token)
            if seen.get("active") is not False:
                raise IssuerError("the token is still active at the server", hint="it will be tried again")
        return True

    async def _revoked(self, token: Secret, kind: str) -> None:
        fields = {"token": token.reveal().decode(), "token_type_hint": kind}
        ended = await self._post(self._server.revoke_url, fields, heard=False)
        if ended.status != 200:
            raise _refusal(ended)

    async def _introspected(self, token: Secret) -> Answer:
        fields = {"token": token.reveal().decode(), "token_type_hint": "access_token"}
        seen = await self._post(self._server.introspect_url, fields)
        if seen.status != 200 or not isinstance(seen.get("active"), bool):
            raise _refusal(seen)
        return seen

    async def _post(self, url: str, fields: Mapping[str, str], *, heard: bool = True) -> Answer:
        client, secret = self._server.client_id, self._credentials()["client_secret"]
        authorization = ""
        if self._server.auth == "basic":  # each as in a form (RFC 6749, 2.3.1), which not every server reads + in
            pair = ":".join(quote(each, safe="") for each in (client, secret))
            authorization = f"Basic {base64.b64encode(pair.encode()).decode()}"
        else:
            fields = {**fields, "client_id": client, "client_secret": secret}
        return await self._api.form(url, fields, authorization=authorization, heard=heard)

    def _credentials(self) -> Mapping[str, str]:
        """What the secret holds, by its name in RFC 6749 and RFC 8693."""
        names = {"client_secret", *GRANTS[self._server.grant]}
        found: Any = None
        try:
            text = self._secret.reveal().decode()
            found = {"client_secret": text} if len(names) == 1 else json.loads(text)
        except (ValueError, RecursionError):
            found = None
        if not isinstance(found, dict) or {*found} != names or not all(map(_visible, found.values())):
            form = "the client's secret" if len(names) == 1 else f"JSON with {' and '.join(sorted(names))}"
            raise IssuerError(
                "the secret is not what this grant needs, and would be refused", hint=f"{form} belongs there"
            )
        return found


def _promised(answer: Answer, asked: frozenset[str]) -> tuple[frozenset[str], float]:
    """Scope and end of the token, by the answer that it came with."""
    if str(answer.get("token_type")).lower() != "bearer":
        raise IssuerError("the server gave a token that is not of the type Bearer", hint=_MANUAL)
    lasts_s = answer.get("expires_in")
    if lasts_s is None:
        raise IssuerError("the server does not say how long the token lasts", hint="have it send expires_in")
    return _scopes(answer, asked), answer.date + _number(lasts_s)


def _scopes(answer: Answer, default: frozenset[str]) -> frozenset[str]:
    found = answer.get("scope")
    if found is None:
        return default
    if not isinstance(found, str):
        raise IssuerError("the server gave a scope that is no text", hint=_MANUAL)
    return frozenset(found.split(" ")) - {""}


def _number(value: object) -> float:
    """Of seconds; some servers write them as text."""
    if isinstance(value, str) and re.fullmatch(r"\d{1,12}", value):
        return float(value)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < 1e12:
        raise IssuerError("the server gave a time that is no number", hint=_MANUAL)
    return float(value)


def _refusal(answer: Answer) -> IssuerError:
    error = answer.get("error")
    if isinstance(error, str) and error in _HINTS:
        what, hint = _HINTS[error]
        return IssuerError(f"the server refuses {what} ({error}, status {answer.status})", hint=hint)
    if answer.status in (401, 403):
        return IssuerError(f"the server refuses the client (status {answer.status})", hint=_HINTS["invalid_client"][1])
    if answer.status == 200:
        return IssuerError("the server answered with what is no answer to that", hint=_MANUAL)
    return IssuerError(f"the server answered with status {answer.status}", hint="look at the URLs, then at its log")


def _visible(value: object) -> bool:
    return isinstance(value, str) and _VISIBLE.fullmatch(value) is not None


def _ours(name: str) -> None:
    if not _NAME.fullmatch(name):
        raise IssuerError("the name is none that Leasehold gives", hint=_DEFECT)


def endpoint(text: str) -> str:
    """``https://HOST[:PORT]/PATH`` as it stands there; ``Wrong`` for anything else."""
    hint = "write https://HOST/PATH, as the server's documents name it"
    try:
        parts = urlsplit(text)
        host, _ = parts.hostname or "", parts.port
    except ValueError:
        raise Wrong("expected a URL, found something else", hint) from None
    if parts.scheme != "https" or not _HOST.fullmatch(host) or "@" in parts.netloc or not text.isprintable():
        raise Wrong("expected the https:// address of an endpoint, found something else", hint)
    if not _PATH.fullmatch(parts.path) or parts.query or parts.fragment or text.endswith(("?", "#")):
        raise Wrong("expected a URL with a path, without query and fragment, found something else", hint)
    return text


def scope(text: str) -> str:
    """One scope token of RFC 6749, 3.3; ``Wrong`` for anything else."""
    if not _SCOPE.fullmatch(text):
        raise Wrong("expected one scope, found something else", 'write several as ["orders:read", "orders:write"]')
    return text


def client(text: str) -> str:
    """A client's id, RFC 6749, A.1; ``Wrong`` for anything else."""
    if not re.fullmatch(r"[\x20-\x7e]{1,256}", text):
        raise Wrong("expected a client's id, found something else")
    return text


def audience(text: str) -> str:
    """The name of whom tokens are for; ``Wrong`` for anything else."""
    if not _SCOPE.fullmatch(text):
        raise Wrong("expected a text without spaces and quotes, found something else")
    return text


def resource(text: str) -> str:
    """An absolute URI without fragment (RFC 8707)."""
    if not re.fullmatch(r"[a-z][a-z0-9+.-]*:[\x21\x24-\x5b\x5d-\x7e]{1,256}", text):
        raise Wrong("expected an absolute URI, found something else", "such as https://orders.example")
    return text


def lasts(value: int) -> int:
    """The longest that a token lasts, in seconds."""
    if not 1 <= value <= LASTS_S_MAX:
        raise Wrong(f"expected 1 to {LASTS_S_MAX}, found {value}", "give the client shorter tokens at the server")
    return value


def one_of(*choices: str) -> Callable[[str], str]:
    """A check for one of these; ``Wrong`` for anything else."""

    def check(text: str) -> str:
        if text not in choices:
            raise Wrong(f"expected one of {', '.join(choices)}, found something else")
        return text

    return check
