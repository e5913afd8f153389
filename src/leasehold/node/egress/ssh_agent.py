"""An SSH agent for one task: it signs with the leased certificate's key, and never gives it.

It signs only what logs somebody in at a host whose key is pinned: the connection has to be bound to a session with that
host (``session-bind@openssh.com``, signed by the host), and the data to be the request of this very session for this
very certificate. So whoever holds the socket can log in where the task may, and sign nothing else.
Sources: draft-ietf-sshm-ssh-agent; OpenSSH's PROTOCOL.agent (session-bind) and PROTOCOL (hostbound); RFC 4252 sec. 7.
"""

from __future__ import annotations

import asyncio
from binascii import a2b_base64, b2a_base64
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.serialization import load_ssh_private_key, load_ssh_public_key

from leasehold.core.errors import LeaseholdError
from leasehold.core.secret import Secret

_FAILURE, _SUCCESS = 5, 6
_REQUEST_IDENTITIES, _IDENTITIES = 11, 12
_SIGN_REQUEST, _SIGN_RESPONSE = 13, 14
_EXTENSION = 27
_USERAUTH_REQUEST = 50
_MESSAGE_MAX = 1 << 16
_CONNECTIONS_MAX = 64
_IDLE_S = 120.0
_BIND = b"session-bind@openssh.com"
_HOSTBOUND = b"publickey-hostbound-v00@openssh.com"
_HASHES = {b"256": hashes.SHA256(), b"384": hashes.SHA384(), b"512": hashes.SHA512(), b"521": hashes.SHA512()}


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """``certificate``: one line as in ``id-cert.pub``; ``private_key``: OpenSSH's PEM, of Ed25519; ``host_keys``: the
    hosts' keys, as blobs, for which it may sign."""

    certificate: bytes
    private_key: Secret
    host_keys: frozenset[bytes]


class Identities(Protocol):
    """Who decides what the task has; asked when a client first asks."""

    async def identities(self, task: str, host_key: bytes) -> Sequence[Identity]:
        """Those for the host with this key; all without one. An error, or nothing, where it has none (any more)."""

    def refused(self, task: str, reason: str) -> None:
        """Somebody asked for a signature that is none of a login at one of the hosts."""


@dataclass(slots=True)
class _Connection:
    session: bytes = b""
    host_key: bytes = b""
    refused: str = ""


class _No(Exception):
    """A request that is refused, and why."""


class SshAgent:
    """Listens on one unix socket."""

    def __init__(self, task: str, identities: Identities) -> None:
        self._task = task
        self._identities = identities
        self._server: asyncio.Server | None = None
        self._path: Path | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self._closed = False

    async def start(self, path: Path) -> None:
        """``path`` lies in a folder that is private to this user."""
        self._path = path
        self._server = await asyncio.start_unix_server(self._serve, path, limit=_MESSAGE_MAX)
        path.chmod(0o600)

    def close(self) -> None:
        """No more, also on connections that are open; idempotent."""
        self._closed = True  # also for those that were accepted and not yet served
        if self._server is not None:
            self._server.close()
        for writer in list(self._writers):
            writer.transport.abort()
        if self._path is not None:
            self._path.unlink(missing_ok=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._closed or len(self._writers) >= _CONNECTIONS_MAX:
            writer.transport.abort()
            return
        self._writers.add(writer)
        connection = _Connection()
        try:
            with suppress(OSError, asyncio.IncompleteReadError, TimeoutError):
                while True:
                    async with asyncio.timeout(_IDLE_S):
                        length = int.from_bytes(await reader.readexactly(4), "big")
                        if not 0 < length <= _MESSAGE_MAX:
                            return
                        message = await reader.readexactly(length)
                    answer = await self._answered(connection, message)
                    writer.write(len(answer).to_bytes(4, "big") + answer)
                    await writer.drain()
        finally:
            self._writers.discard(writer)
            writer.close()

    async def _answered(self, connection: _Connection, message: bytes) -> bytes:
        kind, body = message[0], message[1:]
        with suppress(LeaseholdError):  # a first use that is refused is recorded where it was decided
            try:
                if kind == _REQUEST_IDENTITIES and not body:
                    return await self._list(connection)
                if kind == _SIGN_REQUEST:
                    return await self._sign(connection, body)
                if kind == _EXTENSION:
                    return self._bind(connection, body)
            except (_No, ValueError) as e:
                self._identities.refused(self._task, str(e) if isinstance(e, _No) else "it is malformed")
        return bytes([_FAILURE])

    async def _list(self, connection: _Connection) -> bytes:
        found = await self._identities.identities(self._task, connection.host_key)
        if connection.host_key and not found:
            self._identities.refused(self._task, "the host's key is not pinned")
        entries = b"".join(_string(_blob(each)) + _string(b"leasehold") for each in found)
        return bytes([_IDENTITIES]) + len(found).to_bytes(4, "big") + entries

    def _bind(self, connection: _Connection, body: bytes) -> bytes:
        name, rest = _read(body)
        if name != _BIND:
            return bytes([_FAILURE])
        host_key, rest = _read(rest)
        session, rest = _read(rest)
        signature, rest = _read(rest)
        if len(rest) != 1:
            raise ValueError("no binding")
        if connection.session or rest[0]:
            connection.refused = "the connection was forwarded or bound before"
            raise _No(connection.refused)
        if not verifies(host_key, signature, session):
            connection.refused = "the host did not sign the session"
            raise _No(connection.refused)
        connection.session, connection.host_key = session, host_key
        return bytes([_SUCCESS])

    async def _sign(self, connection: _Connection, body: bytes) -> bytes:
        blob, rest = _read(body)
        data, rest = _read(rest)
        if len(rest) != 4:
            raise ValueError("no request for a signature")
        if connection.refused or not connection.session:
            raise _No(connection.refused or "the connection is bound to no session with a host")
        found = await self._identities.identities(self._task, connection.host_key)
        identity = next((each for each in found if _blob(each) == blob), None)
        if identity is None:
            raise _No("the key is none of the task's")
        if connection.host_key not in identity.host_keys:
            raise _No("the host's key is not pinned")
        _check_login(data, connection, blob)
        return bytes([_SIGN_RESPONSE]) + _string(_signature(identity, data))


def verifies(host_key: bytes, signature: bytes, data: bytes) -> bool:
    """Whether the host with this key (a blob) has signed ``data``."""
    try:
        kind, _ = _read(host_key)
        name, rest = _read(signature)
        raw, _ = _read(rest)
        key = load_ssh_public_key(kind + b" " + _base64(host_key))
        if isinstance(key, ed25519.Ed25519PublicKey) and name == b"ssh-ed25519":
            key.verify(raw, data)
        elif isinstance(key, ec.EllipticCurvePublicKey) and name == kind and kind[-3:] in _HASHES:
            r, rest = _read(raw)
            s, _ = _read(rest)
            der = encode_dss_signature(int.from_bytes(r, "big"), int.from_bytes(s, "big"))
            key.verify(der, data, ec.ECDSA(_HASHES[kind[-3:]]))
        elif isinstance(key, rsa.RSAPublicKey) and name in (b"rsa-sha2-256", b"rsa-sha2-512"):
            key.verify(raw, data, padding.PKCS1v15(), _HASHES[name[-3:]])
        else:
            return False
    except (ValueError, UnsupportedAlgorithm, InvalidSignature):
        return False
    return True


def host_key_blobs(lines: Iterable[str]) -> frozenset[bytes]:
    """From ``type base64`` to what hosts show."""
    return frozenset(a2b_base64(line.split(" ")[1]) for line in lines)


def _check_login(data: bytes, connection: _Connection, blob: bytes) -> None:
    """``_No`` for what is not the request that logs in with ``blob`` in the session that the connection is bound to."""
    session, rest = _read(data)
    kind, rest = rest[:1], rest[1:]
    if session != connection.session or kind != bytes([_USERAUTH_REQUEST]):
        raise _No("the data is no login in the session of the connection")
    _user, rest = _read(rest)
    service, rest = _read(rest)
    method, rest = _read(rest)
    signed, rest = rest[:1], rest[1:]
    algorithm, rest = _read(rest)
    key, rest = _read(rest)
    host = b""
    if method == _HOSTBOUND:
        host, rest = _read(rest)
    expected = (service, method in (b"publickey", _HOSTBOUND), signed, key, rest)
    if expected != (b"ssh-connection", True, b"\1", blob, b"") or algorithm != _read(blob)[0]:
        raise _No("the data is no login with the task's certificate")
    if method == _HOSTBOUND and host != connection.host_key:
        raise _No("the login is for another host")


def _signature(identity: Identity, data: bytes) -> bytes:
    key = load_ssh_private_key(identity.private_key.reveal(), password=None)
    if not isinstance(key, ed25519.Ed25519PrivateKey):
        raise _No("the task's key is of another kind")
    return _string(b"ssh-ed25519") + _string(key.sign(data))


def _blob(identity: Identity) -> bytes:
    return a2b_base64(identity.certificate.split(b" ")[1])


def _base64(data: bytes) -> bytes:
    return b2a_base64(data, newline=False)


def _string(data: bytes) -> bytes:
    return len(data).to_bytes(4, "big") + data


def _read(data: bytes) -> tuple[bytes, bytes]:
    """One string and what follows it; ``ValueError`` when it is cut off."""
    length = int.from_bytes(data[:4], "big")
    if len(data) < 4 + length or len(data) < 4:
        raise ValueError("cut off")
    return data[4 : 4 + length], data[4 + length :]
