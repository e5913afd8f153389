"""What the issuer of Vault's credentials makes of answers that no stand-in gives."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any

import pytest
import requests

from leasehold.broker.issuers.answers import BYTES_MAX, Answer
from leasehold.broker.issuers.ports import Order
from leasehold.broker.issuers.vault import Api, VaultIssuer
from leasehold.core.errors import IssuerError
from leasehold.core.secret import Secret

TOKEN = Secret(b"hvs.of-the-issuer")
PATH = "database/creds/x"
ORDER = Order(name="lh_a", secret=Secret(b"a" * 32), task="t", expires=600.0, scope=frozenset({PATH}))
NO_TOKEN = (403, {"errors": ["1 error occurred:\n\t* invalid accessor\n\n"]})
NO_LEASE = (400, {"errors": ["invalid lease"]})
CHILD = {"data": {"expire_time": "1970-01-01T00:09:00Z", "role": "leasehold", "meta": {"leasehold": "lh_a"}}}
GIVEN = {"lease_id": "database/creds/x/1", "lease_duration": 3600, "data": {"username": "u", "password": "p"}}


class ScriptedApi(Api):
    """Answers each path from a list, the last of which stays; notes all that is asked."""

    def __init__(self, **answers: list[tuple[int, Any]]) -> None:
        super().__init__("https://vault.example", "/nonexistent", "", TOKEN)
        self.answers: dict[str, list[tuple[int, Any]]] = {
            "lookup-self": [(200, {"data": {"policies": ["p"]}})],
            "leasehold": [(200, {"auth": {"client_token": "hvs.child", "accessor": "acc"}})],
            "x": [(200, GIVEN)],
            "lookup-accessor": [(200, CHILD), NO_TOKEN],
            "accessors": [(200, {"data": {"keys": ["acc"]}})],
            "revoke": [(204, {})],
            "revoke-accessor": [(204, {})],
            "lookup": [NO_LEASE],
            **answers,
        }
        self.asked: list[tuple[str, str, Any]] = []

    async def ask(self, method: str, path: str, body: object = None, *, token: Secret | None = None) -> Answer:
        self.asked.append((method, path, body))
        given = self.answers[path.rpartition("/")[2]]
        status, fields = given.pop(0) if len(given) > 1 else given[0]
        return Answer(status=status, fields=fields, date=0.0)


def issuer(api: Api) -> VaultIssuer:
    return VaultIssuer(api, path=PATH, role="leasehold", fields={"username": "username", "password": "password"})


def test_what_vault_says_is_what_is_issued() -> None:
    api = ScriptedApi()
    issued = asyncio.run(issuer(api).issue(ORDER))
    assert (issued.expires, issued.scope) == (540.0, ORDER.scope)
    assert issued.material == {"username": Secret(b"u"), "password": Secret(b"p")}
    [(_, _, body)] = [asked for asked in api.asked if asked[1] == "auth/token/create/leasehold"]
    assert body["ttl"] == body["explicit_max_ttl"] == "595s"
    assert (body["meta"], body["renewable"]) == ({"leasehold": "lh_a"}, False)


@pytest.mark.parametrize(
    "answers",
    [
        {"lookup-accessor": [(200, CHILD)]},
        {"lookup": [(200, {})]},
        {"lookup": [(400, {"errors": ["missing lease_id"]})]},
        {"lookup-accessor": [(403, {"errors": ["permission denied"]})]},
        {"revoke-accessor": [(403, {"errors": ["permission denied"]})]},
        {"revoke": [(403, {"errors": ["permission denied"]})]},
        {"revoke": [(500, {})]},
        {"revoke-accessor": [(503, {})]},
    ],
)
def test_what_is_not_seen_to_be_gone_is_no_success(answers: dict[str, list[tuple[int, Any]]]) -> None:
    with pytest.raises(IssuerError) as caught:
        asyncio.run(issuer(ScriptedApi(**answers)).revoke("lh_a", Secret(b'["acc", "database/creds/x/1"]')))
    assert caught.value.hint


@pytest.mark.parametrize("gone", [NO_TOKEN, (404, {}), (400, NO_TOKEN[1])])
def test_versions_say_in_their_own_ways_that_it_is_gone(gone: tuple[int, Any]) -> None:
    answers = {"lookup-accessor": [gone], "revoke-accessor": [gone], "lookup": [(404, {})]}
    assert asyncio.run(issuer(ScriptedApi(**answers)).revoke("lh_a", Secret(b'["acc", "1"]'))) is True


def test_a_role_that_drops_metadata_is_noticed() -> None:
    other = {"data": {**CHILD["data"], "meta": None}}
    api = ScriptedApi(**{"lookup-accessor": [(200, other), (200, other), NO_TOKEN]})
    with pytest.raises(IssuerError, match="metadata"):
        asyncio.run(issuer(api).check())
    assert ("put", "sys/leases/revoke", {"lease_id": "database/creds/x/1", "sync": True}) in api.asked


@pytest.mark.parametrize("meta", [None, 5, {}, {"leasehold": 5}, {"leasehold": "lhx_a"}, {"leasehold": "lh_A"}])
def test_what_bears_no_name_of_ours_is_left_alone(meta: object) -> None:
    api = ScriptedApi(**{"lookup-accessor": [(200, {"data": {"role": "leasehold", "meta": meta}})]})
    assert asyncio.run(issuer(api).find()) == frozenset()
    assert asyncio.run(issuer(api).revoke("lh_a")) is True


def test_a_token_that_ends_meanwhile_is_none() -> None:
    assert asyncio.run(issuer(ScriptedApi(**{"lookup-accessor": [NO_TOKEN]})).find()) == frozenset()


def test_a_list_that_is_none_is_an_error() -> None:
    with pytest.raises(IssuerError, match="no answer to that"):
        asyncio.run(issuer(ScriptedApi(accessors=[(200, {"data": {}})])).find())


class _Response:
    """Of requests, as far as it is used."""

    ok, status_code = True, 200
    headers = {"date": "Sun, 06 Nov 1994 08:49:37 GMT"}  # noqa: RUF012  nobody changes it

    def __init__(self, pieces: Iterable[bytes]) -> None:
        self._pieces = pieces

    def __enter__(self) -> _Response:
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing is open."""

    def iter_content(self, _size: int) -> Iterable[bytes]:
        return self._pieces


def asked(monkeypatch: pytest.MonkeyPatch, respond: Any) -> Answer:
    monkeypatch.setattr(requests.Session, "request", respond)
    return asyncio.run(Api("https://vault.example", "/nonexistent", "teams", TOKEN).ask("get", PATH))


def test_the_token_goes_in_its_header_and_nowhere_else(monkeypatch: pytest.MonkeyPatch) -> None:
    def respond(session: requests.Session, **request: Any) -> _Response:
        assert (session.trust_env, session.verify, request["allow_redirects"]) == (False, "/nonexistent", False)
        assert request["url"] == "https://vault.example/v1/database/creds/x"
        assert request["headers"] == {
            "X-Vault-Token": TOKEN.reveal().decode(),
            "X-Vault-Namespace": "teams",
            "X-Vault-Request": "true",
        }
        return _Response([b'{"a"', b": 5}"])

    assert asked(monkeypatch, respond).get("a") == 5


def test_an_answer_without_end_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[int] = []

    def pieces() -> Iterable[bytes]:
        while True:
            taken.append(1)
            yield b" " * 65_536

    with pytest.raises(IssuerError, match="no answer to that"):
        asked(monkeypatch, lambda *_, **__: _Response(pieces()))
    assert len(taken) == BYTES_MAX // 65_536 + 1


@pytest.mark.parametrize("error", [requests.ConnectionError, requests.exceptions.InvalidHeader, OSError])
def test_what_the_library_says_is_not_carried_along(monkeypatch: pytest.MonkeyPatch, error: type[Exception]) -> None:
    def respond(*_: Any, **__: Any) -> Any:
        raise error(TOKEN.reveal().decode())

    with pytest.raises(IssuerError, match="cannot be reached") as caught:
        asked(monkeypatch, respond)
    assert caught.value.__context__ is None
