"""What an issuer hears of a provider's API, whatever the API says."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from leasehold.broker.issuers.answers import Answer
from leasehold.broker.issuers.rest import Rest
from leasehold.core.errors import IssuerError

DATE = {"date": "Sun, 06 Nov 1994 08:49:37 GMT"}
SECRET = "Bearer s3cr3t-of-the-issuer"


def asked(respond: Callable[[httpx.Request], httpx.Response], *times: str) -> list[Answer]:
    """The answers to one request after the other, on one client."""

    async def ask() -> list[Answer]:
        rest = Rest("https://api.example", "/nonexistent/ca.pem", {"x-version": "1"})
        rest._client = httpx.AsyncClient(transport=httpx.MockTransport(respond), headers=rest._headers)
        try:
            return [
                await rest.ask("POST", path, authorization=SECRET, body={"name": "lh_a"}) for path in times or ("/a",)
            ]
        finally:
            await rest.close()
            await rest.close()

    return asyncio.run(ask())


def fails(respond: Callable[[httpx.Request], httpx.Response]) -> IssuerError:
    with pytest.raises(IssuerError) as caught:
        asked(respond)
    error = caught.value
    assert error.hint
    assert error.__context__ is None
    assert SECRET not in f"{error!r} {vars(error)}"
    return error


def test_status_fields_and_the_providers_clock_are_passed_on() -> None:
    def respond(request: httpx.Request) -> httpx.Response:
        assert str(request.url) == "https://api.example/a"
        assert request.headers["authorization"] == SECRET
        assert (request.headers["x-version"], request.headers["user-agent"]) == ("1", "leasehold")
        assert request.content == b'{"name":"lh_a"}'
        return httpx.Response(422, json={"a": {"b": "c"}, "n": 5}, headers=DATE)

    [answer] = asked(respond)
    assert (answer.status, answer.date) == (422, 784111777.0)
    assert (answer.get("a", "b"), answer.text("a", "b"), answer.get("n")) == ("c", "c", 5)
    assert answer.get("a", "b", "c") is None
    for keys in (("n",), ("a",), ("a", "x"), ("x", "y")):
        with pytest.raises(IssuerError):
            answer.text(*keys)


@pytest.mark.parametrize("body", [b"", b" ", b"[]", b'"text"', b"5", b"null"])
def test_what_is_no_object_has_no_fields(body: bytes) -> None:
    [answer] = asked(lambda _: httpx.Response(200, content=body, headers=DATE))
    assert answer.fields == {}


@pytest.mark.parametrize(
    ("body", "headers"),
    [
        (b"<html>", DATE),
        (b"{", DATE),
        (b"\xff", DATE),
        (b"[" * 100_000, DATE),
        (b"{}" + b" " * (1 << 20), DATE),
        (b"{}", {}),
        (b"{}", {"date": "yesterday"}),
    ],
)
def test_nonsense_is_an_error(body: bytes, headers: dict[str, str]) -> None:
    assert "no answer to that" in fails(lambda _: httpx.Response(200, content=body, headers=headers)).message


def test_no_answer_is_an_error() -> None:
    def respond(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError(SECRET, request=request)

    assert "cannot be reached" in fails(respond).message


def test_a_file_of_authorities_that_is_not_there_is_an_error() -> None:
    with pytest.raises(IssuerError, match="cannot be reached") as caught:
        asyncio.run(Rest("https://api.example", "/nonexistent/ca.pem").ask("GET", "/"))
    assert "ca" in caught.value.hint


def test_a_redirect_is_an_answer_and_a_cookie_is_not_sent_back() -> None:
    seen: list[Any] = []

    def respond(request: httpx.Request) -> httpx.Response:
        seen.append((request.url.host, request.headers.get("cookie")))
        return httpx.Response(302, headers={**DATE, "location": "https://evil.example/", "set-cookie": "a=b"})

    assert [answer.status for answer in asked(respond, "/a", "/b")] == [302, 302]
    assert seen == [("api.example", None), ("api.example", None)]


def test_what_the_environment_says_is_not_asked(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    """A proxy there, or a file of passwords."""
    from servers.ca import TestCa

    made: list[dict[str, Any]] = []
    real = httpx.AsyncClient

    def client(**options: Any) -> httpx.AsyncClient:
        made.append(options)
        options.pop("verify")
        return real(transport=httpx.MockTransport(lambda _: httpx.Response(200, headers=DATE)), **options)

    monkeypatch.setattr(httpx, "AsyncClient", client)
    asyncio.run(Rest("https://api.example", str(TestCa(tmp_path).path)).ask("GET", "/"))
    assert (made[0]["trust_env"], made[0]["follow_redirects"]) == (False, False)


@pytest.mark.parametrize(
    ("text", "instant"),
    [
        ("1994-11-06T08:49:37Z", 784111777.0),
        ("1994-11-06T09:49:37+01:00", 784111777.0),
        ("1994-11-06T08:49:37.500000001Z", 784111777.5),
    ],
)
def test_times_are_read(text: str, instant: float) -> None:
    assert Answer(status=200, fields={"t": text}, date=0.0).instant("t") == instant


@pytest.mark.parametrize("value", ["", "1994-11-06T08:49:37", "1994-11-06", "Sun, 06 Nov 1994 08:49:37 GMT", 5, None])
def test_what_is_no_time_is_an_error(value: object) -> None:
    with pytest.raises(IssuerError):
        Answer(status=200, fields={"t": value}, date=0.0).instant("t")


def test_a_form_is_posted_as_one_and_its_answer_is_heard_where_it_means_something() -> None:
    def respond(request: httpx.Request) -> httpx.Response:
        assert (request.method, request.headers["authorization"]) == ("POST", SECRET)
        assert request.headers["content-type"] == "application/x-www-form-urlencoded"
        assert request.content == b"token=a%26b+c&hint=%C3%A4"
        return httpx.Response(200, content=b"done", headers=DATE)

    async def ask() -> None:
        rest = Rest("https://api.example", "/nonexistent/ca.pem")
        rest._client = httpx.AsyncClient(transport=httpx.MockTransport(respond), headers=rest._headers)
        fields = {"token": "a&b c", "hint": "\u00e4"}
        answer = await rest.form("/a", fields, authorization=SECRET, heard=False)
        assert (answer.status, answer.fields) == (200, {})
        with pytest.raises(IssuerError):
            await rest.form("/a", fields, authorization=SECRET)
        await rest.close()

    asyncio.run(ask())


@pytest.mark.parametrize(("method", "times"), [("GET", 2), ("PUT", 2), ("DELETE", 2), ("POST", 1)])
def test_what_may_be_asked_twice_is_asked_again_on_another_connection(method: str, times: int) -> None:
    """The server may have been closing the one that was kept, when it was asked on it."""
    tried = []

    def respond(request: httpx.Request) -> httpx.Response:
        tried.append(request.method)
        if len(tried) == 1:
            raise httpx.ReadError("reset", request=request)
        return httpx.Response(200, json=[{"name": "a"}], headers=DATE)

    async def ask() -> Answer:
        rest = Rest("https://api.example", "/nonexistent/ca.pem")
        rest._client = httpx.AsyncClient(transport=httpx.MockTransport(respond))
        return await rest.ask(method, "/a", authorization=SECRET)

    if times == 1:
        with pytest.raises(IssuerError):
            asyncio.run(ask())
    else:
        assert asyncio.run(ask()).listed() == [{"name": "a"}]
    assert tried == [method] * times


def test_who_hangs_up_again_is_not_asked_for_ever() -> None:
    tried = []

    def respond(request: httpx.Request) -> httpx.Response:
        tried.append(request.method)
        raise httpx.RemoteProtocolError("hung up", request=request)

    async def ask() -> None:
        rest = Rest("https://api.example", "/nonexistent/ca.pem")
        rest._client = httpx.AsyncClient(transport=httpx.MockTransport(respond))
        await rest.ask("GET", "/a", authorization=SECRET)

    with pytest.raises(IssuerError) as caught:
        asyncio.run(ask())
    assert caught.value.__context__ is None
    assert len(tried) == 2


@pytest.mark.parametrize("body", [b"", b"{}", b"5", b"null", b"[5]", b'[{}, "a"]'])
def test_what_is_no_list_of_objects_is_not_taken_for_an_empty_one(body: bytes) -> None:
    [answer] = asked(lambda _: httpx.Response(200, content=body, headers=DATE))
    with pytest.raises(IssuerError):
        answer.listed()
    [answer] = asked(lambda _: httpx.Response(200, content=b"[]", headers=DATE))
    assert answer.listed() == []
