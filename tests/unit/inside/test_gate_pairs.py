"""Two joined connections, and how they end."""

from __future__ import annotations

import os
import selectors
import socket
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from leasehold.inside.gate import Pair

MUCH = bytes(range(256)) * 8192


@contextmanager
def pair(
    to_upstream: bytes = b"", to_client: bytes = b""
) -> Iterator[tuple[selectors.EpollSelector, list[socket.socket]]]:
    """The selector, and the client's and the upstream's sockets, which do not block."""
    with selectors.EpollSelector() as selector:
        client, near = socket.socketpair()
        far, upstream = socket.socketpair()
        for end in (client, near, far, upstream):
            end.setblocking(False)
        Pair(selector, near, far, to_upstream, b"")
        with client, near, far, upstream:
            yield selector, [client, upstream]


def turn(selector: selectors.BaseSelector) -> None:
    for key, events in selector.select(0):
        key.data(events)


def fill(sock: socket.socket) -> int:
    """Send until it would block; how many bytes."""
    sent = 0
    while True:
        try:
            sent += sock.send(MUCH[sent : sent + 65536])
        except BlockingIOError:
            return sent


def drain(sock: socket.socket) -> bytes:
    """What can be read without waiting, up to the end if there is one."""
    parts = []
    while True:
        try:
            part = sock.recv(65536)
        except BlockingIOError:
            break
        if not part:
            break
        parts.append(part)
    return b"".join(parts)


def test_an_end_for_both_in_one_turn_closes_nothing_of_others() -> None:
    with selectors.EpollSelector() as selector:
        client, near = socket.socketpair()
        far, upstream = socket.socketpair()
        for inner in (near, far):
            inner.setblocking(False)
        Pair(selector, near, far, b"", b"")
        client.close()
        upstream.close()
        first, second = selector.select(0)
        first[0].data(first[1])
        numbers = {end.fileno() for end in (near, far)}
        assert numbers == {-1}
        others = [fd for _ in range(4) for fd in os.pipe()]  # these get the numbers that have become free
        second[0].data(second[1])
        for fd in others:
            os.close(fd)


def test_what_was_waiting_goes_first_in_each_direction() -> None:
    with selectors.EpollSelector() as selector:
        client, near = socket.socketpair()
        far, upstream = socket.socketpair()
        for inner in (near, far):
            inner.setblocking(False)
        Pair(selector, near, far, b"GET / ", b"200 OK ")
        client.sendall(b"HTTP/1.1")
        upstream.sendall(b"body")
        client.shutdown(socket.SHUT_WR)
        for key, events in selector.select(0):
            key.data(events)
        with client, upstream:
            assert client.recv(64) == b"200 OK body"
            assert upstream.recv(64) == b"GET / HTTP/1.1"
            assert upstream.recv(64) == b""
            upstream.close()
            for key, events in selector.select(0):
                key.data(events)
            assert client.recv(64) == b""
            assert not selector.get_map()


@pytest.mark.parametrize("index", [0, 1], ids=["to upstream", "to client"])
def test_a_slow_reader_slows_the_writer_down_and_loses_nothing(index: int) -> None:
    with pair() as (selector, ends):
        writer, reader = ends[index], ends[1 - index]
        sent, got = 0, b""
        stalls = 0
        while sent < len(MUCH):
            try:
                sent += writer.send(MUCH[sent : sent + 65536])
            except BlockingIOError:
                before = len(got)
                turn(selector)
                if not selector.select(0):  # nothing moves any more before somebody reads
                    stalls += 1
                    got += drain(reader)
                assert len(got) - before <= 1 << 20
        writer.shutdown(socket.SHUT_WR)
        while len(got) < len(MUCH):
            turn(selector)
            got += drain(reader)
        assert stalls and got == MUCH


def test_an_end_in_one_direction_leaves_the_other_open() -> None:
    """Also when that one has to wait for a reader who takes his time."""
    with pair() as (selector, (client, upstream)):
        client.sendall(b"question")
        client.shutdown(socket.SHUT_WR)
        turn(selector)
        assert upstream.recv(64) == b"question" and upstream.recv(64) == b""
        sent = fill(upstream)
        for _ in range(4):
            turn(selector)
            sent += fill(upstream) if sent < len(MUCH) // 2 else 0
        assert not selector.select(0)
        got = b""
        while len(got) < sent:
            got += drain(client)
            turn(selector)
        assert len(got) == sent
        upstream.close()
        turn(selector)
        assert client.recv(64) == b"" and not selector.get_map()


def test_what_was_waiting_also_waits_for_a_reader() -> None:
    with pair(to_upstream=MUCH) as (selector, (client, upstream)):
        client.sendall(b"end")
        got = b""
        while len(got) < len(MUCH) + 3:
            got += drain(upstream)
            turn(selector)
        assert got == MUCH + b"end"


def test_an_end_that_breaks_ends_both() -> None:
    with pair() as (selector, (client, upstream)):
        upstream.close()
        client.sendall(b"to nobody")
        turn(selector)
        assert not selector.get_map()
        assert client.recv(64) == b""
