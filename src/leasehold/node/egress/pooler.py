"""PostgreSQL without a password: a pgbouncer for each lease, which logs in as the task's own role.

Source: pgbouncer(5), "auth_type = any" and the forced user of a database.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

from leasehold.core.secret import Secret
from leasehold.node.egress.confined import Confined
from leasehold.node.egress.model import Destination

_PGBOUNCER = "/usr/sbin/pgbouncer"
_CONFIG, _AUTHORITIES = "/run/pgbouncer.ini", "/run/ca.pem"
_PORT = 6432
_TEXT = """
[databases]
* = host={host} port={port} user={user} password={password}
[pgbouncer]
listen_port = {listen}
unix_socket_dir = {folder}
unix_socket_mode = 0700
auth_type = any
admin_users =
stats_users =
pool_mode = session
max_client_conn = 200
server_tls_sslmode = verify-full
server_tls_ca_file = {authorities}
server_tls_protocols = secure
server_connect_timeout = 10
server_login_retry = 1
query_wait_timeout = 30
ignore_startup_parameters = extra_float_digits
log_connections = 0
log_disconnections = 0
"""


class Pooler(Confined):
    """One pgbouncer; ``socket`` is where it listens."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.socket = folder / f".s.PGSQL.{_PORT}"

    async def _accepts(self, socket: Path) -> bool:
        """pgbouncer's socket is there before it listens."""
        try:
            _, writer = await asyncio.open_unix_connection(socket)
        except OSError:
            return False
        writer.close()
        return True

    async def log_in(
        self, destination: Destination, addresses: Sequence[str], username: str, password: Secret, trusted_ca: str
    ) -> None:
        """Start it; ``EgressError`` when it does not start."""
        config = _TEXT.format(
            host=destination.host,
            port=destination.port,
            user=username,
            password=password.reveal().decode(),
            listen=_PORT,
            folder=self.folder,
            authorities=_AUTHORITIES,
        )
        files = {
            _CONFIG: config.encode(),
            _AUTHORITIES: Path(trusted_ca).read_bytes(),
            # The server's certificate is verified for its name, and the name leads where the broker has looked it up.
            "/etc/hosts": "".join(f"{address} {destination.host}\n" for address in addresses).encode(),
        }
        await self.start([_PGBOUNCER, "-q", _CONFIG], socket=self.socket, files=files, network=True)
