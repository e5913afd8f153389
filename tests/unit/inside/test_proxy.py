"""Heads of requests to the explicit proxy: what goes on, what has to wait, what is refused."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from leasehold.inside.proxy import Head, read_head, refusal

NAMES = {"api.forge.test", "docs.test"}
PORTS = {80, 443}
LIMIT = 200


def read(data: bytes) -> Head | None:
    return read_head(data, NAMES, PORTS, LIMIT)


def code(data: bytes) -> str:
    head = read(data)
    return head.refused[1] if head and head.refused else ""


@pytest.mark.parametrize("version", ["1.0", "1.1"])
@pytest.mark.parametrize("target", ["api.forge.test:443", "API.Forge.Test:443", "api.forge.test.:443"])
def test_connect(target: str, version: str) -> None:
    head = read(f"CONNECT {target} HTTP/{version}\r\nHost: x\r\n\r\n".encode())
    assert head == Head(host="api.forge.test", port=443, answer=b"HTTP/1.1 200 OK\r\n\r\n")


@pytest.mark.parametrize(
    ("first", "host", "port"),
    [
        (b"GET http://docs.test/a?b=c HTTP/1.1", "docs.test", 80),
        (b"GET http://docs.test HTTP/1.0", "docs.test", 80),
        (b"PROPFIND http://docs.test:443/ HTTP/1.1", "docs.test", 443),
        (b"GET http://docs.test?x HTTP/1.1", "docs.test", 80),
    ],
)
def test_the_absolute_form_goes_on_as_it_came(first: bytes, host: str, port: int) -> None:
    data = first + b"\r\nHost: docs.test\r\n\r\nbody"
    assert read(data) == Head(host=host, port=port, forward=data)


def test_a_head_that_is_not_complete_has_to_wait() -> None:
    data = b"CONNECT api.forge.test:443 HTTP/1.1\r\n\r\n"
    assert [read(data[:length]) for length in range(len(data))] == [None] * len(data)
    assert read(data) is not None


def test_a_head_that_does_not_end_is_refused_at_the_limit() -> None:
    assert read(b"x" * LIMIT) is None
    assert code(b"x" * (LIMIT + 1)) == "headers-too-large"


@pytest.mark.parametrize(
    "first",
    [
        b"",
        b"GET / HTTP/1.1",
        b"GET https://docs.test/ HTTP/1.1",
        b"GET http://user:word@docs.test/ HTTP/1.1",
        b"GET http:///x HTTP/1.1",
        b"get http://docs.test/ HTTP/1.1",
        b"GET http://docs.test/\x01 HTTP/1.1",
        b"GET http://docs\xc3\xa9.test/ HTTP/1.1",
        b"GET http://docs.test\t/ HTTP/1.1",
        b"GET http://docs.test/ HTTP/2.0",
        b"GET  http://docs.test/ HTTP/1.1",
        b"GET http://docs.test/ HTTP/1.1 ",
        b"CONNECT  HTTP/1.1",
        b"CONNECT api.forge.test:443 HTTP/1.1\n",
        b"CONNECT api.forge.test:443",
        b"CONNECT api.forge.test:443 x HTTP/1.1",
        b"connect api.forge.test:443 HTTP/1.1",
    ],
)
def test_what_is_not_for_a_proxy_is_malformed(first: bytes) -> None:
    assert code(first + b"\r\n\r\n") == "request-malformed"


UNREACHED = [
    "evil.test:443",
    "api.forge.test:22",
    "api.forge.test:0",
    "api.forge.test:0443",
    "api.forge.test:443443443",
    "api.forge.test:+443",
    "api.forge.test:",
    "api.forge.test",
    "docs.test:80:443",
    "[::1]:443",
    "127.0.0.1:443",
    "api_forge:443",
    ":443",
    "*:443",
    "a..b:443",
]


@pytest.mark.parametrize("target", UNREACHED)
def test_only_names_and_ports_of_the_compartment_are_reached(target: str) -> None:
    assert code(f"CONNECT {target} HTTP/1.1\r\n\r\n".encode()) == "host-not-allowed"
    assert code(b"CONNECT api.forge.test:443 HTTP/1.1\r\n\r\n") == ""


def test_a_refusal_names_the_host_only_when_it_is_one() -> None:
    refused = read(b"CONNECT Evil.test:443 HTTP/1.1\r\n\r\n")
    assert refused is not None and refused.host == "evil.test"
    unnamed = read(b"CONNECT -:443 HTTP/1.1\r\n\r\n")
    assert unnamed is not None and unnamed.host == ""


def test_data_before_the_answer_to_connect_is_refused() -> None:
    assert code(b"CONNECT api.forge.test:443 HTTP/1.1\r\n\r\nG") == "early-data"


def test_a_refusal_is_a_whole_response() -> None:
    head = read(b"CONNECT evil.test:443 HTTP/1.1\r\n\r\n")
    assert head is not None
    start, _, body = refusal(head).partition(b"\r\n\r\n")
    lines = start.decode().split("\r\n")
    assert lines[0] == "HTTP/1.1 403 Refused" and "connection: close" in lines
    assert f"content-length: {len(body)}" in lines and "x-leasehold-decision: deny; code=host-not-allowed" in lines
    error = json.loads(body)["error"]
    assert error["code"] == "host-not-allowed" and error["message"].startswith("evil.test port 443 ")
    assert "leasehold grants" in error["hint"]


@given(st.binary(max_size=2 * LIMIT))
def test_no_bytes_reach_what_is_not_allowed(data: bytes) -> None:
    for given_bytes in (data, b"CONNECT " + data + b" HTTP/1.1\r\n\r\n", b"GET http://" + data + b" HTTP/1.1\r\n\r\n"):
        head = read(given_bytes)
        assert head is None or head.refused or (head.host in NAMES and head.port in PORTS)
