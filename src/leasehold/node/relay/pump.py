"""Bytes from one socket to another and back. Between plain sockets they never enter this process (splice)."""

from __future__ import annotations

import selectors
import socket
import ssl

from leasehold.inside.gate import Pair

_CHUNK = 1 << 18


def pump(a: socket.socket, b: socket.socket, to_b: bytes = b"", to_a: bytes = b"") -> None:
    """Until both directions have ended; ``to_b`` and ``to_a`` go first. Closes both.

    ``OSError`` is an end like any other: nobody is left to tell.
    """
    a.setblocking(False)
    b.setblocking(False)
    if not isinstance(a, ssl.SSLSocket) and not isinstance(b, ssl.SSLSocket):
        _spliced(a, b, to_b, to_a)
        return
    try:
        _copied(a, b, to_b, to_a)
    except OSError:
        return
    finally:
        a.close()
        b.close()


def _spliced(a: socket.socket, b: socket.socket, to_b: bytes, to_a: bytes) -> None:
    with selectors.EpollSelector() as selector:
        Pair(selector, a, b, to_b, to_a)
        while selector.get_map():
            for key, events in selector.select():
                key.data(events)


class _Way:
    """One direction, with at most one chunk under way."""

    def __init__(self, source: socket.socket, sink: socket.socket, held: bytes) -> None:
        self._source, self._sink = source, sink
        self._held = memoryview(held)
        self._finished = False
        self.ended = False
        self.waits: tuple[socket.socket, int] = (source, selectors.EVENT_READ)

    def move(self) -> None:
        """As far as it goes now; ``waits`` is what it goes on with."""
        while not self.ended:
            try:
                if self._held:
                    at = self._sink
                    wanted = selectors.EVENT_WRITE
                    self._held = self._held[at.send(self._held) :]
                elif self._finished:
                    _end(self._sink)
                    self.ended = True
                else:
                    at = self._source
                    wanted = selectors.EVENT_READ
                    part = at.recv(_CHUNK)
                    self._held, self._finished = memoryview(part), not part
            except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError) as e:
                # TLS may have to read in order to write, and the other way round.
                if isinstance(e, ssl.SSLWantReadError):
                    wanted = selectors.EVENT_READ
                elif isinstance(e, ssl.SSLWantWriteError):
                    wanted = selectors.EVENT_WRITE
                self.waits = (at, wanted)
                return


def _copied(a: socket.socket, b: socket.socket, to_b: bytes, to_a: bytes) -> None:
    ways = (_Way(a, b, to_b), _Way(b, a, to_a))
    while True:
        for way in ways:
            way.move()
        if all(way.ended for way in ways):
            return
        masks: dict[socket.socket, int] = {}
        for way in ways:
            if not way.ended:
                masks[way.waits[0]] = masks.get(way.waits[0], 0) | way.waits[1]
        with selectors.PollSelector() as selector:
            for sock, mask in masks.items():
                selector.register(sock, mask)
            selector.select()


def _end(sink: socket.socket) -> None:
    """TLS has no half of a connection that stays: its end is the end of both."""
    if isinstance(sink, ssl.SSLSocket):
        raise ConnectionError("the other side has ended")
    sink.shutdown(socket.SHUT_WR)
