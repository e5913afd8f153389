"""What the issuer of OAuth tokens asks, reads and says, whatever the server does."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from leasehold.broker.issuers.answers import Answer
from leasehold.broker.issuers.oauth2 import Oauth2Issuer, Server, endpoint
from leasehold.broker.issuers.ports import Order
from leasehold.broker.issuers.rest import Rest
from leasehold.core.errors import IssuerError
from leasehold.core.secret import Secret
from leasehold.core.toml import Wrong

NOW = 1_700_000_000.0
ORDER = Order(name="lh_a", secret=Secret(b"a" * 32), task="t", expires=NOW + 60, scope=frozenset({"b", "a"}))
GIVEN: Mapping[str, Any] = {"access_token": "t0ken", "token_type": "Bearer", "expires_in": 60}
SERVER = Server(
    token_url="https://a.example/token",
    revoke_url="https://a.example/revoke",
    introspect_url="https://a.example/introspect",
    client_id="client",
    auth="basic",
    grant="client_credentials",
)
SECRET = Secret(b"s3cr3t/ :+%")


class ScriptedApi(Rest):
    """Answers each form by the end of its URL; notes all that is asked. ``seen``: introspection's, one by one."""

    def __init__(self, **statuses: int) -> None:
        super().__init__("", "/nonexistent")
        self.statuses = {"token": 200, "revoke": 200, "introspect": 200, **statuses}
        self.given: dict[str, Mapping[str, Any]] = {"token": GIVEN, "revoke": {}}
        self.seen: list[Any] = [True, False]
        self.asked: list[tuple[str, Mapping[str, str], str, bool]] = []

    async def form(self, path: str, fields: Mapping[str, str], *, authorization: str, heard: bool = True) -> Answer:
        what = path.rpartition("/")[2]
        self.asked.append((what, fields, authorization, heard))
        given = self.given.get(what)
        found = {"active": self.seen.pop(0)} if given is None else given
        return Answer(status=self.statuses[what], fields=found, date=NOW)


def issuer(api: ScriptedApi, secret: Secret = SECRET, **changes: Any) -> Oauth2Issuer:
    return Oauth2Issuer(api, secret, replace(SERVER, **changes), {"a", "b", "c"})


def test_the_scope_is_always_named_and_the_end_is_by_the_servers_clock() -> None:
    api = ScriptedApi()
    issued = asyncio.run(issuer(api).issue(ORDER))
    assert issued.material["token"] == issued.kept == Secret(b"t0ken")
    assert (issued.scope, issued.expires) == (ORDER.scope, NOW + 60)
    basic = base64.b64encode(b"client:s3cr3t%2F%20%3A%2B%25").decode()
    token = {"token": "t0ken", "token_type_hint": "access_token"}
    assert api.asked == [
        ("token", {"grant_type": "client_credentials", "scope": "a b"}, f"Basic {basic}", True),
        ("introspect", token, f"Basic {basic}", True),
    ]


def test_a_client_that_posts_its_secret_does_so_each_time() -> None:
    api = ScriptedApi()
    asyncio.run(issuer(api, auth="post").check())
    assert [what for what, *_ in api.asked] == ["token", "introspect", "revoke", "introspect"]
    for _, fields, authorization, _ in api.asked:
        assert (fields["client_id"], fields["client_secret"], authorization) == ("client", "s3cr3t/ :+%", "")


@pytest.mark.parametrize("scope", [frozenset[str](), frozenset({"d"}), frozenset({"a", "d"})])
def test_an_order_for_nothing_or_for_more_asks_for_nothing(scope: frozenset[str]) -> None:
    """Without a scope, a server gives all that the client has."""
    api = ScriptedApi()
    with pytest.raises(IssuerError, match="scope"):
        asyncio.run(issuer(api).issue(replace(ORDER, scope=scope)))
    assert api.asked == []


@pytest.mark.parametrize("token", [None, "", 5, "a b", "a\r\nb", "t\u00f6ken", "a" * 8193])
def test_a_token_that_fits_in_no_header_is_none(token: object) -> None:
    api = ScriptedApi()
    api.given["token"] = {**GIVEN, "access_token": token}
    with pytest.raises(IssuerError, match="no answer to that"):
        asyncio.run(issuer(api).issue(ORDER))


@pytest.mark.parametrize(
    ("status", "fields", "said"),
    [
        (400, {"error": "invalid_scope"}, "refuses the scopes"),
        (400, {"error": "invalid_grant"}, "refuses the refresh token"),
        (400, {"error": "invalid_target"}, "refuses the audience"),
        (400, {"error": "unauthorized_client"}, "refuses this grant for this client"),
        (400, {"error": "unsupported_grant_type"}, "refuses this grant"),
        (401, {"error": "invalid_client", "error_description": "s3cr3t is wrong"}, "refuses the client's secret"),
        (401, {}, "refuses the client"),
        (403, {"error": "s3cr3t"}, "refuses the client"),
        (400, {"error": ["invalid_scope"]}, "status 400"),
        (302, {}, "status 302"),
        (500, GIVEN, "status 500"),
        (200, {"error": "s3cr3t"}, "no answer to that"),
    ],
)
def test_each_refusal_says_where_to_look_and_none_of_the_servers_words(
    status: int, fields: Mapping[str, Any], said: str
) -> None:
    api = ScriptedApi(token=status)
    api.given["token"] = fields
    with pytest.raises(IssuerError, match=said) as caught:
        asyncio.run(issuer(api).check())
    assert caught.value.hint
    assert "s3cr3t" not in f"{caught.value} {caught.value.hint}"


@pytest.mark.parametrize(("status", "error"), [(400, "unsupported_token_type"), (401, "invalid_client"), (503, "")])
def test_a_revocation_that_is_not_taken_is_none(status: int, error: str) -> None:
    api = ScriptedApi(revoke=status)
    api.given["revoke"] = {"error": error}
    api.seen = [False]
    with pytest.raises(IssuerError, match=error or str(status)):
        asyncio.run(issuer(api).revoke("lh_a", Secret(b"t0ken")))
    assert [what for what, *_ in api.asked] == ["revoke"]


@pytest.mark.parametrize("active", [True, None, "false", 0, "true"])
def test_what_is_not_said_to_be_inactive_is_not_gone(active: object) -> None:
    api = ScriptedApi()
    api.seen = [active]
    with pytest.raises(IssuerError):
        asyncio.run(issuer(api).revoke("lh_a", Secret(b"t0ken")))
    api.seen = [False]
    assert asyncio.run(issuer(api).revoke("lh_a", Secret(b"t0ken"))) is True
    assert [heard for what, _, _, heard in api.asked if what == "revoke"] == [False, False]


def test_an_introspection_that_fails_proves_nothing() -> None:
    api = ScriptedApi(introspect=401)
    api.seen = [False]
    with pytest.raises(IssuerError, match="401"):
        asyncio.run(issuer(api).revoke("lh_a", Secret(b"t0ken")))


def test_what_nobody_has_is_not_called_gone() -> None:
    api = ScriptedApi()
    assert asyncio.run(issuer(api).revoke("lh_a")) is False
    assert asyncio.run(issuer(api, revoke_url="").revoke("lh_a", Secret(b"t0ken"))) is False
    assert api.asked == []


def test_a_new_refresh_token_is_refused_where_nothing_can_be_revoked_too() -> None:
    api = ScriptedApi()
    api.given["token"] = {**GIVEN, "refresh_token": "new"}
    with pytest.raises(IssuerError, match="new refresh token"):
        asyncio.run(issuer(api, revoke_url="", introspect_url="").issue(ORDER))
    assert [what for what, *_ in api.asked] == ["token"]


def test_what_cannot_be_taken_back_is_not_kept() -> None:
    assert asyncio.run(issuer(ScriptedApi(), revoke_url="").issue(ORDER)).kept is None
    assert asyncio.run(issuer(ScriptedApi()).issue(ORDER)).kept == Secret(b"t0ken")


def test_a_refresh_token_that_is_not_revoked_leaves_no_access_token() -> None:
    api = ScriptedApi(revoke=503)
    api.given["token"] = {**GIVEN, "refresh_token": "new"}
    with pytest.raises(IssuerError, match="503"):
        asyncio.run(issuer(api).issue(ORDER))
    assert [fields["token"] for what, fields, *_ in api.asked if what == "revoke"] == ["new", "t0ken"]


def test_the_longer_of_two_ends_counts() -> None:
    api = ScriptedApi()
    for ends, expires in ((NOW + 90, NOW + 90), (NOW + 30, NOW + 60)):
        api.given["introspect"] = {"active": True, "exp": ends}
        assert asyncio.run(issuer(api).issue(ORDER)).expires == expires


def test_an_endpoint_stays_as_it_is_written() -> None:
    url = "https://login.example:8443/realms/a%20b/protocol/openid-connect/token"
    assert endpoint(url) == url
    for wrong in ("https://login.example", "https://[::1/token", f"{url}?", f"{url}#", f"{url}\n"):
        with pytest.raises(Wrong):
            endpoint(wrong)
