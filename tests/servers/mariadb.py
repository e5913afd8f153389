"""MariaDB 10.11 on loopback with TLS: one server for one session of tests, its data in a temporary folder."""

from __future__ import annotations

import hashlib
import os
import pwd
import secrets
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import pymysql
from pymysql.connections import Connection

from servers.ca import TestCa
from servers.process import Child, ServerError, free_port

ADDRESS = "127.0.0.1"
HOST = "sql.forge.test"
"""Its certificate is for this name too: a compartment's clients know the server by it."""
ADMIN = "operator"
_USER = "mysql"
_TOOL_TIMEOUT_S = 120.0
_ANSWER_S = 10.0
_START_S = 60.0

# Durability against a power cut is no test's subject; every statement is logged, so that a test can search the log.
_SETTINGS = """
[mariadbd]
datadir = {data}
socket = {data}/socket
pid_file = {data}/pid
tmpdir = {data}
bind_address = {address}
port = {port}
skip_name_resolve
ssl_cert = {certificate}
ssl_key = {key}
ssl_ca = {ca}
general_log
general_log_file = {log}
connect_timeout = 120
innodb_flush_log_at_trx_commit = 0
innodb_buffer_pool_size = 16M
innodb_log_file_size = 4M
aria_pagecache_buffer_size = 4M
key_buffer_size = 1M
performance_schema = off
"""
_FIRST = """
CREATE USER '{admin}'@'{address}' IDENTIFIED VIA mysql_native_password USING '{digest}';
GRANT ALL PRIVILEGES ON *.* TO '{admin}'@'{address}' WITH GRANT OPTION;
"""


class MariaServer:
    """Takes connections without TLS too, so that a user who needs it is seen to need it.

    ``ca``: what its certificate, which is for the address and not for ``localhost``, is verified against; ``log``:
    every statement. A login may take its time.
    """

    def __init__(self) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="lh-mariadb-"))
        self.log = self._folder / "statements"
        self.port = free_port(ADDRESS)
        ca = TestCa(self._folder)
        self.ca = ca.path
        self.password = secrets.token_urlsafe(24)
        try:
            settings = self._initialise(*ca.leaf((ADDRESS, HOST)))
            first = f"--init-file={self._folder / 'first.sql'}"
            command = [*_unprivileged(), "/usr/sbin/mariadbd", f"--defaults-file={settings}", first]
            self._child = Child(command, log=self._folder / "log")
            self._child.wait_until(self._answers, timeout_s=_START_S)
        except BaseException:
            shutil.rmtree(self._folder)
            raise

    def connect(self, user: str, password: str, kind: Any = Connection, **options: Any) -> Any:
        """A connection with the server verified, each statement a transaction of its own; to be closed.

        ``kind``: another class of it than the driver's; ``options``: more of its own.
        """
        return kind(
            host=ADDRESS,
            port=self.port,
            user=user,
            password=password,
            autocommit=True,
            connect_timeout=_ANSWER_S,
            read_timeout=_ANSWER_S,
            write_timeout=_ANSWER_S,
            ssl_ca=str(self.ca),
            ssl_verify_cert=True,
            ssl_verify_identity=True,
            **options,
        )

    def admin(self) -> Any:
        """A connection that may do all."""
        return self.connect(ADMIN, self.password)

    def close(self) -> None:
        """End the server; idempotent."""
        if self._folder.exists():
            self._child.close()
            shutil.rmtree(self._folder)

    def _answers(self) -> bool:
        try:
            self.admin().close()
        except pymysql.err.OperationalError:
            return False
        return True

    def _initialise(self, certificate: Path, key: Path) -> Path:
        settings, data, first = (self._folder / name for name in ("my.cnf", "data", "first.sql"))
        data.mkdir()
        settings.write_text(
            _SETTINGS.format(
                address=ADDRESS,
                port=self.port,
                certificate=certificate,
                key=key,
                ca=self.ca,
                data=data,
                log=self.log,
            )
        )
        digest = hashlib.sha1(hashlib.sha1(self.password.encode()).digest()).hexdigest().upper()  # noqa: S324  MySQL's own
        first.write_text(_FIRST.format(admin=ADMIN, address=ADDRESS, digest=f"*{digest}"))
        if os.geteuid() == 0:
            person = pwd.getpwnam(_USER)
            for path in (self._folder, *self._folder.iterdir()):
                os.chown(path, person.pw_uid, person.pw_gid)
        self._tool("mariadb-install-db", f"--defaults-file={settings}", "--auth-root-authentication-method=normal")
        return settings

    def _tool(self, *command: str) -> None:
        done = subprocess.run(
            [*_unprivileged(), *command],
            cwd="/",
            capture_output=True,
            text=True,
            check=False,
            timeout=_TOOL_TIMEOUT_S,
        )
        if done.returncode != 0:
            raise ServerError(f"{command[0]}: exit code {done.returncode}\n{done.stdout[-500:]}\n{done.stderr[-1500:]}")


def _unprivileged() -> list[str]:
    """MariaDB refuses to run as root; the signal at its starter's death is lost with the change of user."""
    become = ["--reuid", _USER, "--regid", _USER, "--clear-groups"] if os.geteuid() == 0 else []
    return ["setpriv", *become, "--pdeathsig", "KILL", "--"]
