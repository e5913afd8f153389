"""PostgreSQL 15 on loopback with TLS: one server for one session of tests, its data in a temporary folder."""

from __future__ import annotations

import os
import pwd
import secrets
import shutil
import subprocess
import tempfile
from pathlib import Path
from urllib.parse import quote, urlencode

import psycopg
from psycopg import sql

from servers.ca import TestCa
from servers.process import Child, ServerError, free_port

ADDRESS = "127.0.0.1"
HOST = "db.forge.test"
"""Its certificate is for this name too: a compartment's clients know the server by it."""
ADMIN = "postgres"
_BIN = Path("/usr/lib/postgresql/15/bin")
_USER = "postgres"
_TOOL_TIMEOUT_S = 60.0

# Durability against a power cut is no test's subject; every statement is logged, so that a test can search the log.
_SETTINGS = """
listen_addresses = '{address}'
port = {port}
unix_socket_directories = ''
max_connections = 200
ssl = on
ssl_cert_file = '{certificate}'
ssl_key_file = '{key}'
password_encryption = 'scram-sha-256'
fsync = off
log_statement = 'all'
log_connections = on
"""
_ACCESS = "hostssl all all 127.0.0.1/32 scram-sha-256\n"


class PostgresServer:
    """Refuses whoever comes without TLS or a password.

    ``admin_url``: the superuser's, for the database ``postgres``; ``ca``: what its certificate, which is for the
    address and not for ``localhost``, is verified against; ``log``: every statement. All URLs verify the server.
    """

    def __init__(self) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="lh-postgres-"))
        self._data = self._folder / "data"
        self.log = self._folder / "log"
        self.port = free_port(ADDRESS)
        ca = TestCa(self._folder)
        self.ca = ca.path
        self.password = secrets.token_urlsafe(24)
        self._running = False
        try:
            self._initialise(*ca.leaf((ADDRESS, HOST)))
            self.start()
        except BaseException:
            shutil.rmtree(self._folder)
            raise

    @property
    def admin_url(self) -> str:
        return self.url(ADMIN, self.password, "postgres")

    def url(self, user: str, password: str, database: str) -> str:
        """Where to connect as ``user``, with the server verified."""
        tls = urlencode({"sslmode": "verify-full", "sslrootcert": str(self.ca)})
        return f"postgresql://{user}:{quote(password, safe='')}@{ADDRESS}:{self.port}/{database}?{tls}"

    def database(self, name: str) -> str:
        """Create a database; the superuser's URL for it."""
        with self.admin() as connection:
            connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
        return self.url(ADMIN, self.password, name)

    def admin(self, database: str = "postgres") -> psycopg.Connection:
        """A superuser's connection, each statement a transaction of its own; to be closed."""
        return psycopg.connect(self.url(ADMIN, self.password, database), autocommit=True)

    def start(self) -> None:
        """Start it, also again after :meth:`stop`; it answers when this returns."""
        self._child = Child([*_unprivileged(), str(_BIN / "postgres"), "-D", str(self._data)], log=self.log)
        self._child.wait_until(self._answers)
        self._running = True

    def stop(self) -> None:
        """End the server and every session with it, and keep its data; idempotent."""
        if self._running:
            self._tool("pg_ctl", "stop", "-D", str(self._data), "-m", "fast", "-w")
            self._child.close()
            self._running = False

    def close(self) -> None:
        """End it and remove its data; idempotent."""
        if not self._folder.exists():
            return
        self.stop()
        shutil.rmtree(self._folder)

    def _answers(self) -> bool:
        """It listens before it is ready."""
        try:
            self.admin().close()
        except psycopg.OperationalError:
            return False
        return True

    def _initialise(self, certificate: Path, key: Path) -> None:
        passwords = self._folder / "password"
        with os.fdopen(os.open(passwords, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(self.password)
        if os.geteuid() == 0:
            person = pwd.getpwnam(_USER)
            for path in (self._folder, *self._folder.iterdir()):
                os.chown(path, person.pw_uid, person.pw_gid)
        arguments = ("-U", ADMIN, "--pwfile", str(passwords), "--auth", "scram-sha-256", "-E", "UTF8", "--no-sync")
        self._tool("initdb", "-D", str(self._data), "--locale", "C", *arguments)
        passwords.unlink()
        settings = _SETTINGS.format(address=ADDRESS, port=self.port, certificate=certificate, key=key)
        with (self._data / "postgresql.conf").open("a") as file:
            file.write(settings)
        (self._data / "pg_hba.conf").write_text(_ACCESS)

    def _tool(self, name: str, *arguments: str) -> None:
        done = subprocess.run(
            [*_unprivileged(), str(_BIN / name), *arguments],
            cwd="/",
            capture_output=True,
            text=True,
            check=False,
            timeout=_TOOL_TIMEOUT_S,
        )
        if done.returncode != 0:
            raise ServerError(f"{name}: exit code {done.returncode}\n{done.stdout[-1000:]}\n{done.stderr[-1000:]}")


def _unprivileged() -> list[str]:
    """PostgreSQL refuses to run as root; the signal at its starter's death is lost with the change of user."""
    become = ["--reuid", _USER, "--regid", _USER, "--clear-groups"] if os.geteuid() == 0 else []
    return ["setpriv", *become, "--pdeathsig", "KILL", "--"]
