"""The scrubber in the real Envoy, against upstreams that send a credential back in every way they can.

Assertions are on bytes: what the agent received, and what the upstream received. Each refusal has its allowed twin.
"""

from __future__ import annotations

import base64
import json
import re
import threading
import urllib.parse
from collections.abc import Iterator

import pytest

from integration.scrubber_parts import FORMS, HONEST, SECRET, Parts, leaks
from integration.scrubber_peers import chunked, read_until, sized
from leasehold.node.egress import scrub
from servers.encodings import COMPRESSIONS

OURS = b"authorization: Bearer " + SECRET


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Parts]:
    running = Parts(tmp_path_factory.mktemp("scrubber"))
    try:
        yield running
    finally:
        running.close()


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("upstream", ["one", "two"])
def test_a_reflected_credential_is_masked_and_nothing_else_is(parts: Parts, upstream: str, form: str) -> None:
    reflected = FORMS[form](SECRET)
    body = HONEST + reflected + HONEST
    response = parts.reflect(body) if upstream == "one" else parts.reflect2(body)
    assert response.status == 200
    assert len(response.body) == len(body)
    assert response.body.startswith(HONEST) and response.body.endswith(HONEST)
    masked = response.body[len(HONEST) : -len(HONEST)]
    assert not leaks(masked)
    assert masked.count(b"*") >= len(reflected) * 0.6


@pytest.mark.parametrize("part", [SECRET[:-1], SECRET[1:], SECRET[:25], SECRET[-25:]])
def test_a_large_part_of_it_is_masked_too(parts: Parts, part: bytes) -> None:
    response = parts.reflect(HONEST + part + HONEST)
    masked = response.body[len(HONEST) : -len(HONEST)]
    assert masked.count(b"*") >= 18
    assert not any(SECRET[i : i + 18] in masked for i in range(len(SECRET) - 17))


@pytest.mark.parametrize("form", ["raw", "base64", "hex", "percent-reserved", "json in part"])
def test_no_split_of_the_body_lets_it_through(parts: Parts, form: str) -> None:
    reflected = FORMS[form](SECRET)
    for at in range(len(reflected) + 1):
        body = HONEST + reflected + HONEST
        cut = len(HONEST) + at
        response = parts.reflect2(body[:cut], body[cut:], end=("last", "empty")[at % 2])
        assert not leaks(response.body), f"split at {at}"
        assert len(response.body) == len(body)
        assert response.body.replace(b"*", b"").startswith(HONEST)


def test_a_body_that_comes_byte_by_byte_is_masked(parts: Parts) -> None:
    body = HONEST + SECRET + HONEST
    for response in (
        parts.reflect(*(body[i : i + 1] for i in range(len(body)))),
        parts.reflect2(*(body[i : i + 1] for i in range(len(body)))),
    ):
        assert len(response.body) == len(body)
        assert not leaks(response.body)
        assert response.body.startswith(HONEST) and response.body.endswith(HONEST)


@pytest.mark.parametrize("end", ["last", "empty", "trailers"])
@pytest.mark.parametrize("pieces", [(HONEST,), (b"ends with tok",), (b"to", b"k"), (b"x" * 200_000, b"tok")])
def test_an_honest_body_arrives_whole_however_it_ends(parts: Parts, pieces: tuple[bytes, ...], end: str) -> None:
    frames = [piece[i : i + 16384] for piece in pieces for i in range(0, len(piece), 16384)]
    response = parts.reflect2(*frames, end=end)
    assert response.body == b"".join(pieces)
    assert response.ended == "clean"
    assert parts.reflect(*pieces).body == b"".join(pieces)


@pytest.mark.parametrize("end", ["last", "empty"])
def test_what_was_held_back_comes_when_the_body_ends(parts: Parts, end: str) -> None:
    beginning = b"an honest end: " + SECRET[:15]
    assert parts.reflect2(beginning, end=end).body == beginning
    assert parts.reflect(beginning).body == beginning
    sized2 = parts.reflect2(beginning, end="trailers", headers=(("content-length", str(len(beginning))),))
    assert sized2.body == beginning
    assert ("x-honest", "kept") in sized2.trailers


def test_trailers_are_masked_and_kept(parts: Parts) -> None:
    response = parts.reflect2(HONEST, end="trailers")
    assert response.body == HONEST
    assert dict(response.trailers) == {"x-trailer": "*" * len(SECRET), "x-honest": "kept"}


def test_an_event_passes_before_the_next_one_exists(parts: Parts) -> None:
    gate = threading.Event()
    head, first, second, end = chunked(
        b'data: {"t": 1}\n\n', b"data: 2\n\n", headers=b"content-type: text/event-stream\r\n"
    )
    parts.one.answer(head, first, gate, second, end)
    with parts.envoy.open("one") as connection:
        read_until(connection, b'data: {"t": 1}\n\n')
        gate.set()
        read_until(connection, b"data: 2\n\n")


def test_a_short_coincidence_does_not_wait(parts: Parts) -> None:
    gate = threading.Event()
    head, first, second, end = chunked(b"debug tok", b"en\n")
    parts.one.answer(head, first, gate, second, end)
    with parts.envoy.open("one") as connection:
        read_until(connection, b"debug tok")
        gate.set()
        read_until(connection, b"en\n")


def test_windows_of_a_large_chunk_have_no_seams(parts: Parts) -> None:
    for offset in (65_536 - 20, 65_536 - 1, 131_072 - 3):
        body = b"." * offset + SECRET + b"." * 90_000
        parts.one.answer(sized(body))
        response = parts.envoy.get("one")
        assert response.body == b"." * offset + b"*" * len(SECRET) + b"." * 90_000


def test_decoys_do_not_exhaust_it(parts: Parts) -> None:
    body = b"".join(SECRET[:-1] + b"! " for _ in range(500)) + SECRET + b" end"
    response = parts.reflect2(*(body[i : i + 1000] for i in range(0, len(body), 1000)))
    assert not leaks(response.body)
    assert response.body.endswith(b" end")


def test_headers_are_masked_one_by_one(parts: Parts) -> None:
    value, coded = SECRET.decode(), base64.b64encode(b"Bearer " + SECRET).decode()
    header = f"x-echo: {value}\r\nx-many: a\r\nx-many: b {value}\r\nx-coded: {coded}\r\nx-kept: {value[:8]}\r\n"
    location = f"location: /next?token={urllib.parse.quote(value, safe='')}\r\n"
    in_name = f"x-{SECRET.hex()}: in its name\r\n"
    parts.one.answer(sized(HONEST, (header + location + in_name).encode(), status=b"200 " + SECRET))
    response = parts.envoy.get("one")
    assert not leaks(response.raw)
    assert SECRET.lower() not in response.raw.lower()
    assert response.header("x-many") == "a, b " + "*" * len(value)
    assert response.header("x-kept") == value[:8]
    assert response.header("location") == "/next?token=" + "*" * len(urllib.parse.quote(value, safe=""))
    assert response.body == HONEST


def test_informational_answers_do_not_pass(parts: Parts) -> None:
    early = (
        b"HTTP/1.1 103 Early Hints\r\nlink: <"
        + SECRET
        + b">\r\n\r\nHTTP/1.1 100 Continue\r\nx-e: "
        + SECRET
        + b"\r\n\r\n"
    )
    parts.one.answer(early, sized(HONEST))
    response = parts.envoy.get("one", headers=b"expect: 100-continue\r\n")
    assert not leaks(response.raw)
    assert response.raw.endswith(HONEST)


@pytest.mark.parametrize("encoding", COMPRESSIONS)
def test_a_compressed_answer_is_refused_and_not_passed_on(parts: Parts, encoding: str) -> None:
    body = COMPRESSIONS[encoding](HONEST + SECRET)
    parts.one.answer(sized(body, b"content-encoding: " + encoding.encode() + b"\r\netag: x\r\n"))
    response = parts.envoy.get("one", headers=b"accept-encoding: gzip, br, zstd\r\n")
    assert response.status == 502
    assert json.loads(response.body)["error"]["code"] == "response-encoded"
    assert response.header("x-leasehold-decision") == "error; code=response-encoded"
    assert response.header("etag") is None
    assert body not in response.raw
    # The upstream was asked for nothing of the kind.
    assert b"\r\naccept-encoding: identity\r\n" in parts.one.requests[0]
    assert b"gzip" not in parts.one.requests[0]
    assert parts.reflect2(body, headers=(("content-encoding", encoding),)).status == 502


@pytest.mark.parametrize(
    ("method", "status"), [(b"HEAD", b"200 OK"), (b"GET", b"304 Not Modified"), (b"GET", b"204 No")]
)
def test_an_answer_without_a_body_may_name_any_encoding(parts: Parts, method: bytes, status: bytes) -> None:
    head = b"HTTP/1.1 " + status + b"\r\nconnection: close\r\ncontent-encoding: gzip\r\nx-echo: " + SECRET + b"\r\n\r\n"
    parts.one.answer(head)
    response = parts.envoy.get("one", method=method)
    assert response.status == int(status[:3])
    assert response.header("content-encoding") == "gzip"
    assert not leaks(response.raw)


def test_a_plain_answer_may_say_that_it_is_plain(parts: Parts) -> None:
    assert parts.reflect(HONEST, headers=b"content-encoding: identity\r\n").body == HONEST


def test_no_part_of_a_body_can_be_asked_for(parts: Parts) -> None:
    parts.one.answer(sized(SECRET, b"accept-ranges: bytes\r\n"))
    response = parts.envoy.get("one", headers=b"range: bytes=0-9\r\nif-range: x\r\nRange: bytes=3-\r\n")
    assert b"range" not in parts.one.requests[0].lower()
    assert response.header("accept-ranges") == "none"
    assert not leaks(response.raw)
    parts.one.answer(sized(HONEST, b"accept-ranges: bytes\r\n"))
    allowed = parts.envoy.get("open", headers=b"range: bytes=0-9\r\n")
    assert b"range: bytes=0-9" in parts.one.requests[0]
    assert allowed.header("accept-ranges") == "bytes"


def test_sessions_that_the_credential_opened_stay_outside(parts: Parts) -> None:
    headers = b"".join(name.encode() + b": minted\r\n" for name in scrub.MINTED_HEADERS)
    parts.one.answer(sized(HONEST, headers + b"x-kept: yes\r\nset-cookie: second\r\n"))
    response = parts.envoy.get("one")
    assert b"minted" not in response.raw and b"second" not in response.raw
    assert response.header("x-kept") == "yes"
    parts.one.answer(sized(HONEST, b"set-cookie: of an open host\r\n"))
    assert parts.envoy.get("open").header("set-cookie") == "of an open host"


def test_no_carrier_of_the_agents_own_credentials_gets_out(parts: Parts) -> None:
    own = b"".join(name.encode() + b": attacker\r\n" for name in (*scrub.CREDENTIAL_HEADERS, "Authorization", "Cookie"))
    parts.one.answer(sized(HONEST))
    response = parts.envoy.get("one", headers=own + b"x-leasehold-credential: attacker\r\nx-kept: yes\r\n")
    (request,) = parts.one.requests
    assert b"attacker" not in request
    assert request.count(b"\r\nauthorization: ") == 1
    assert OURS in request and b"\r\nx-kept: yes\r\n" in request
    assert response.body == HONEST


def test_an_injected_header_of_any_name_is_the_only_one(parts: Parts) -> None:
    parts.one.answer(sized(SECRET))
    response = parts.envoy.get("custom", headers=b"X-Custom: a\r\nx-custom: b\r\nauthorization: c\r\n")
    (request,) = parts.one.requests
    assert re.findall(rb"x-custom: (.*)\r\n", request) == [SECRET]
    assert b"authorization" not in request
    assert response.body == b"*" * len(SECRET)


@pytest.mark.parametrize(
    ("path", "wanted"),
    [
        ("/a?key=own", "/a"),
        ("/a?x=1&API_KEY=own&y=2", "/a?x=1&y=2"),
        ("/a?x=1;access-token=own;y=2", "/a?x=1;y=2"),
        ("/a?k%65y=own&Key[]=own&%20key=own&k.e.y=own&x", "/a?x"),
        ("/a?token&X-Amz-Signature=own&x=key=token", "/a?x=key=token"),
        ("/a?private_token=own?x=1", "/a"),
        ("/a?", "/a?"),
        ("/a?monkey=1&keys=2&q=key%3Dvalue;b&page_token=3&&z", "/a?monkey=1&keys=2&q=key%3Dvalue;b&page_token=3&&z"),
        ("/key=1/token?q=%zz", "/key=1/token?q=%zz"),
    ],
)
def test_credentials_in_the_query_are_taken_off_and_the_rest_is_kept(parts: Parts, path: str, wanted: str) -> None:
    parts.one.answer(sized(HONEST))
    assert parts.envoy.get("one", path).status == 200
    assert parts.one.requests[0].startswith(f"GET {wanted} HTTP/1.1\r\n".encode())
    parts.one.answer(sized(HONEST))
    parts.envoy.get("open", path)
    assert parts.one.requests[0].startswith(f"GET {path} HTTP/1.1\r\n".encode())


@pytest.mark.parametrize(
    ("path", "before"),
    [("/v1", "/v1?"), ("/v1?q=a%20b", "/v1?q=a%20b&"), ("/v1?api_key=own&apikey=own&API%5fKEY=own&q", "/v1?q&")],
)
def test_delivery_in_the_query_replaces_every_parameter_of_that_name(parts: Parts, path: str, before: str) -> None:
    quoted = urllib.parse.quote(SECRET.decode(), safe="")
    parts.one.answer(sized(b"GET " + quoted.encode() + b" " + SECRET))
    response = parts.envoy.get("query", path, headers=b"x-leasehold-credential: own\r\n")
    (request,) = parts.one.requests
    assert request.startswith(f"GET {before}api_key={quoted} HTTP/1.1\r\n".encode())
    assert b"x-leasehold-credential" not in request and b"own" not in request
    assert response.body == b"GET " + b"*" * len(quoted) + b" " + b"*" * len(SECRET)


def test_basic_authentication_is_masked_as_password_and_as_token(parts: Parts) -> None:
    token = base64.b64encode(b"x-access-token:" + SECRET)
    body = b"Basic " + token + b" " + SECRET + b" x-access-token: " + SECRET.hex().encode()
    parts.one.answer(sized(body))
    response = parts.envoy.get("basic", headers=b"authorization: Basic b3duOm93bg==\r\n")
    assert b"authorization: Basic " + token + b"\r\n" in parts.one.requests[0]
    assert not leaks(response.body)
    assert b" x-access-token: " in response.body


def test_a_short_secret_is_masked_as_it_is_and_in_its_header(parts: Parts) -> None:
    parts.one.answer(sized(b"Bearer pa55 passport pa55port " + b"pa55".hex().encode()))
    assert parts.envoy.get("short").body == b"*********** passport ****port ********"


def test_a_long_secret_is_masked_in_every_part(parts: Parts) -> None:
    secret = SECRET * 30
    for body in (secret, base64.b64encode(secret), secret.hex().encode()):
        response = parts.reflect(body[:700], body[700:], target="long")
        assert response.body.count(b"*") >= len(body) - 8


def test_a_host_without_a_credential_is_left_alone(parts: Parts) -> None:
    parts.one.answer(sized(SECRET, b"content-encoding: gzip\r\n"))
    response = parts.envoy.get("open", headers=b"authorization: own\r\naccept-encoding: gzip\r\n")
    assert response.body == SECRET
    assert b"authorization: own\r\n" in parts.one.requests[0]
    assert b"accept-encoding: gzip\r\n" in parts.one.requests[0]
