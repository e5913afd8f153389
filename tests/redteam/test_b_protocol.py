"""BOUNDARY area B: the proxy's own protocol handling."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from redteam.attack import HOST, attacker_got, carried, get, http2, raw, reached, works

if TYPE_CHECKING:
    from servers.harness import Leasehold

_UPGRADE = ("upgrade: websocket", "connection: upgrade", "sec-websocket-version: 13", "sec-websocket-key: c2FtcGxl")


@pytest.fixture(autouse=True)
def fresh(leasehold: Leasehold) -> None:
    leasehold.up.api.clear()
    leasehold.up.evil.clear()


def _request(path: str, *headers: str, method: str = "GET") -> bytes:
    return "\r\n".join([f"{method} {path} HTTP/1.1", f"host: {HOST}", *headers, "", ""]).encode("latin-1")


def test_b2_an_upgrade_that_was_answered_with_200_is_no_tunnel(leasehold: Leasehold) -> None:
    smuggled = get("/user/keys", method="POST")
    answer = raw(leasehold, _request("/upgrade", *_UPGRADE), smuggled)
    assert reached(leasehold, "/upgrade"), answer
    assert not reached(leasehold, "/user/keys"), answer
    works(leasehold)


def test_b3_data_behind_connect_before_its_answer(leasehold: Leasehold) -> None:
    early = b"CONNECT api.forge.test:443 HTTP/1.1\r\nhost: api.forge.test:443\r\n\r\nGET /user HTTP/1.1\r\n\r\n"
    answer = raw(leasehold, early, host="127.0.0.1", port=3128, sni=None)
    assert "200" not in answer.partition("\r\n")[0]
    refused = b"CONNECT evil.test:443 HTTP/1.1\r\nhost: evil.test:443\r\n\r\n"
    answer = raw(leasehold, refused, _request("/"), host="127.0.0.1", port=3128, sni=None)
    assert answer.startswith("HTTP/1.1 403") and '"hint"' in answer and answer.count("HTTP/1.1") == 1
    assert not carried(leasehold) and not attacker_got(leasehold)
    works(leasehold)


@pytest.mark.parametrize(
    "path",
    ["/v1/../user", "/v1/%2e%2e/user", "/v1/%2E./user", "/v1/.%2e/user", "/v1/..%2fuser", "/v1/..%5cuser",
     "/v1\\..\\user", "/v1/..;/user", "/v1/..;x/user", "/v1/.;/../user", "//user", "/v1//../..//user",
     "/v1/%252e%252e/user",
     "/v1/x%00/../../user", "/repos/acme/web/..%2f..%2f..%2fuser", "/repos/acme/webhooks", "/%75ser", "/user"],
)  # fmt: skip
def test_b4_paths_that_servers_read_differently(leasehold: Leasehold, path: str) -> None:
    answer = raw(leasehold, get(path))
    assert answer.startswith(("HTTP/1.1 403", "HTTP/1.1 400")), answer
    assert not carried(leasehold) and not leasehold.up.api.recorded()
    works(leasehold)


def test_b4_what_is_checked_is_what_is_forwarded(leasehold: Leasehold) -> None:
    assert "200 OK" in raw(leasehold, get("/user/../v1//me/./"))
    assert reached(leasehold, "/v1/me/") and not reached(leasehold, "..")


@pytest.mark.parametrize("header", ["x_api_key: mine", "authorization_: mine", "x_http_method_override: DELETE"])
def test_b6_headers_with_underscores_are_refused(leasehold: Leasehold, header: str) -> None:
    assert raw(leasehold, get("/v1/me", header)).startswith("HTTP/1.1 400")
    assert not leasehold.up.api.recorded()
    works(leasehold)


@pytest.mark.parametrize("header", ["X-API-KEY: mine-4711", "AuThOrIzAtIoN: Bearer mine-4711"])
def test_b6_case_hides_no_carrier(leasehold: Leasehold, header: str) -> None:
    assert "200 OK" in raw(leasehold, get("/v1/me", header))
    assert carried(leasehold) and not reached(leasehold, "mine-4711")


@pytest.mark.parametrize("header", ["a: b\rc: d", "a: b\0c", "a\0: b", "a: b\n c: d\r", " folded: x", "a : b"])
def test_b7_line_ends_and_nul_in_headers(leasehold: Leasehold, header: str) -> None:
    answer = raw(leasehold, get("/v1/me", header))
    # What was forwarded, if anything, is one field on one line.
    assert not any(reached(leasehold, split) for split in ("\nc: d", "b\r", "b\0")), answer
    works(leasehold)


@pytest.mark.parametrize(
    "framing",
    [("content-length: 5", "transfer-encoding: chunked"), ("content-length: 5", "content-length: 6"),
     ("transfer-encoding: xchunked",), ("transfer-encoding: chunked, identity",), ("content-length: +5",)],
)  # fmt: skip
def test_b7_ambiguous_framing_smuggles_nothing(leasehold: Leasehold, framing: tuple[str, ...]) -> None:
    body = b"0\r\n\r\n" + get("/user/keys", method="POST")
    raw(leasehold, _request("/v1/me", *framing, method="POST") + body)
    assert not reached(leasehold, "POST /user/keys HTTP")
    works(leasehold)


def test_b15_an_upgrade_needs_a_rule_of_its_own(leasehold: Leasehold) -> None:
    answer = raw(leasehold, _request("/v1/me", *_UPGRADE))
    assert answer.startswith("HTTP/1.1 403"), answer
    assert not leasehold.up.api.recorded()
    assert "101 Switching" in raw(leasehold, _request("/ws", *_UPGRADE))


def test_b17_connect_inside_tls_and_extended_connect(leasehold: Leasehold) -> None:
    connect = b"CONNECT evil.test:443 HTTP/1.1\r\nhost: evil.test:443\r\n\r\n"
    assert not raw(leasehold, connect).startswith("HTTP/1.1 200")
    for protocol in ("websocket", "connect-udp"):
        target = (f":authority={HOST}", ":path=/v1/me")
        fields = (":method=CONNECT", f":protocol={protocol}", ":scheme=https", *target)
        assert "HTTP 200" not in http2(leasehold, *fields)
    assert not carried(leasehold) and not attacker_got(leasehold)
    works(leasehold)


@pytest.mark.parametrize("header", ["X-HTTP-Method-Override", "X-HTTP-Method", "X-Method-Override", "X-Original-URL"])
def test_b18_headers_that_change_the_method_or_path(leasehold: Leasehold, header: str) -> None:
    answer = raw(leasehold, get("/v1/me", f"{header}: DELETE"))
    assert answer.startswith("HTTP/1.1 403") and "method-override" in answer
    assert not leasehold.up.api.recorded()
    works(leasehold)


def test_b19_no_header_of_the_client_skips_policy(leasehold: Leasehold) -> None:
    signals = ("user-agent: Mozilla/5.0", "x-envoy-internal: true", "x-forwarded-for: 127.0.0.1", "via: 1.1 x",
               "x-envoy-original-path: /v1/me", "x-leasehold-decision: allow")  # fmt: skip
    assert raw(leasehold, get("/user", *signals)).startswith("HTTP/1.1 403")
    assert not leasehold.up.api.recorded()
    works(leasehold)


@pytest.mark.parametrize("method", ["TRACE", "CONNECT", "PATCH", "TRACK", "get"])
def test_b20_methods_that_no_rule_names(leasehold: Leasehold, method: str) -> None:
    answer = raw(leasehold, get("/v1/me", method=method))
    assert answer.startswith(("HTTP/1.1 403", "HTTP/1.1 400", "HTTP/1.1 404", "HTTP/1.1 421")), answer
    assert not leasehold.up.api.recorded()
    works(leasehold)


@pytest.mark.parametrize("headers", [("big: " + "x" * 70_000,), tuple(f"h{i}: x" for i in range(150))])
def test_b22_oversized_or_many_headers(leasehold: Leasehold, headers: tuple[str, ...]) -> None:
    answer = raw(leasehold, get("/v1/me", *headers))
    assert answer.startswith("HTTP/1.1 431") and '"hint"' in answer, answer[:300]
    assert not leasehold.up.api.recorded()
    works(leasehold)


@pytest.mark.parametrize("path", ["/status/*/x", "/status/a/b", "/status/", "/*", "/status/{a}/b", "/status/a%2fb"])
def test_b23_metacharacters_in_paths_are_only_characters(leasehold: Leasehold, path: str) -> None:
    assert raw(leasehold, get(path)).startswith("HTTP/1.1 403")
    assert not leasehold.up.api.recorded()
    works(leasehold)


def test_b24_the_proxy_protocol_is_not_spoken(leasehold: Leasehold) -> None:
    spoof = b"PROXY TCP4 127.0.0.1 127.0.0.1 1 443\r\n" + get("/v1/me")
    assert "200 OK" not in raw(leasehold, spoof)
    assert "200 OK" not in raw(leasehold, spoof, port=80, sni=None)
    assert not carried(leasehold) and not reached(leasehold, "PROXY TCP4")
    works(leasehold)
