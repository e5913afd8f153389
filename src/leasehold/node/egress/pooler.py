"""PostgreSQL without a password: a pgbouncer for each lease, which logs in as the task's own role.

It parses what a hostile client sends, so it runs in a sandbox of its own: no file of the host but libraries, no
capability, the compartment's system call filter. Its configuration, with the password in it, exists in memory only.
Source: pgbouncer(5), "auth_type = any" and the forced user of a database.
"""

from __future__ import annotations

import asyncio
import os
import platform
import shutil
import signal
from collections.abc import Sequence
from pathlib import Path

from leasehold.core.errors import EgressError
from leasehold.core.secret import Secret
from leasehold.node.egress.model import Destination
from leasehold.node.sandbox import kernel, seccomp

_PGBOUNCER = "/usr/sbin/pgbouncer"
_PORT = 6432
_INSIDE = "/run/pooler"
_START_S = 10.0
_CONFIG = """
[databases]
* = host={host} port={port} user={user} password={password}
[pgbouncer]
listen_port = {listen}
unix_socket_dir = {folder}/socket
unix_socket_mode = 0700
auth_type = any
admin_users =
stats_users =
pool_mode = session
max_client_conn = 200
server_tls_sslmode = verify-full
server_tls_ca_file = {folder}/ca.pem
server_tls_protocols = secure
server_connect_timeout = 10
server_login_retry = 1
query_wait_timeout = 30
ignore_startup_parameters = extra_float_digits
log_connections = 0
log_disconnections = 0
"""


class Pooler:
    """One pgbouncer. ``folder``: its own, made here and removed at the end."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._process: asyncio.subprocess.Process | None = None
        self.socket = folder / f".s.PGSQL.{_PORT}"

    async def start(
        self, destination: Destination, addresses: Sequence[str], username: str, password: Secret, trusted_ca: str
    ) -> None:
        """Returns when it accepts connections; ``EgressError`` when it does not."""
        bwrap, pgbouncer = shutil.which("bwrap"), shutil.which("pgbouncer", path=_PGBOUNCER.rpartition("/")[0])
        if bwrap is None or pgbouncer is None:
            raise EgressError("pgbouncer is not installed", hint="install the packages `pgbouncer` and `bubblewrap`")
        self._folder.mkdir(mode=0o700)
        # The server's certificate is verified for its name, and the name leads where the broker has looked it up.
        hosts = "".join(f"{address} {destination.host}\n" for address in addresses).encode()
        config = _CONFIG.format(
            host=destination.host,
            port=destination.port,
            user=username,
            password=password.reveal().decode(),
            listen=_PORT,
            folder=_INSIDE,
        ).encode()
        # A client with the broker's own user would be taken for the administrator, and Envoy has that user.
        program = seccomp.program(platform.machine(), hide_peers=True)
        memory = [kernel.memory_file(content) for content in (program, hosts, config)]
        try:
            self._process = await asyncio.create_subprocess_exec(
                bwrap,
                *_sandbox(self._folder, trusted_ca, *memory),
                pgbouncer,
                "-q",
                f"{_INSIDE}/pgbouncer.ini",
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.DEVNULL,
                stderr=asyncio.subprocess.DEVNULL,
                env={"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8"},
                pass_fds=memory,
                start_new_session=True,
            )
        finally:
            for fd in memory:
                os.close(fd)
        await self._ready()

    async def _ready(self) -> None:
        ended = asyncio.create_task(self.wait())
        try:
            async with asyncio.timeout(_START_S):
                while not self.socket.exists() and not ended.done():
                    await asyncio.sleep(0.005)
        except TimeoutError:
            await self.stop()
        finally:
            ended.cancel()
        if not self.socket.exists():
            await self.stop()
            raise EgressError("pgbouncer did not start", hint="run `leasehold doctor`; the machine may be overloaded")

    async def wait(self) -> None:
        """Until it has ended."""
        if self._process is not None:
            await self._process.wait()

    async def stop(self) -> None:
        """End it and all its connections; idempotent."""
        if self._process is not None and self._process.returncode is None:
            self._process.send_signal(signal.SIGKILL)
            await self._process.wait()
        shutil.rmtree(self._folder, ignore_errors=True)


def _sandbox(folder: Path, trusted_ca: str, program: int, hosts: int, config: int) -> list[str]:
    """bubblewrap's options; the numbers are descriptors of what they are called after."""
    libraries = [
        option
        for name in ("lib", "lib32", "lib64", "libx32")
        if (path := Path(f"/{name}")).is_symlink()
        for option in ("--symlink", str(path.readlink()), str(path))
    ]
    return [
        "--unshare-user",
        "--unshare-pid",
        "--unshare-ipc",
        "--unshare-uts",
        "--unshare-cgroup-try",
        *("--uid", "65533", "--gid", "65533"),
        *("--cap-drop", "ALL"),
        "--die-with-parent",
        "--new-session",
        "--clearenv",
        *("--ro-bind", "/usr", "/usr"),
        *libraries,
        *("--proc", "/proc", "--dev", "/dev", "--tmpfs", "/tmp"),  # noqa: S108  a new one, in its sandbox
        *("--tmpfs", _INSIDE, "--bind", str(folder), f"{_INSIDE}/socket"),
        *("--ro-bind-data", str(hosts), "/etc/hosts"),
        *("--perms", "0400", "--ro-bind-data", str(config), f"{_INSIDE}/pgbouncer.ini"),
        *("--ro-bind", trusted_ca, f"{_INSIDE}/ca.pem"),
        *("--seccomp", str(program)),
        "--",
    ]
