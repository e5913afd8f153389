"""Runs the product as a person would, with folders of its own, and sees to it that nothing is left.

``with Leasehold(up) as lh: lh.run("curl", "https://api.forge.test/v1/me")``
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from servers.people import Person, inside_namespace
from servers.processes import Leftover, leftovers, owned
from servers.upstreams import Upstreams

_STOP_S = 15.0


class Leasehold:
    """Folders, configuration and daemon of one person. ``base`` holds them all.

    ``servers`` and ``extra`` are those of :meth:`Upstreams.operator_config`; ``config`` replaces its text.
    ``dns``: the only resolver that there is becomes the session's stub. ``person``: the ordinary user who
    runs it (root otherwise).
    """

    def __init__(
        self,
        up: Upstreams,
        *servers: str,
        person: Person | None = None,
        extra: str = "",
        config: str | None = None,
        dns: bool = False,
    ) -> None:
        self.up = up
        self.person = person
        self.base = Path(tempfile.mkdtemp(prefix="lh-", dir="/tmp"))
        for name in ("state", "run", "home", "config", "work"):
            (self.base / name).mkdir(mode=0o700)
        self.config = up.operator_config(self.base / "config", *servers, extra=extra)
        if config is not None:
            self.config.write_text(config)
        self._binds = self._resolver() if dns else []
        self.own(self.base)
        self._closed = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        left = self.close()
        if kind is None:
            assert not left, f"left behind: {left}"

    def workspace(self, name: str = "w") -> Path:
        """A new, empty folder to work in, owned by the person."""
        path = Path(tempfile.mkdtemp(prefix=f"{name}-", dir=self.base / "work"))
        self.own(path)
        return path

    def run(
        self,
        *command: str,
        workspace: Path | None = None,
        grants: Sequence[str] = (),
        options: Sequence[str] = (),
        env: Mapping[str, str] | None = None,
        stdin: str | None = None,
        timeout: float = 60.0,
        mixed: bool = False,
    ) -> subprocess.CompletedProcess[str]:
        """``leasehold run … -- command``; output as text (undecodable bytes as surrogates).

        ``mixed``: standard error is in standard output, in the order of a terminal.
        """
        arguments = self._run_arguments(command, workspace or self.workspace(), grants, options)
        return self.cli(*arguments, env=env, stdin=stdin, timeout=timeout, mixed=mixed)

    def cli(
        self,
        *arguments: str,
        env: Mapping[str, str] | None = None,
        stdin: str | None = None,
        timeout: float = 60.0,
        mixed: bool = False,
    ) -> subprocess.CompletedProcess[str]:
        """Any command of ``leasehold``."""
        return subprocess.run(
            self._command(arguments),
            env=self.environment(env),
            input=stdin,
            stdin=subprocess.DEVNULL if stdin is None else None,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT if mixed else subprocess.PIPE,
            encoding="utf-8",
            errors="surrogateescape",
            timeout=timeout,
            check=False,
        )

    def start(
        self,
        *command: str,
        workspace: Path | None = None,
        grants: Sequence[str] = (),
        options: Sequence[str] = (),
        env: Mapping[str, str] | None = None,
        stdin: int = subprocess.DEVNULL,
    ) -> subprocess.Popen[bytes]:
        """Like :meth:`run`, without waiting; for the caller to end. Its output is in pipes."""
        arguments = self._run_arguments(command, workspace or self.workspace(), grants, options)
        return subprocess.Popen(
            self._command(arguments),
            env=self.environment(env),
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    def environment(self, extra: Mapping[str, str] | None = None) -> dict[str, str]:
        """What the person's shell would have; nothing is passed on from the tests' own."""
        return {
            "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            "HOME": str(self.base / "home"),
            "USER": self.person.name if self.person else "root",
            "LANG": "C.UTF-8",
            "TERM": "dumb",
            "XDG_STATE_HOME": str(self.base / "state"),
            "XDG_RUNTIME_DIR": str(self.base / "run"),
            "XDG_CONFIG_HOME": str(self.base / "home" / ".config"),
            "LEASEHOLD_CONFIG": str(self.config),
            **(extra or {}),
        }

    def processes(self) -> list[Leftover]:
        """Every process that carries this harness's folder with it: daemon, Envoy, compartments …"""
        return owned(self.base)

    def daemon_pid(self) -> int | None:
        """The broker daemon's process, or ``None``."""
        return self._pid_of("leasehold.wiring.daemon")

    def envoy_pid(self) -> int | None:
        """The daemon's Envoy, or ``None``."""
        return self._pid_of("envoy")

    def _pid_of(self, word: str) -> int | None:
        found = [p.pid for p in self.processes() if any(word in part for part in p.command.split()[:4])]
        return found[0] if found else None

    def stop_daemon(self) -> None:
        """End the daemon by its pid and wait until it and its children are gone (bounded)."""
        pid = self.daemon_pid()
        if pid is not None:
            _signal(pid, signal.SIGTERM)
        deadline = time.monotonic() + _STOP_S
        while self.processes() and time.monotonic() < deadline:
            time.sleep(0.02)

    def close(self) -> list[Leftover]:
        """Stop, remove the folders, and say what had been left behind (which is then killed); idempotent."""
        if self._closed:
            return []
        self._closed = True
        self.stop_daemon()
        # A process that ends gives its memory up before its sockets.
        deadline = time.monotonic() + _STOP_S
        while (left := leftovers(self.base)) and time.monotonic() < deadline:
            time.sleep(0.02)
        for process in self.processes():
            _signal(process.pid, signal.SIGKILL)
        shutil.rmtree(self.base, ignore_errors=bool(left))
        return left

    def _run_arguments(
        self, command: Sequence[str], workspace: Path, grants: Sequence[str], options: Sequence[str]
    ) -> list[str]:
        chosen = [part for name in grants for part in ("--grant", name)]
        return ["run", "--workspace", str(workspace), *chosen, *options, "--", *command]

    def _command(self, arguments: Sequence[str]) -> list[str]:
        program = [str(Path(sys.prefix) / "bin" / "python"), "-m", "leasehold", *arguments]
        return inside_namespace(program, person=self.person, binds=self._binds, folder=self.base)

    def _resolver(self) -> list[tuple[Path, Path]]:
        path = self.base / "resolv.conf"
        path.write_text(f"nameserver {self.up.dns.address}\noptions timeout:1 attempts:1\n")
        return [(path, Path("/etc/resolv.conf"))]

    def own(self, path: Path) -> None:
        """Give ``path`` and what is in it to the person."""
        if self.person is None:
            return
        for at in (path, *path.rglob("*")):
            os.chown(at, self.person.uid, self.person.gid, follow_symlinks=False)


def _signal(pid: int, number: signal.Signals) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return
