"""RabbitMQ 3.10 on loopback with TLS: one node for one session of tests, its data in a temporary folder."""

from __future__ import annotations

import os
import pwd
import secrets
import shutil
import ssl
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import httpx

from servers.amqp import AmqpClient
from servers.ca import TestCa
from servers.process import Child, ServerError, accepts, free_port

ADDRESS = "127.0.0.1"
ADMIN = "operator"
_USER = "rabbitmq"
_START_S = 90.0
_PROGRAM = "/usr/lib/rabbitmq/bin/rabbitmq-server"

_SETTINGS = """
listeners.tcp = none
listeners.ssl.1 = {address}:{port}
ssl_options.cacertfile = {ca}
ssl_options.certfile = {certificate}
ssl_options.keyfile = {key}
ssl_options.verify = verify_none
ssl_options.fail_if_no_peer_cert = false
management.ssl.ip = {address}
management.ssl.port = {management_port}
management.ssl.cacertfile = {ca}
management.ssl.certfile = {certificate}
management.ssl.keyfile = {key}
default_user = {admin}
default_pass = {password}
log.console = true
log.console.level = warning
log.file = false
"""


class RabbitServer:
    """Takes AMQP and HTTP over TLS only. ``port``: of AMQP; ``management_port``: of the HTTP API.

    ``ca``: what its certificate, which is for the address and not for ``localhost``, is verified against.
    """

    def __init__(self) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="lh-rabbitmq-"))
        self.port, self.management_port, self._names_port, self._node_port = (free_port(ADDRESS) for _ in range(4))
        ca = TestCa(self._folder)
        self.ca = ca.path
        self.password = secrets.token_urlsafe(24)
        self._http = httpx.Client(
            base_url=f"https://{ADDRESS}:{self.management_port}/api",
            verify=ca.client_context(),
            auth=(ADMIN, self.password),
            trust_env=False,
        )
        self._children: list[Child] = []
        try:
            self._start(*ca.leaf((ADDRESS,)))
        except BaseException:
            self.close()
            raise

    def connect(self, user: str, password: str, vhost: str = "/") -> AmqpClient:
        """A client with the server verified; to be closed."""
        return AmqpClient((ADDRESS, self.port), ssl.create_default_context(cafile=self.ca), user, password, vhost)

    def ask(self, method: str, path: str, body: object = None) -> Any:
        """What the HTTP API answers to one that may do all; ``None`` where there is no such thing."""
        answer = self._http.request(method, path, json=body)
        if answer.status_code == httpx.codes.NOT_FOUND:
            return None
        answer.raise_for_status()
        return answer.json() if answer.content else None

    def close(self) -> None:
        """End the node and its register of names; idempotent."""
        self._http.close()
        for child in reversed(self._children):
            child.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _start(self, certificate: Path, key: Path) -> None:
        settings, plugins = self._folder / "rabbitmq.conf", self._folder / "plugins"
        settings.write_text(
            _SETTINGS.format(
                address=ADDRESS,
                port=self.port,
                management_port=self.management_port,
                ca=self.ca,
                certificate=certificate,
                key=key,
                admin=ADMIN,
                password=self.password,
            )
        )
        plugins.write_text("[rabbitmq_management].\n")
        settings.chmod(0o600)
        if os.geteuid() == 0:
            person = pwd.getpwnam(_USER)
            for path in (self._folder, *self._folder.iterdir()):
                os.chown(path, person.pw_uid, person.pw_gid)
        # The register that a node would start by itself outlives the node.
        self._run(["epmd", "-port", str(self._names_port), "-address", ADDRESS], self._environment(), "names.log")
        self._children[-1].wait_until(accepts(ADDRESS, self._names_port))
        self._run([_PROGRAM], self._environment(), "log")
        self._children[-1].wait_until(self._answers, timeout_s=_START_S)

    def _environment(self) -> Mapping[str, str]:
        return {
            "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
            "LANG": "C.UTF-8",
            "HOME": str(self._folder),
            "ERL_EPMD_PORT": str(self._names_port),
            "ERL_EPMD_ADDRESS": ADDRESS,
            "RABBITMQ_NODENAME": f"leasehold{self.port}@localhost",
            "RABBITMQ_DIST_PORT": str(self._node_port),
            "RABBITMQ_CONF_ENV_FILE": "/dev/null",
            "RABBITMQ_CONFIG_FILE": str(self._folder / "rabbitmq"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(self._folder / "plugins"),
            "RABBITMQ_MNESIA_BASE": str(self._folder / "data"),
            "RABBITMQ_LOG_BASE": str(self._folder / "logs"),
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "-kernel inet_dist_use_interface {127,0,0,1} +S 1:1 +sbwt none",
        }

    def _run(self, command: list[str], environment: Mapping[str, str], log: str) -> None:
        become = ["--reuid", _USER, "--regid", _USER, "--clear-groups"] if os.geteuid() == 0 else []
        # The signal at its starter's death is lost with the change of user.
        whole = ["setpriv", *become, "--pdeathsig", "KILL", "--", *command]
        self._children.append(Child(whole, log=self._folder / log, env=environment))

    def _answers(self) -> bool:
        try:
            answer = self._http.get("/whoami")
        except httpx.TransportError:
            return False
        if answer.status_code == httpx.codes.UNAUTHORIZED:
            raise ServerError("rabbitmq-server does not know its operator")
        return answer.is_success and accepts(ADDRESS, self.port)()
