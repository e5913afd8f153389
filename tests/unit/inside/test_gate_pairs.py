"""Two joined connections, and how they end."""

from __future__ import annotations

import os
import selectors
import socket

from leasehold.inside.gate import Pair


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
