"""Redis 7 on loopback with TLS: one server for one session of tests, its users in a file of a temporary folder."""

from __future__ import annotations

import hashlib
import os
import secrets
import shutil
import tempfile
from contextlib import closing
from pathlib import Path
from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.connection import SSLConnection
from redis.retry import Retry

from servers.ca import TestCa
from servers.process import Child, ServerError, free_port

ADDRESS = "127.0.0.1"
HOST = "cache.forge.test"
"""Its certificate is for this name too: a compartment's clients know the server by it."""
ADMIN = "operator"

_SETTINGS = """
bind {address}
port 0
tls-port {port}
tls-cert-file {certificate}
tls-key-file {key}
tls-ca-cert-file {ca}
tls-auth-clients no
dir {folder}
aclfile {users}
save ""
"""
_USERS = "user default off\nuser {admin} on #{digest} ~* &* +@all\n"


class Client:
    """One connection, which is never replaced by another."""

    def __init__(self, connection: SSLConnection) -> None:
        self._connection: Any = connection  # the library leaves most of it without types
        self._opened = False

    def ask(self, *words: str) -> Any:
        """The answer to a command; the library's exceptions. It connects at the first."""
        if self._opened and not self._connection.is_connected:
            raise redis.ConnectionError("the connection has ended")
        self._connection.connect()
        self._opened = True
        try:
            self._connection.send_command(*words)
            return self._connection.read_response()
        except redis.ConnectionError:
            self.close()
            raise

    def close(self) -> None:
        self._connection.disconnect()


class RedisServer:
    """Refuses whoever comes without TLS or a password: the user ``default`` is off.

    ``ca``: what its certificate, which is for the address and not for ``localhost``, is verified against; ``users``:
    the file that ``ACL SAVE`` writes; ``durable``: whether there is one.
    """

    def __init__(self, *, durable: bool = True) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="lh-redis-"))
        self.users = self._folder / "users.acl"
        self.port = free_port(ADDRESS)
        ca = TestCa(self._folder)
        self.ca = ca.path
        self.password = secrets.token_urlsafe(24)
        certificate, key = ca.leaf((ADDRESS, HOST))
        users = _USERS.format(admin=ADMIN, digest=hashlib.sha256(self.password.encode()).hexdigest())
        settings = _SETTINGS.format(
            address=ADDRESS, port=self.port, certificate=certificate, key=key, ca=self.ca, folder=self._folder,
            users=self.users,
        )  # fmt: skip
        if durable:
            self._write(self.users, users)
        else:
            settings = settings.replace(f"aclfile {self.users}\n", users)
        self._write(self._folder / "redis.conf", settings)
        try:
            self.start()
        except BaseException:
            shutil.rmtree(self._folder)
            raise

    def start(self) -> None:
        """Again, with what was saved, when it has been stopped."""
        self._child = Child(["redis-server", str(self._folder / "redis.conf")], log=self._folder / "log")
        self._child.wait_until(self._answers)

    def stop(self) -> None:
        """End the server; nothing is saved by that."""
        self._child.close()

    def client(self, user: str, password: str) -> Client:
        """A client with the server verified; to be closed. It connects when it is first used."""
        connection = SSLConnection(
            host=ADDRESS,
            port=self.port,
            username=user,
            password=password,
            ssl_ca_certs=str(self.ca),
            decode_responses=True,
            protocol=2,
            driver_info=None,
            socket_timeout=10.0,
            retry=Retry(NoBackoff(), 0),
        )
        return Client(connection)

    def admin(self) -> Client:
        """A client that may do all."""
        return self.client(ADMIN, self.password)

    def close(self) -> None:
        """End the server; idempotent."""
        if self._folder.exists():
            self._child.close()
            shutil.rmtree(self._folder)

    def _answers(self) -> bool:
        try:
            with closing(self.admin()) as client:
                return bool(client.ask("PING"))
        except redis.AuthenticationError as e:
            raise ServerError("redis-server does not know its operator") from e
        except redis.ConnectionError:
            return False

    def _write(self, path: Path, text: str) -> None:
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(text)
