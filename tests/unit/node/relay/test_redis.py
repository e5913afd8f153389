"""What a Redis client may begin with, and what of it the server gets."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from leasehold.node.relay import redis


def command(*words: bytes) -> bytes:
    return redis._command(*words)


class Server:
    """Takes one login and keeps what it gets; ``answer`` is what it says to it."""

    def __init__(self, path: Path, answer: bytes) -> None:
        self.path = path
        self.got = b""
        self._answer = answer
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen(1)
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        client, _ = self._listener.accept()
        with client:
            self.got = client.recv(4096)
            client.sendall(self._answer)

    def close(self) -> None:
        self._thread.join(5)
        self._listener.close()


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    """The relay's end and the client's."""
    near, far = socket.socketpair()
    yield near, far
    near.close()
    far.close()


def told(path: Path) -> dict[str, Any]:
    return {"upstream": str(path), "username": "lh_task", "password": "s3cr3t"}


GET = command(b"GET", b"orders:1")


@pytest.mark.parametrize(
    ("begins", "passed", "answered"),
    [
        (GET, GET, b""),
        (command(b"AUTH", b"any") + GET, GET, b"+OK\r\n"),
        (command(b"auth", b"me", b"any") + command(b"AUTH", b"again") + GET, GET, b"+OK\r\n+OK\r\n"),
        (
            command(b"HELLO", b"3", b"AUTH", b"me", b"any", b"SETNAME", b"x"),
            command(b"HELLO", b"3", b"SETNAME", b"x"),
            b"",
        ),
        (command(b"HELLO", b"3") + GET, command(b"HELLO", b"3") + GET, b""),
        (b"PING\r\n", b"PING\r\n", b""),
        (command(b"AUTH"), command(b"AUTH"), b""),
        (b"*0\r\n", b"*0\r\n", b""),
        (b"*1\r\n+x\r\n", b"*1\r\n+x\r\n", b""),
        (b"*x\r\n", b"*x\r\n", b""),
        (b"*1\r\n$99999999\r\n", b"*1\r\n$99999999\r\n", b""),
    ],
)
def test_a_password_is_taken_and_never_passed_on(
    pair: tuple[socket.socket, socket.socket], begins: bytes, passed: bytes, answered: bytes
) -> None:
    near, far = pair
    far.sendall(begins)
    far.shutdown(socket.SHUT_WR)
    assert redis._begun(near) == passed
    near.shutdown(socket.SHUT_WR)
    assert far.recv(100) == answered


@pytest.mark.parametrize("size", [1, 3, 7])
def test_in_whatever_pieces_it_comes(pair: tuple[socket.socket, socket.socket], size: int) -> None:
    near, far = pair
    data = command(b"AUTH", b"me", b"any") + GET

    def send() -> None:
        for at in range(0, len(data), size):
            far.sendall(data[at : at + size])

    threading.Thread(target=send).start()
    begun = redis._begun(near)
    while len(begun) < len(GET):
        begun += near.recv(100)
    assert begun == GET


@given(st.binary(max_size=300))
def test_no_bytes_do_more_than_pass_or_end(data: bytes) -> None:
    near, far = socket.socketpair()
    with near, far:
        far.sendall(data)
        far.shutdown(socket.SHUT_WR)
        passed = redis._begun(near)
        assert data.endswith(passed) or b"HELLO" in data.upper()


def test_it_logs_in_before_anything_else(tmp_path: Path, pair: tuple[socket.socket, socket.socket]) -> None:
    server = Server(tmp_path / "s", b"+OK\r\n")
    near, far = pair
    far.sendall(GET)
    met = redis.meet(told(server.path), near, None)
    server.close()
    assert met is not None and met[2] == GET
    assert server.got == command(b"AUTH", b"lh_task", b"s3cr3t")
    met[1].close()


@pytest.mark.parametrize("answer", [b"-WRONGPASS x\r\n", b"", b"+OK" * 400])
def test_a_server_that_does_not_let_us_in_is_an_error_without_the_password(
    tmp_path: Path, pair: tuple[socket.socket, socket.socket], answer: bytes
) -> None:
    server = Server(tmp_path / "s", answer)
    near, far = pair
    assert redis.meet(told(server.path), near, None) is None
    server.close()
    said = far.recv(1000)
    assert said.startswith(b"-ERR leasehold:") and b"s3cr3t" not in said
