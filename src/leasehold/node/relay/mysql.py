"""MySQL and MariaDB: the relay logs in at the server, and lets whoever comes in with the same capabilities.

No proxy of the package sources can do it. Source: MariaDB, "Connecting" (handshake, authentication); MySQL, "Connection
Phase" and "Caching SHA-2 pluggable authentication".
"""

from __future__ import annotations

import hashlib
import secrets
import socket
import ssl
from dataclasses import dataclass
from typing import Any

_PACKET_MAX = 1 << 16
_OK, _MORE, _SWITCH, _ERROR = 0x00, 0x01, 0xFE, 0xFF
_WITH_DB, _COMPRESS, _SSL, _SECURE, _PROTOCOL_41 = 0x8, 0x20, 0x800, 0x8000, 0x200
_PLUGIN, _ATTRIBUTES, _LENENC, _ZSTD, _FACTORS = 0x80000, 0x100000, 0x200000, 0x4000000, 0x10000000
# Compression would have to be undone, attributes and further factors belong to the login, which is ours.
_NOT_PASSED = _COMPRESS | _ATTRIBUTES | _ZSTD | _FACTORS
_NATIVE, _SHA2 = b"mysql_native_password", b"caching_sha2_password"
_FAST, _FULL = b"\x01\x03", b"\x01\x04"
_NONCE = 20

Met = tuple[socket.socket, socket.socket, bytes]


class _Refused(Exception):
    """The server's own words, as a packet for the client."""


@dataclass(slots=True)
class _Line:
    """One connection and the number of its next packet."""

    sock: socket.socket
    number: int = 0

    def read(self) -> bytes:
        head = self._exactly(4)
        length = int.from_bytes(head[:3], "little")
        if not 0 < length <= _PACKET_MAX:
            raise ValueError("no packet of a handshake")
        self.number = (head[3] + 1) % 256
        return self._exactly(length)

    def write(self, payload: bytes) -> None:
        self.sock.sendall(len(payload).to_bytes(3, "little") + bytes([self.number]) + payload)
        self.number = (self.number + 1) % 256

    def _exactly(self, count: int) -> bytes:
        """No byte more: what follows a request for TLS belongs to somebody else."""
        data = b""
        while len(data) < count:
            part = self.sock.recv(count - len(data))
            if not part:
                raise ConnectionError("the other side has left")
            data += part
        return data


@dataclass(frozen=True, slots=True, kw_only=True)
class Greeting:
    """What a server begins with. ``rest``: character set and status; ``extended``: MariaDB's own capabilities."""

    version: bytes
    thread: bytes
    capabilities: int
    rest: bytes
    extended: bytes
    nonce: bytes
    plugin: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Response:
    """What a client answers. ``head``: greatest packet and character set."""

    capabilities: int
    head: bytes
    extended: bytes
    has_password: bool
    database: bytes
    plugin: bytes


def meet(told: dict[str, Any], client: socket.socket, context: ssl.SSLContext | None) -> Met | None:
    """Both handshakes. ``told``: ``host``, ``addresses``, ``port``, ``ca`` (PEM), ``username``, ``password``."""
    server = _Line(_connect(told, client.gettimeout()))
    mine = _Line(client)
    try:
        greeting = read_greeting(_not_refused(server.read()))
        mine.write(_greeting(greeting, offers_tls=context is not None))
        response = _answer(mine, context)
        accepted = _log_in(server, greeting, response, told)
    except _Refused as e:
        mine.write(e.args[0])
        mine.sock.close()
        server.sock.close()
        return None
    if response.plugin == _SHA2 and response.has_password:
        mine.write(_FAST)
    mine.write(accepted)
    return mine.sock, server.sock, b""


def read_greeting(packet: bytes) -> Greeting:
    """``ValueError`` for what is none, of protocol 10."""
    version, end, rest = packet[1:].partition(b"\0")
    if packet[0] != 10 or not end or len(rest) < 31:
        raise ValueError("no greeting")
    capabilities = int.from_bytes(rest[13:15], "little") | int.from_bytes(rest[18:20], "little") << 16
    length = max(13, rest[20] - 8)
    plugin = rest[31 + length :].partition(b"\0")[0] if capabilities & _PLUGIN else _NATIVE
    return Greeting(
        version=version,
        thread=rest[0:4],
        capabilities=capabilities,
        rest=rest[15:18],
        extended=rest[27:31],
        nonce=(rest[4:12] + rest[31 : 31 + length])[:_NONCE],
        plugin=plugin,
    )


def read_response(packet: bytes) -> Response:
    """``ValueError`` for what is none, of protocol 4.1."""
    capabilities = int.from_bytes(packet[:4], "little")
    if len(packet) < 33 or not capabilities & _PROTOCOL_41:
        raise ValueError("no response to a greeting")
    _, _, rest = packet[32:].partition(b"\0")
    if capabilities & (_LENENC | _SECURE):  # a scramble has fewer than 251 bytes, so its length is one byte
        length = rest[0] if rest else 0
        scramble, rest = rest[1 : 1 + length], rest[1 + length :]
    else:
        scramble, _, rest = rest.partition(b"\0")
    database = b""
    if capabilities & _WITH_DB:
        database, _, rest = rest.partition(b"\0")
    plugin = rest.partition(b"\0")[0] if capabilities & _PLUGIN else _NATIVE
    return Response(
        capabilities=capabilities,
        head=packet[4:9],
        extended=packet[28:32],
        has_password=bool(scramble),
        database=database,
        plugin=plugin,
    )


def _greeting(server: Greeting, *, offers_tls: bool) -> bytes:
    """The server's own, with capabilities and a nonce of ours."""
    capabilities = server.capabilities & ~(_NOT_PASSED | _SSL) | _PLUGIN | _SECURE | (_SSL if offers_tls else 0)
    nonce = bytes(1 + secrets.randbelow(127) for _ in range(_NONCE))
    low, high = (capabilities & 0xFFFF).to_bytes(2, "little"), (capabilities >> 16).to_bytes(2, "little")
    return b"".join(
        (
            b"\x0a" + server.version + b"\0" + server.thread + nonce[:8] + b"\0",
            low + server.rest + high + bytes([_NONCE + 1]) + bytes(6) + server.extended,
            nonce[8:] + b"\0" + _NATIVE + b"\0",
        )
    )


def _answer(client: _Line, context: ssl.SSLContext | None) -> Response:
    packet = client.read()
    if len(packet) == 32 and int.from_bytes(packet[:4], "little") & _SSL and context is not None:
        client.sock = context.wrap_socket(client.sock, server_side=True)
        packet = client.read()
    return read_response(packet)


def _log_in(server: _Line, greeting: Greeting, client: Response, told: dict[str, Any]) -> bytes:
    """As the task's own user, over TLS that is verified; returns the server's last word, for the client."""
    if not greeting.capabilities & _SSL:
        raise ValueError("the server has no TLS")
    flags = client.capabilities & greeting.capabilities & ~(_NOT_PASSED | _LENENC)
    flags |= _SSL | _SECURE | _PLUGIN | _PROTOCOL_41
    head = flags.to_bytes(4, "little") + client.head + bytes(19) + client.extended
    server.write(head)
    context = ssl.create_default_context(cadata=told["ca"])
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    server.sock = context.wrap_socket(server.sock, server_hostname=told["host"])
    password = told["password"].encode()
    scramble = _scramble(greeting.plugin, password, greeting.nonce)
    named = told["username"].encode() + b"\0" + bytes([len(scramble)]) + scramble
    database = client.database + b"\0" if flags & _WITH_DB else b""
    server.write(head + named + database + greeting.plugin + b"\0")
    while True:
        packet = _not_refused(server.read())
        if packet[0] == _OK:
            return packet
        if packet[0] == _SWITCH:
            plugin, _, nonce = packet[1:].partition(b"\0")
            server.write(_scramble(plugin, password, nonce[:_NONCE]))
        elif packet == _FULL:
            server.write(password + b"\0")  # TLS is what protects it, as the protocol has it
        elif packet != _FAST:
            raise ValueError("the server wants another way to log in")


def _scramble(plugin: bytes, password: bytes, nonce: bytes) -> bytes:
    if plugin == _SHA2:
        once = hashlib.sha256(password).digest()
        mask = hashlib.sha256(hashlib.sha256(once).digest() + nonce).digest()
    elif plugin == _NATIVE:
        once = hashlib.sha1(password).digest()  # noqa: S324  the protocol's
        mask = hashlib.sha1(nonce + hashlib.sha1(once).digest()).digest()  # noqa: S324  the protocol's
    else:
        raise ValueError("the server wants another way to log in")
    return bytes(a ^ b for a, b in zip(once, mask, strict=True))


def _not_refused(packet: bytes) -> bytes:
    if packet[0] == _ERROR:
        raise _Refused(packet)
    return packet


def _connect(told: dict[str, Any], timeout: float | None) -> socket.socket:
    for address in told["addresses"]:
        try:
            return socket.create_connection((address, told["port"]), timeout)
        except OSError as e:
            failure = e
    raise failure
