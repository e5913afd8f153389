"""The handshakes of MySQL: what a hostile server or client may say, and what is taken over from one to the other."""

from __future__ import annotations

import contextlib
import hashlib
import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st

from leasehold.node.relay import mysql
from leasehold.node.relay.mysql import Greeting

SERVER = 0x81FFFFFF & ~0x20
GREETING = Greeting(
    version=b"5.5.5-10.11.6-MariaDB",
    thread=b"\x07\0\0\0",
    capabilities=SERVER,
    rest=b"\x2d\x02\0",
    extended=b"\x1d\0\0\0",
    nonce=b"n" * 20,
    plugin=b"mysql_native_password",
)


def greeting(capabilities: int = SERVER) -> bytes:
    low, high = (capabilities & 0xFFFF).to_bytes(2, "little"), (capabilities >> 16).to_bytes(2, "little")
    head = b"\x0a" + GREETING.version + b"\0" + GREETING.thread + b"n" * 8 + b"\0"
    return (
        head
        + low
        + GREETING.rest
        + high
        + b"\x15"
        + bytes(6)
        + GREETING.extended
        + b"n" * 12
        + b"\0"
        + GREETING.plugin
        + b"\0"
    )


def response(
    flags: int, *, user: bytes = b"me", scramble: bytes = b"", database: bytes = b"", plugin: bytes = b""
) -> bytes:
    head = flags.to_bytes(4, "little") + b"\0\0\0\1" + b"\x2d" + bytes(19) + b"\x04\0\0\0"
    tail = bytes([len(scramble)]) + scramble if flags & 0x208000 else scramble + b"\0"
    named = (database + b"\0" if flags & 8 else b"") + (plugin + b"\0" if flags & 0x80000 else b"")
    return head + user + b"\0" + tail + named


def test_a_greeting_is_read_and_given_on_with_another_nonce_and_less_capabilities() -> None:
    assert mysql.read_greeting(greeting()) == GREETING
    for offers in (True, False):
        passed = mysql.read_greeting(mysql._greeting(GREETING, offers_tls=offers))
        assert (passed.version, passed.thread, passed.rest, passed.extended) == (
            GREETING.version,
            GREETING.thread,
            GREETING.rest,
            GREETING.extended,
        )
        assert passed.nonce != GREETING.nonce and 0 not in passed.nonce and len(passed.nonce) == 20
        assert bool(passed.capabilities & 0x800) is offers
        assert not passed.capabilities & mysql._NOT_PASSED
        assert passed.capabilities | mysql._NOT_PASSED | 0x800 == SERVER | mysql._NOT_PASSED | 0x800


@pytest.mark.parametrize(
    ("flags", "given", "has_password", "database", "plugin"),
    [
        (0x80200, {"plugin": b"caching_sha2_password"}, False, b"", b"caching_sha2_password"),
        (0x88208, {"scramble": b"s" * 20, "database": b"shop", "plugin": b"x"}, True, b"shop", b"x"),
        (0x200 | 8, {"scramble": b"old", "database": b"shop"}, True, b"shop", b"mysql_native_password"),
        (0x200200, {"scramble": b"s" * 32}, True, b"", b"mysql_native_password"),
    ],
)
def test_a_response_is_read_in_each_of_its_forms(
    flags: int, given: dict[str, bytes], has_password: bool, database: bytes, plugin: bytes
) -> None:
    found = mysql.read_response(response(flags, **given))
    assert (found.capabilities, found.has_password, found.database, found.plugin) == (
        flags,
        has_password,
        database,
        plugin,
    )
    assert (found.head, found.extended) == (b"\0\0\0\1\x2d", b"\x04\0\0\0")


@pytest.mark.parametrize("packet", [b"", b"\x09x\0" + bytes(40), b"\x0anothing", b"\x0a\0" + bytes(30)])
def test_what_is_no_greeting_is_refused(packet: bytes) -> None:
    with pytest.raises((ValueError, IndexError)):
        mysql.read_greeting(packet)


@pytest.mark.parametrize("packet", [b"", bytes(32), bytes(40), response(0x80000)])
def test_what_is_no_response_is_refused(packet: bytes) -> None:
    with pytest.raises(ValueError, match="no response"):
        mysql.read_response(packet)


@given(st.binary(max_size=200))
def test_no_bytes_of_a_client_raise_anything_else(data: bytes) -> None:
    with contextlib.suppress(ValueError):
        mysql.read_response((0x8A208).to_bytes(4, "little") + data)


@given(st.binary(min_size=1, max_size=200))
def test_no_bytes_of_a_server_raise_anything_else(data: bytes) -> None:
    with contextlib.suppress(ValueError):
        mysql.read_greeting(data)


def test_scrambles_are_those_of_the_protocol() -> None:
    """By what the servers check: from their stored hash and the nonce."""
    nonce = bytes(range(20))
    scramble = mysql._scramble(b"mysql_native_password", b"secret", nonce)
    stored = hashlib.sha1(hashlib.sha1(b"secret").digest()).digest()  # noqa: S324  the protocol's
    once = bytes(a ^ b for a, b in zip(scramble, hashlib.sha1(nonce + stored).digest(), strict=True))  # noqa: S324
    assert hashlib.sha1(once).digest() == stored  # noqa: S324  the protocol's
    scramble = mysql._scramble(b"caching_sha2_password", b"secret", nonce)
    stored = hashlib.sha256(hashlib.sha256(b"secret").digest()).digest()
    once = bytes(a ^ b for a, b in zip(scramble, hashlib.sha256(stored + nonce).digest(), strict=True))
    assert hashlib.sha256(once).digest() == stored
    with pytest.raises(ValueError, match="another way"):
        mysql._scramble(b"mysql_clear_password", b"secret", nonce)


@pytest.mark.parametrize("head", [b"\0\0\0\0", b"\xff\xff\xff\0"])
def test_a_packet_of_no_length_or_too_long_ends_it(head: bytes) -> None:
    near, far = socket.socketpair()
    with near, far:
        far.sendall(head)
        with pytest.raises(ValueError, match="no packet"):
            mysql._Line(near).read()


def test_not_a_byte_more_than_the_packet_is_read() -> None:
    near, far = socket.socketpair()
    with near, far:
        line = mysql._Line(near)
        far.sendall(b"\x02\0\0\5ab" + b"\x16\x03\x01")
        assert line.read() == b"ab"
        assert line.number == 6
        assert near.recv(10) == b"\x16\x03\x01"
        line.write(b"xyz")
        assert far.recv(10) == b"\x03\0\0\6xyz"
        far.close()
        with pytest.raises(ConnectionError):
            line.read()
