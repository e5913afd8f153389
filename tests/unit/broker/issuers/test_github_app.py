"""What the issuer of GitHub App tokens reads, signs and says."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from leasehold.broker.issuers.answers import Answer
from leasehold.broker.issuers.github_app import GithubAppIssuer, _granted, _signed, parse, rectangle
from leasehold.broker.issuers.ports import Order
from leasehold.broker.issuers.rest import Rest
from leasehold.core.errors import IssuerError
from leasehold.core.secret import Secret
from leasehold.core.toml import Wrong

NOW = 1_700_000_000
KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)
ORDER = Order(
    name="lh_a", secret=Secret(b"a" * 32), task="t", expires=NOW + 60.0, scope=frozenset({"contents:read on acme/web"})
)
GIVEN: Mapping[str, Any] = {
    "token": "ghs_token",
    "expires_at": "2023-11-14T23:13:20Z",
    "permissions": {"contents": "read"},
    "repository_selection": "selected",
    "repositories": [{"full_name": "Acme/Web"}],
}


def pem(key: Any, form: PrivateFormat = PrivateFormat.PKCS8) -> Secret:
    return Secret(key.private_bytes(Encoding.PEM, form, NoEncryption()))


class ScriptedApi(Rest):
    """Answers each request by its method and path; notes all that is asked."""

    def __init__(self, **statuses: int) -> None:
        super().__init__("https://api.example", "/nonexistent")
        self.statuses = {"GET": 401, "POST": 201, "DELETE": 204, **statuses}
        self.given: Mapping[str, Any] = GIVEN
        self.asked: list[tuple[str, str, str, Any]] = []

    async def ask(self, method: str, path: str, *, authorization: str = "", body: object = None) -> Answer:
        self.asked.append((method, path, authorization, body))
        if path == "/rate_limit":
            return Answer(status=404, fields={}, date=float(NOW))
        return Answer(status=self.statuses[method], fields=self.given if method == "POST" else {}, date=0.0)


def issuer(api: ScriptedApi, *grants: str, key: Secret | None = None) -> GithubAppIssuer:
    allowed = [parse(grant) for grant in grants or ORDER.scope]
    return GithubAppIssuer(api, key or pem(KEY), client="Iv1.a", installation=7, allowed=allowed)


def test_a_grant_has_one_way_in_which_it_is_written() -> None:
    assert str(parse("Contents:READ on Acme/Web.Site")) == "contents:read on acme/web.site"
    with pytest.raises(Wrong, match="no permission members"):
        parse("members:read on acme/web")
    with pytest.raises(Wrong, match="administration:read"):
        parse("administration:write on acme/web")


def test_a_rectangle_is_what_a_token_can_be() -> None:
    four = [parse(f"{what} on acme/{where}") for what in ("contents:read", "issues:write") for where in ("web", "api")]
    assert rectangle(four) == ({"contents": "read", "issues": "write"}, ["acme/api", "acme/web"])
    for less in (four[:3], [four[0], four[3]], [*four, parse("contents:write on acme/web")]):
        with pytest.raises(Wrong, match="each permission in each repository"):
            rectangle(less)
    with pytest.raises(Wrong, match="two owners"):
        rectangle([parse("contents:read on acme/web"), parse("contents:read on rival/web")])


@pytest.mark.parametrize("form", [PrivateFormat.TraditionalOpenSSL, PrivateFormat.PKCS8])
def test_the_app_shows_itself_for_less_than_ten_minutes(form: PrivateFormat) -> None:
    token = _signed(pem(KEY, form), "Iv1.a", NOW)
    claims = jwt.decode(token, KEY.public_key(), algorithms=["RS256"], options={"verify_exp": False})
    assert claims == {"iss": "Iv1.a", "iat": NOW - 60, "exp": NOW + 540}
    with pytest.raises(jwt.InvalidSignatureError):
        jwt.decode(f"{token[:-8]}AAAAAAAA", KEY.public_key(), algorithms=["RS256"], options={"verify_exp": False})


@pytest.mark.parametrize(
    "key",
    [
        Secret(b"no key"),
        pem(ec.generate_private_key(ec.SECP256R1())),
        pem(rsa.generate_private_key(public_exponent=65537, key_size=1024)),  # noqa: S505  too short on purpose
        Secret(KEY.public_key().public_bytes(Encoding.PEM, PublicFormat.PKCS1)),
    ],
)
def test_what_is_no_key_of_an_app_asks_for_nothing(key: Secret) -> None:
    api = ScriptedApi()
    with pytest.raises(IssuerError, match="no private key"):
        asyncio.run(issuer(api, key=key).issue(ORDER))
    assert [method for method, path, *_ in api.asked if path != "/rate_limit"] == []


def test_repositories_and_permissions_are_always_named() -> None:
    api = ScriptedApi()
    issued = asyncio.run(issuer(api).issue(ORDER))
    assert issued.material["token"] == issued.kept == Secret(b"ghs_token")
    assert (issued.scope, issued.expires) == (ORDER.scope, NOW + 3600.0)
    body = {"permissions": {"contents": "read"}, "repositories": ["web"]}
    assert [(method, path, sent) for method, path, _, sent in api.asked] == [
        ("GET", "/rate_limit", None),
        ("POST", "/app/installations/7/access_tokens", body),
    ]


@pytest.mark.parametrize(
    ("changes", "more"),
    [
        ({"permissions": {"contents": "read", "metadata": "read"}}, set()),
        ({"permissions": {"contents": "write"}}, {"contents:write on acme/web"}),
        ({"permissions": {"contents": "read", "metadata": "write"}}, {"metadata:write on acme/web"}),
        ({"repositories": [{"full_name": "acme/web"}, {"id": 5}]}, {"contents:read on none"}),
        ({"repositories": [{"full_name": "acme/web"}, 5]}, {"contents:read on 5"}),
        ({"repository_selection": "all"}, {"contents:read on all repositories"}),
        ({"repository_selection": None}, {"contents:read on all repositories"}),
        ({"repositories": {}}, {"contents:read on all repositories"}),
    ],
)
def test_what_is_more_is_said(changes: Mapping[str, Any], more: set[str]) -> None:
    answer = Answer(status=201, fields={**GIVEN, **changes}, date=0.0)
    assert _granted(answer, ORDER.scope) - ORDER.scope == more


def test_metadata_of_other_repositories_is_more() -> None:
    ordered = {"metadata:read on acme/web"}
    fields = {**GIVEN, "permissions": {"metadata": "read"}, "repositories": [{"full_name": "acme/plans"}]}
    assert _granted(Answer(status=201, fields=fields, date=0.0), ordered) == {"metadata:read on acme/plans"}


@pytest.mark.parametrize("changes", [{"expires_at": "soon"}, {"expires_at": None}, {"permissions": None}])
def test_a_token_of_an_answer_that_says_too_little_ends_itself(changes: Mapping[str, Any]) -> None:
    api = ScriptedApi()
    api.given = {**GIVEN, **changes}
    with pytest.raises(IssuerError, match="no answer to that"):
        asyncio.run(issuer(api).issue(ORDER))
    assert ("DELETE", "/installation/token", "Bearer ghs_token", None) in api.asked


@pytest.mark.parametrize("token", ["", "a b", "a\nb", "t\u00f6ken", 5, None, "a" * 4097])
def test_a_token_that_fits_in_no_header_is_none(token: object) -> None:
    api = ScriptedApi()
    api.given = {**GIVEN, "token": token}
    with pytest.raises(IssuerError, match="no answer to that"):
        asyncio.run(issuer(api).issue(ORDER))


@pytest.mark.parametrize(
    ("status", "said"),
    [(401, "refuses the App's key"), (403, "403"), (404, "404"), (422, "422"), (500, "500"), (302, "302")],
)
def test_each_refusal_says_where_to_look(status: int, said: str) -> None:
    with pytest.raises(IssuerError, match=said) as caught:
        asyncio.run(issuer(ScriptedApi(POST=status)).check())
    assert caught.value.hint


@pytest.mark.parametrize(
    ("first", "then", "gone"), [(204, 401, True), (401, 401, True), (204, 200, False), (500, 401, False)]
)
def test_what_github_still_takes_is_not_gone(first: int, then: int, gone: bool) -> None:
    api = ScriptedApi(DELETE=first, GET=then)
    call = issuer(api).revoke("lh_a", Secret(b"ghs_token"))
    if gone:
        assert asyncio.run(call) is True
        assert {authorization for _, _, authorization, _ in api.asked} == {"Bearer ghs_token"}
    else:
        with pytest.raises(IssuerError):
            asyncio.run(call)


def test_what_nobody_has_is_not_called_gone() -> None:
    api = ScriptedApi()
    assert asyncio.run(issuer(api).revoke("lh_a")) is False
    assert api.asked == []
