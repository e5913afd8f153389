"""A process of the egress that parses hostile bytes: in a sandbox of its own, ended with the broker.

No file of the host but system libraries and what is named, no capability, the compartment's system call filter. What is
secret comes as a file in memory.
"""

from __future__ import annotations

import asyncio
import os
import platform
import shutil
import signal
from collections.abc import Mapping, Sequence
from pathlib import Path

from leasehold.core.errors import EgressError
from leasehold.node.sandbox import kernel, seccomp

_START_S = 10.0
_POLL_S = 0.003


class Confined:
    """One process. ``folder``: its own, made here and removed at the end; writable for it at the same path."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._process: asyncio.subprocess.Process | None = None

    async def start(
        self,
        command: Sequence[str],
        *,
        socket: Path,
        files: Mapping[str, bytes],
        readable: Sequence[str] = (),
        network: bool,
    ) -> None:
        """Returns when ``socket`` is there; ``EgressError`` when it does not come.

        ``files``: path inside to content; ``readable``: paths of the host, at the same place.
        """
        bwrap = shutil.which("bwrap")
        if bwrap is None or shutil.which(command[0]) is None:
            missing = "bubblewrap" if bwrap is None else Path(command[0]).name
            raise EgressError(f"{missing} is not installed", hint="run `leasehold doctor`")
        self.folder.mkdir(mode=0o700)
        # Whoever has our user would be taken for an administrator by some, and Envoy has that user.
        memory = [kernel.memory_file(seccomp.program(platform.machine(), hide_peers=True))]
        options = ["--seccomp", str(memory[0]), *([] if network else ["--unshare-net"])]
        for path in readable:
            options += ["--ro-bind", path, path]
        for path, content in files.items():
            memory.append(kernel.memory_file(content))
            options += ["--perms", "0400", "--ro-bind-data", str(memory[-1]), path]
        options += ["--bind", str(self.folder), str(self.folder)]
        try:
            self._process = await asyncio.create_subprocess_exec(
                bwrap,
                *_BASE,
                *_libraries(),
                *options,
                "--",
                *command,
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
        if not await self._there(socket):
            await self.stop()
            raise EgressError(
                f"{Path(command[0]).name} did not start", hint="run `leasehold doctor`; the machine may be overloaded"
            )

    async def wait(self) -> None:
        """Until it has ended."""
        if self._process is not None:
            await self._process.wait()

    async def stop(self) -> None:
        """End it and all its connections; idempotent."""
        if self._process is not None and self._process.returncode is None:
            self._process.send_signal(signal.SIGKILL)
            await self._process.wait()
        shutil.rmtree(self.folder, ignore_errors=True)

    async def _accepts(self, socket: Path) -> bool:
        return socket.exists()

    async def _there(self, socket: Path) -> bool:
        loop = asyncio.get_running_loop()
        until = loop.time() + _START_S
        while not await self._accepts(socket):
            if loop.time() > until or self._process is None or self._process.returncode is not None:
                return False
            await asyncio.sleep(_POLL_S)
        return True


_BASE = (
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
    *("--setenv", "PATH", "/usr/bin:/bin"),
    *("--tmpfs", "/run", "--tmpfs", "/tmp"),  # noqa: S108  new ones
    *("--proc", "/proc", "--dev", "/dev"),
    *("--ro-bind", "/usr", "/usr"),
)


def _libraries() -> list[str]:
    """Where the dynamic linker is looked for, as this system has it."""
    found = []
    for name in ("/lib", "/lib32", "/lib64", "/libx32"):
        path = Path(name)
        if path.is_symlink():
            found += ["--symlink", str(path.readlink()), name]
        elif path.is_dir():
            found += ["--ro-bind", name, name]
    return found
