"""The scrubber where a body comes in frames, where somebody guesses, and where the scrubber itself breaks."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from integration.scrubber_parts import BEARER, FORMS, HONEST, SECRET, Envoy, Parts, Rotating, Target, leaks
from integration.scrubber_peers import Upstream1, chunked, frame, message, read_until, settle, sized
from leasehold.node.egress import scrub


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Parts]:
    running = Parts(tmp_path_factory.mktemp("scrubber"))
    try:
        yield running
    finally:
        running.close()


UPGRADE = b"connection: upgrade\r\nupgrade: websocket\r\nsec-websocket-key: x\r\nsec-websocket-version: 13\r\n"
SWITCH = (
    b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: WebSocket\r\nx-echo: " + SECRET + b"\r\n\r\n"
)


def upgraded(parts: Parts, *frames: bytes, extensions: bytes = b"") -> bytes:
    """What an agent reads after the switch."""
    gated = [part for each in frames for part in (each, 0.003)]
    parts.one.answer(SWITCH, 0.003, *gated)
    with parts.envoy.open("one", headers=UPGRADE + extensions) as connection:
        head, _, rest = read_until(connection, b"\r\n\r\n").partition(b"\r\n\r\n")
        wanted = sum(len(each) for each in frames)
        while len(rest) < wanted and (more := connection.recv(65536)):
            rest += more
    assert b" 101 " in head
    assert not leaks(head)
    return rest


def test_websocket_frames_are_masked_within_their_lengths(parts: Parts) -> None:
    honest = frame(b"tok_R7x honest") + frame(b"\x00" * 300, opcode=2) + frame(b"tok", opcode=9)
    assert upgraded(parts, honest) == honest
    rest = upgraded(parts, honest, frame(b"a " + SECRET), frame(SECRET, opcode=10), honest)
    masked = b"*" * len(SECRET)
    assert rest == honest + frame(b"a " + masked) + frame(masked, opcode=10) + honest


def test_a_message_in_fragments_is_masked_across_them(parts: Parts) -> None:
    for at in range(1, len(SECRET)):
        frames = [frame(b"x" + SECRET[:at], final=False), frame(b"ping", opcode=9), frame(SECRET[at:] + b"y", opcode=0)]
        rest = upgraded(parts, b"".join(frames)) if at % 8 else upgraded(parts, *frames)
        assert len(rest) == sum(map(len, frames))
        payloads = rest[2 : 3 + at] + rest[-(len(SECRET) - at + 1) :]
        assert not leaks(payloads), f"split at {at}"
        assert payloads.startswith(b"x") and payloads.endswith(b"y")


def test_websocket_extensions_are_not_offered_and_not_believed(parts: Parts) -> None:
    offered = b"sec-websocket-extensions: permessage-deflate\r\n"
    assert upgraded(parts, frame(b"plain"), extensions=offered) == frame(b"plain")
    assert b"permessage-deflate" not in parts.one.requests[0]
    compressed = frame(b"compressed", flags=0x40)
    assert upgraded(parts, compressed, frame(SECRET)) == b"*" * len(compressed + frame(SECRET))
    hidden = b"\x81" + bytes([0x80 | 4]) + b"\x00\x00\x00\x00" + SECRET[:4]
    assert upgraded(parts, frame(b"plain") + hidden) == frame(b"plain") + b"*" * len(hidden)


GRPC = (("content-type", "application/grpc+proto"),)


def test_grpc_messages_are_masked_and_end_with_their_trailers(parts: Parts) -> None:
    body = message(HONEST) + message(b"x" + SECRET + b"y") + message(b"") + message(SECRET[:20])
    masked = message(b"x" + b"*" * len(SECRET) + b"y") + message(b"") + message(b"*" * 18 + SECRET[18:20])
    for size in (1, 3, 7, 4096):
        frames = (body[i : i + size] for i in range(0, len(body), size))
        response = parts.reflect2(*frames, end="trailers", headers=GRPC)
        # Up to three bytes of a beginning may go out before the rest is there.
        body_seen = re.sub(rb"(tok|to|t)(?=\*)", lambda early: b"*" * len(early[0]), response.body)
        assert body_seen == message(HONEST) + masked
        assert ("x-honest", "kept") in response.trailers


def test_a_compressed_grpc_message_is_unreadable(parts: Parts) -> None:
    body = message(HONEST) + message(b"deflated", compressed=True) + message(SECRET)
    response = parts.reflect2(body, end="trailers", headers=GRPC)
    assert response.body == message(HONEST) + b"*" * (len(body) - len(message(HONEST)))
    assert parts.reflect2(body, headers=(*GRPC, ("grpc-encoding", "gzip"))).status == 502
    allowed = parts.reflect2(message(HONEST), headers=(*GRPC, ("grpc-encoding", "identity")))
    assert allowed.body == message(HONEST)


def test_holding_back_tells_a_guesser_nothing_in_the_end(parts: Parts) -> None:
    """An agent that writes the beginning of its guess at the end of a chunk sees whether it is held back."""

    def is_held(guess: bytes) -> bool:
        response = parts.reflect2(b"line\n" + guess, b"|rest\n", target="oracle")
        assert response.body == b"line\n" + guess + b"|rest\n"
        return response.pieces[0] != b"line\n" + guess

    # "wrong" differs from "right" in its last byte only; the first piece of the secret has 18 bytes.
    told = sum(is_held(SECRET[:length]) != is_held(SECRET[: length - 1] + b"#") for length in range(1, 18))
    assert 0 < told < 6
    assert is_held(SECRET[:17]) and is_held(SECRET[:16] + b"#") and is_held(b"anything")
    # It is still masked, and lines are still not held back.
    assert not leaks(parts.reflect2(SECRET[:20], SECRET[20:], target="oracle").body)
    lines = parts.reflect2(b"data: 1\n\n", b"data: 2\n\n", target="oracle")
    assert lines.pieces == [b"data: 1\n\n", b"data: 2\n\n"]


honest_text = st.one_of(
    st.binary(max_size=40),
    st.sampled_from([HONEST, b"", b"data: x\n\n", b"%", b"%2", b"\\", b"\\u00", b"&#", b"&amp;", b"*" * 20]),
    st.integers(0, 11).map(lambda length: SECRET[:length]),
    st.text("0123456789abcdef%\\u&;#", max_size=30).map(str.encode),
)
embedded = st.sampled_from(sorted(FORMS)).map(lambda form: FORMS[form](SECRET))


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_no_body_and_no_split_of_it_lets_the_credential_through(parts: Parts, data: st.DataObject) -> None:
    segments = data.draw(st.lists(st.tuples(honest_text, st.one_of(st.just(b""), embedded)), max_size=5))
    body = b"".join(text + secret + b" " for text, secret in segments)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(body)), max_size=12)))
    # Envoy takes several empty frames in a row for an attack.
    pieces = [body[i:j] for i, j in zip([0, *cuts], [*cuts, len(body)], strict=True) if i < j]
    response = parts.reflect2(*pieces, target="fuzz", end=data.draw(st.sampled_from(["last", "empty"])))
    assert len(response.body) == len(body)
    assert not leaks(response.body)
    if not any(secret for _, secret in segments):
        assert response.body == body


def test_after_a_rotation_the_old_and_the_new_one_are_masked(tmp_path: Path) -> None:
    upstream = Upstream1()
    secrets = Rotating(tmp_path, "rotating/secret", b"Bearer " + SECRET)
    target = Target(name="rotating", port=upstream.port, inject=BEARER, secret=SECRET, http2=False)
    envoy = Envoy(tmp_path, [target], rotating=secrets.path)
    try:
        new = SECRET[::-1].swapcase()
        for value in (SECRET, new):
            secrets.write(b"Bearer " + value)

            def injected(value: bytes = value) -> bool:
                upstream.answer(sized(b"now " + SECRET + b" then " + new))
                response = envoy.get("rotating")
                return b"Bearer " + value + b"\r\n" in upstream.requests[0] and SECRET not in response.body

            assert settle(injected)
        upstream.answer(sized(b"now " + SECRET + b" then " + new))
        assert envoy.get("rotating").body == b"now " + b"*" * len(SECRET) + b" then " + b"*" * len(new)
    finally:
        envoy.close()
        upstream.close()


FAULTS = {
    "headers": ("scrubber.lua", "local function scrub_headers(map)", 'error("planted")'),
    "body": ("scrubber.lua", "local function feed(stream, data, allowance)", 'error("planted")'),
    "request": ("scrubber.lua", "local function learn(value)", 'error("planted")'),
    "forms": ("forms.lua", "local function new_matcher(forms)", 'error("planted")'),
    "syntax": ("forms.lua", "local function new_matcher(forms)", "this is no Lua"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_an_error_in_the_scrubber_lets_nothing_through(tmp_path: Path, fault: str) -> None:
    scripts = tmp_path / "scripts"
    scripts.mkdir()
    for script in Path(scrub.__file__).parent.glob("*.lua"):
        shutil.copy(script, scripts)
    name, where, what = FAULTS[fault]
    text = (scripts / name).read_text()
    assert where in text
    (scripts / name).write_text(text.replace(where, f"{where}\n{what}"))
    broken = Parts(tmp_path, scripts=scripts)
    try:
        broken.one.answer(*chunked(HONEST, SECRET, headers=b"x-echo: " + SECRET + b"\r\n"))
        response = broken.envoy.get("one")
        assert not leaks(response.raw)
        if fault == "body":
            assert response.body == b"*" * len(HONEST + SECRET)
        else:
            assert response.status == 502
            assert json.loads(response.body)["error"]["code"] == "scrubber-failed"
        assert SECRET not in broken.envoy.log.read_bytes()
        if fault not in ("headers", "body"):
            assert not broken.one.requests
    finally:
        broken.close()


def test_the_credential_is_in_no_page_and_no_log(tmp_path: Path) -> None:
    running = Parts(tmp_path, level="debug")
    try:
        running.one.answer(*chunked(HONEST, SECRET, headers=b"x-echo: " + SECRET + b"\r\n"))
        assert running.envoy.get("one").status == 200
        pages = ("/config_dump?include_eds", "/clusters", "/stats?usedonly", "/listeners", "/server_info", "/certs")
        found = {page: leaks(running.envoy.admin_page(page)) for page in pages}
        assert not any(found.values()), found
    finally:
        running.close()
    assert not leaks(running.envoy.log.read_bytes())
