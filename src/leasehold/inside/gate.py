"""The gate: names, the explicit proxy, and (for an ordinary user) the way to Envoy, inside one network namespace.

It holds nothing and decides nothing that matters: what passes here meets Envoy's rules behind it. It parses hostile
bytes, so it has no capability, no file and no descriptor but its own sockets.
"""

from __future__ import annotations

import errno
import json
import os
import selectors
import socket
import time
from functools import partial

from leasehold.inside.dns import answer_query
from leasehold.inside.proxy import read_head, refusal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

DNS_PORT, PROXY_PORT = 53, 3128
_CHUNK = 1 << 18
_HEAD_MAX = 16384
_HEAD_TIMEOUT_S = 15.0
_CONNECT_TIMEOUT_S = 10.0
_PROBE_S = 5.0
_NAMES_MAX = 1000
_BACKLOG = 1024


class Gate:
    """``control``: a SEQPACKET socket to the launcher, which asks in JSON."""

    def __init__(self, control: socket.socket) -> None:
        self._control = control
        self._selector = selectors.EpollSelector()
        self._names: dict[str, str] = {}
        self._ports: dict[int, str] = {}
        self._denied: dict[str, int] = {}
        self._deadlines: dict[Waiting, float] = {}

    def run(self, drop_privileges: Callable[[], None]) -> None:
        """Serve until the launcher ends. Binds low ports first, then drops what it took."""
        request = json.loads(self._control.recv(1 << 20) or b"null")
        if request is None:
            return
        self._open(request)
        drop_privileges()
        self._probe(request["ports"])
        self._control.send(b"{}")
        self._selector.register(self._control, selectors.EVENT_READ, self._asked)
        while True:
            for key, events in self._selector.select(1.0 if self._deadlines else None):
                key.data(events)
            now = time.monotonic()
            for waiting in [w for w, until in self._deadlines.items() if until < now]:
                waiting.close()

    def _open(self, request: dict[str, Any]) -> None:
        self._names = request["names"]
        self._ports = {int(port): request["sockets"].get(str(port), "") for port in request["ports"]}
        udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        udp.bind(("127.0.0.1", DNS_PORT))
        self._selector.register(udp, selectors.EVENT_READ, lambda _: self._datagrams(udp))
        self._listen("127.0.0.1", DNS_PORT, lambda sock: Waiting(self, sock, self._dns_stream))
        self._listen("127.0.0.1", PROXY_PORT, lambda sock: Waiting(self, sock, self._proxy_head))
        for port, path in self._ports.items():
            if path:
                self._listen("::", port, partial(self._relay, path))
        for address, port, path in request["streams"]:
            self._listen(address, port, partial(self._relay, path))

    def _listen(self, address: str, port: int, accepted: Callable[[socket.socket], object]) -> None:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        listener = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        listener.bind((address, port))
        listener.listen(_BACKLOG)

        def accept(_events: int) -> None:
            for _ in range(64):
                try:
                    client, _ = listener.accept()
                except OSError:
                    return
                client.setblocking(False)
                accepted(client)

        self._selector.register(listener, selectors.EVENT_READ, accept)

    def _probe(self, ports: list[int]) -> None:
        """Every listener of Envoy's must accept before the agent starts."""
        until = time.monotonic() + _PROBE_S
        for port in ports:
            if self._ports[port]:
                continue
            while True:
                with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
                    probe.settimeout(1)
                    if probe.connect_ex(("127.0.0.1", port)) == 0:
                        break
                if time.monotonic() > until:
                    raise TimeoutError(f"nothing listens on port {port}")
                time.sleep(0.001)

    def _asked(self, _events: int) -> None:
        request = self._control.recv(1 << 20)
        if not request:
            os._exit(0)
        self._control.send(json.dumps({"denied": self._denied}).encode())

    def _datagrams(self, udp: socket.socket) -> None:
        for _ in range(64):
            try:
                query, peer = udp.recvfrom(4096)
            except BlockingIOError:
                return
            reply = answer_query(query, self._names, self._count)
            if reply:
                try:
                    udp.sendto(reply, peer)
                except OSError:
                    continue

    def _count(self, name: str) -> None:
        if name in self._denied or len(self._denied) < _NAMES_MAX:
            self._denied[name] = self._denied.get(name, 0) + 1

    def _dns_stream(self, waiting: Waiting) -> None:
        """DNS over TCP (RFC 7766): one query of at most 4096 bytes at a time."""
        data = waiting.data
        if len(data) < 2:
            return
        length = int.from_bytes(data[:2], "big")
        if length > 4096:
            waiting.close()
        elif len(data) >= 2 + length:
            reply = answer_query(bytes(data[2 : 2 + length]), self._names, self._count)
            if reply:
                waiting.reply(len(reply).to_bytes(2, "big") + reply)
            waiting.close()

    def _proxy_head(self, waiting: Waiting) -> None:
        head = read_head(bytes(waiting.data), self._names, set(self._ports), _HEAD_MAX)
        if head is None:
            return
        if head.refused:
            if head.host and head.host not in self._names:
                self._count(head.host)
            waiting.reply(refusal(head))
            waiting.close()
            return
        self._join(waiting.take(), socket.AF_INET, (self._names[head.host], head.port), head.forward, head.answer)

    def _relay(self, path: str, client: socket.socket) -> None:
        self._join(client, socket.AF_UNIX, path)

    def _join(
        self, client: socket.socket, family: int, address: Any, forward: bytes = b"", answer: bytes = b""
    ) -> None:
        """Lead ``client`` on. Where Envoy is gone, its backlog full or descriptors are short, it sees a closed
        connection at once, never a hang."""
        upstream = None
        try:
            upstream = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
            if (number := upstream.connect_ex(address)) not in (0, errno.EINPROGRESS):
                raise OSError(number, os.strerror(number))
            Pair(self._selector, client, upstream, forward, answer)
        except OSError:
            client.close()
            if upstream is not None:
                upstream.close()


class Waiting:
    """A connection whose first bytes have to be complete before anything is done."""

    def __init__(self, gate: Gate, sock: socket.socket, ready: Callable[[Waiting], None]) -> None:
        self._gate = gate
        self._sock = sock
        self._ready = ready
        self.data = bytearray()
        gate._selector.register(sock, selectors.EVENT_READ, self._readable)
        gate._deadlines[self] = time.monotonic() + _HEAD_TIMEOUT_S

    def reply(self, data: bytes) -> None:
        try:
            self._sock.send(data)
        except OSError:
            return

    def take(self) -> socket.socket:
        """The socket, no longer waited for."""
        self._gate._selector.unregister(self._sock)
        del self._gate._deadlines[self]
        return self._sock

    def close(self) -> None:
        if self in self._gate._deadlines:
            self.take()
            self._sock.close()

    def _readable(self, _events: int) -> None:
        try:
            part = self._sock.recv(_HEAD_MAX)
        except OSError:
            part = b""
        if not part:
            self.close()
            return
        self.data += part
        self._ready(self)


class Pair:
    """Two sockets joined by splice(2): the bytes never enter this process. Each direction ends by itself."""

    def __init__(
        self, selector: selectors.BaseSelector, a: socket.socket, b: socket.socket, to_b: bytes, to_a: bytes
    ) -> None:
        self._selector = selector
        self._ends = (a, b)
        there = Way(a, b, to_b)
        try:
            self._ways = (there, Way(b, a, to_a))
        except OSError:
            there.close()
            raise
        self._closed = False
        for end in self._ends:
            selector.register(end, selectors.EVENT_READ, self._step)
        self._masks = [selectors.EVENT_READ, selectors.EVENT_READ]
        self._step(0)

    def _step(self, _events: int) -> None:
        if self._closed:
            return  # both ends had events, and the first one ended it: these numbers may be others' by now
        try:
            for way in self._ways:
                way.move()
        except OSError:
            self._close()
            return
        if all(way.ended for way in self._ways):
            self._close()
            return
        for index in (0, 1):
            out, back = self._ways[index], self._ways[1 - index]
            mask = (selectors.EVENT_READ if out.wants_read else 0) | (selectors.EVENT_WRITE if back.wants_write else 0)
            if mask != self._masks[index]:
                self._set(index, mask)

    def _set(self, index: int, mask: int) -> None:
        end = self._ends[index]
        if self._masks[index] and mask:
            self._selector.modify(end, mask, self._step)
        elif mask:
            self._selector.register(end, mask, self._step)
        else:
            self._selector.unregister(end)
        self._masks[index] = mask

    def _close(self) -> None:
        self._closed = True
        for index in (0, 1):
            if self._masks[index]:
                self._set(index, 0)
            self._ends[index].close()
        for way in self._ways:
            way.close()


class Way:
    """One direction: at most one pipe of bytes is under way, so a slow reader slows the writer down."""

    def __init__(self, source: socket.socket, sink: socket.socket, prefix: bytes) -> None:
        self._source, self._sink = source, sink
        self._out, self._in = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._held = 0
        self._finished = False
        self.prefix = prefix
        self.ended = False

    @property
    def wants_read(self) -> bool:
        return not self._finished and not self._held and not self.prefix

    @property
    def wants_write(self) -> bool:
        return bool(self._held or self.prefix)

    def move(self) -> None:
        """Move what can be moved now; ``OSError`` when an end has broken."""
        while not self.ended:
            if self.prefix:
                try:
                    self.prefix = self.prefix[self._sink.send(self.prefix) :]
                except BlockingIOError:
                    return
                continue
            if self._held:
                try:
                    self._held -= os.splice(self._out, self._sink.fileno(), self._held, flags=3)
                except BlockingIOError:
                    return
                continue
            if self._finished:
                self._sink.shutdown(socket.SHUT_WR)
                self.ended = True
                return
            try:
                self._held = os.splice(self._source.fileno(), self._in, _CHUNK, flags=3)
            except BlockingIOError:
                return
            self._finished = self._held == 0

    def close(self) -> None:
        os.close(self._out)
        os.close(self._in)
