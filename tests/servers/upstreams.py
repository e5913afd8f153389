"""All upstreams of one session: names and addresses are known at once, a server starts when first used."""

from __future__ import annotations

import os
import secrets
import shutil
import tempfile
from contextlib import ExitStack
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

from servers import config
from servers.api import ApiServer
from servers.attacker import Attacker
from servers.base import Place, Upstream
from servers.ca import TestCa
from servers.dns import DnsStub
from servers.git import GitServer
from servers.loop import LoopThread
from servers.npm import NpmServer
from servers.process import free_port
from servers.pypi import PypiServer
from servers.rpc import GrpcServer

_U = TypeVar("_U", bound=Upstream)
# The API answers to several names, so that each way of injecting has a host of its own.
API_NAMES = ("key.forge.test", "basic.forge.test", "query.forge.test", "open.forge.test", "plain.forge.test")
_HOSTS = {
    "git": ("git.forge.test", 2),
    "pypi": ("pypi.forge.test", 3),
    "npm": ("npm.forge.test", 4),
    "api": ("api.forge.test", 5),
    "grpc": ("grpc.forge.test", 6),
    "evil": ("evil.test", 7),
}


class Upstreams:
    """``with Upstreams() as up: up.git.clone_url("acme/web")``.

    Servers listen on a /24 of 127.0.0.0/8 taken at random, on port 443 as root and else on a free one.
    """

    def __init__(self) -> None:
        self._stack = ExitStack()
        self.folder = Path(tempfile.mkdtemp(prefix="lh-up-"))
        self._stack.callback(shutil.rmtree, self.folder)
        self.network = f"127.{64 + secrets.randbelow(128)}.{1 + secrets.randbelow(254)}"
        self.ca = TestCa(self.folder)
        self.beside: dict[str, Path] = {}  # other servers of this machine: name to the authority of their certificates
        self._places = {name: self._place(name, host, last) for name, (host, last) in _HOSTS.items()}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End what was started, newest first; idempotent."""
        self._stack.close()

    @cached_property
    def git(self) -> GitServer:
        return self._keep(GitServer(self._places["git"]))

    @cached_property
    def pypi(self) -> PypiServer:
        return self._keep(PypiServer(self._places["pypi"]))

    @cached_property
    def npm(self) -> NpmServer:
        return self._keep(NpmServer(self._places["npm"]))

    @cached_property
    def api(self) -> ApiServer:
        plain = 80 if os.geteuid() == 0 else free_port(self.address("api"))
        return self._keep(ApiServer(self._places["api"], self._loop, names=API_NAMES, plain_port=plain))

    @cached_property
    def grpc(self) -> GrpcServer:
        return self._keep(GrpcServer(self._places["grpc"]))

    @cached_property
    def evil(self) -> Attacker:
        return self._keep(Attacker(self._places["evil"], self._loop))

    @cached_property
    def dns(self) -> DnsStub:
        address = f"{self.network}.53"
        stub = DnsStub(address, 53 if os.geteuid() == 0 else free_port(address))
        self._stack.callback(stub.close)
        return stub

    def server(self, name: str) -> Upstream:
        """The server called ``name``: git, pypi, npm, api, grpc or evil."""
        started: Any = getattr(self, name)
        assert isinstance(started, Upstream)
        return started

    def address(self, name: str) -> str:
        return self._places[name].address

    def place(self, name: str) -> Place:
        """Where server ``name`` is or will be; starts nothing."""
        return self._places[name]

    def resolve(self) -> dict[str, str]:
        """Every name of the session and its address."""
        names = {place.host: place.address for place in self._places.values()}
        beside = dict.fromkeys(self.beside, "127.0.0.1")
        return {**names, **dict.fromkeys(API_NAMES, self.address("api")), **beside}

    def api_url(self, host: str) -> str:
        """The API under one of :data:`API_NAMES`."""
        port = self._places["api"].port
        return f"https://{host}" if port == 443 else f"https://{host}:{port}"

    def operator_config(self, folder: Path, *servers: str, extra: str = "") -> Path:
        """Write ``folder/config.toml`` and a file per secret; returns its path.

        ``servers``: whose credentials to define (all when empty); they are started, because a server may
        issue its token itself. ``extra``: TOML that is added at the end, with ``@folder@``
        replaced (it has ``api.secret`` and so on).
        """
        return config.write(self, folder, servers or tuple(config.SECTIONS), extra=extra)

    @cached_property
    def _loop(self) -> LoopThread:
        loop = LoopThread()
        self._stack.callback(loop.close)
        return loop

    def _keep(self, server: _U) -> _U:
        self._stack.callback(server.close)
        return server

    def _place(self, name: str, host: str, last: int) -> Place:
        address = f"{self.network}.{last}"
        folder = self.folder / name
        folder.mkdir()
        port = 443 if os.geteuid() == 0 else free_port(address)
        return Place(host=host, address=address, port=port, folder=folder, ca=self.ca)
