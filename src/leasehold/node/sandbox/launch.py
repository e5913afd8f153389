"""Carries out the plan of a compartment: bubblewrap, started so that there is no moment in which less holds.

The order (DESIGN 4, steps 3 to 5): fork; in the child a session of its own, only the descriptors that are meant, no
core dumps, the network; then bubblewrap. It sets everything up and waits for the system call filter, which comes
through a pipe. Before the filter is written, the finished compartment is looked at from outside (:mod:`probe`). When
the launcher dies before that, the pipe is empty, and bubblewrap refuses an empty filter.
"""

from __future__ import annotations

import os
import resource
import select
import signal
import time

from leasehold.core.errors import SandboxError
from leasehold.node.sandbox import kernel
from leasehold.node.sandbox.plan import NODES
from leasehold.node.sandbox.probe import mount_problems, parse_mountinfo, problems, view

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from typing import NoReturn

    from leasehold.node.sandbox.namespaces import Network
    from leasehold.node.sandbox.plan import Effect, Plan

# Not looked up in PATH: one of its folders may lie in a workspace.
_BWRAP = ("/usr/bin/bwrap", "/usr/local/bin/bwrap", "/bin/bwrap", "/run/current-system/sw/bin/bwrap")
_SETUP_TIMEOUT_S = 20.0
_POLL_S = 0.0005
# Each mask takes a descriptor, and each folder above it; the rest is Python's and ours.
_FDS_PER_EFFECT, _FDS_BESIDES = 3, 64
_HINT = "`leasehold doctor` says what this machine lacks"
NOT_EXECUTABLE = 126

# Effects whose content comes through a descriptor, and bubblewrap's names for them.
_DATA = {"copy": "--file", "file": "--file", "data": "--bind-data", "ro-data": "--ro-bind-data"}


class Compartment:
    """A compartment that has been started. ``pidfd`` is readable when all of it has ended; ``mounts_fd`` has POLLPRI
    when a mount in it has changed (proc_pid_mounts(5))."""

    def __init__(
        self, pid: int, filter_pipe: int, status_pipe: int, failed_pipe: int, fd_limit: tuple[int, int]
    ) -> None:
        self.pid = pid
        self.pidfd = os.pidfd_open(pid)
        self.init = 0
        self.mounts_fd = -1
        self.exit_code: int | None = None
        self._filter_pipe = filter_pipe
        self._status_pipe = status_pipe
        self._failed_pipe = failed_pipe
        self._fd_limit = fd_limit
        self._init_pidfd = -1

    def wait_until_ready(self, timeout_s: float = _SETUP_TIMEOUT_S) -> None:
        """Wait until bubblewrap has set all up and dropped its last capability; ``SandboxError`` otherwise."""
        with os.fdopen(self._failed_pipe, "rb") as pipe:
            self._failed_pipe = -1
            reason = pipe.read().decode(errors="replace")
        if reason:
            raise SandboxError(f"bubblewrap was not started: {reason}", hint=_HINT)
        until = time.monotonic() + timeout_s
        while time.monotonic() < until:
            if select.select([self.pidfd], [], [], _POLL_S)[0]:
                raise SandboxError(f"bubblewrap failed with status {self.wait()}", hint=_HINT)
            # An ordinary user's bubblewrap runs under a process that only waits (kernel.become_init).
            bwrap = self.pid if kernel.is_running(self.pid, "bwrap") else kernel.child_of(self.pid)
            self.init = kernel.child_of(bwrap) if bwrap else 0
            if self.init and int(kernel.status_of(self.init).get("CapEff", "1"), 16) == 0:
                self._init_pidfd = os.pidfd_open(self.init)
                self.mounts_fd = os.open(f"/proc/{self.init}/mountinfo", os.O_RDONLY | os.O_CLOEXEC)
                # The agent gets the limit that the person has (see start).
                resource.prlimit(self.init, resource.RLIMIT_NOFILE, self._fd_limit)
                return
        raise SandboxError(f"bubblewrap was not ready after {timeout_s:g} s", hint=_HINT)

    def verify(self, plan: Plan, homes: Sequence[str]) -> None:
        """Look at the compartment before anything runs in it (BOUNDARY E14, E17); ``SandboxError`` if it differs."""
        found = problems(view(self.init, homes), plan)
        if found:
            raise SandboxError(f"the compartment is not as planned: {'; '.join(found)}", hint=_HINT)

    def verify_mounts(self, plan: Plan) -> None:
        """Look at the mounts again while the agent runs; ``SandboxError`` if one has fallen off."""
        os.lseek(self.mounts_fd, 0, os.SEEK_SET)
        with os.fdopen(os.dup(self.mounts_fd), encoding="utf-8", errors="surrogateescape") as file:
            found = mount_problems(parse_mountinfo(file.read()), plan)
        if found:
            raise SandboxError(
                f"the compartment has changed while the agent ran: {'; '.join(found)}",
                hint="something on the host was renamed or deleted while it was protected; start the command again",
            )

    def go(self, program: bytes) -> None:
        """Step 5: give bubblewrap the system call filter, after which it executes the agent."""
        os.write(self._filter_pipe, program)
        os.close(self._filter_pipe)
        self._filter_pipe = -1

    def ended(self) -> bool:
        return self.exit_code is not None or bool(select.select([self.pidfd], [], [], 0)[0])

    def signal(self, number: int, group: int | None = None) -> None:
        """Send a signal to a process group inside; without a terminal it is pid 1's (whom signals do not end)."""
        if self.init and not self.ended():
            os.killpg(group or self.init, number)

    def kill(self) -> None:
        """End everything inside at once; idempotent."""
        for pidfd in (self._init_pidfd, self.pidfd):
            if pidfd >= 0 and not select.select([pidfd], [], [], 0)[0]:
                signal.pidfd_send_signal(pidfd, signal.SIGKILL)

    def wait(self) -> int:
        """Wait until all of it has ended. Returns the agent's exit code, 128 + n when signal n ended it, 126 when it
        could not be executed (bubblewrap has said why)."""
        if self.exit_code is None:
            _, status = os.waitpid(self.pid, 0)
            code = os.waitstatus_to_exitcode(status)
            code = 128 - code if code < 0 else code
            # bubblewrap reports an exit code only for a command that was executed.
            executed = b'"exit-code"' in os.read(self._status_pipe, 65536)
            released = self._filter_pipe < 0
            self.exit_code = NOT_EXECUTABLE if released and not executed and code == 1 else code
            if self._init_pidfd >= 0:
                select.select([self._init_pidfd], [], [])
        return self.exit_code

    def close(self) -> None:
        """Kill and reap whatever is left, and close all descriptors; idempotent."""
        if self.pidfd >= 0:
            self.kill()
            self.wait()
            pipes = (self._filter_pipe, self._status_pipe, self._failed_pipe)
            for fd in (self.pidfd, self._init_pidfd, self.mounts_fd, *pipes):
                if fd >= 0:
                    os.close(fd)
            self.pidfd = self._init_pidfd = self.mounts_fd = self._filter_pipe = self._failed_pipe = -1


def start(
    plan: Plan,
    environment: Mapping[str, str],
    network: Network,
    standard: tuple[int, int, int],
    control: int,
    programs: Sequence[str] = _BWRAP,
    before_drop: Callable[[], None] | None = None,
) -> Compartment:
    """Fork a process that executes bubblewrap, which then waits for the filter.

    ``standard``: the descriptors that become 0, 1 and 2. ``control``: passed on, unless -1. ``programs``: where
    bubblewrap may be. ``before_drop``: see :meth:`Network.enter`. ``SandboxError`` when it is not there.
    """
    bwrap = next((path for path in programs if os.access(path, os.X_OK)), None)
    if bwrap is None:
        raise SandboxError("bubblewrap is not installed", hint="install the package `bubblewrap`, 0.8 or later")
    fd_limit = soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _FDS_PER_EFFECT * len(plan.effects) + _FDS_BESIDES
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(wanted, hard)), hard))
    opener, memory = kernel.Opener(), []
    filter_read, filter_write = os.pipe2(os.O_CLOEXEC)
    status_read, status_write = os.pipe2(os.O_CLOEXEC)
    failed_read, failed_write = os.pipe2(os.O_CLOEXEC)

    def data(effect: Effect) -> int:
        copied = effect.op == "copy"
        fd = os.open(effect.source, os.O_RDONLY | os.O_CLOEXEC) if copied else kernel.memory_file(effect.content)
        memory.append(fd)
        return fd

    try:
        options = [*plan.options, "--seccomp", str(filter_read), "--json-status-fd", str(status_write)]
        argv, kept = arguments(plan.effects, opener.open, data)
        # By descriptor: what stands on its command line, every user of the host can read, and so can the agent.
        memory.append(kernel.memory_file(b"".join(os.fsencode(part) + b"\0" for part in (*options, *argv))))
        kept.append(memory[-1])
        argv = [bwrap, "--args", str(memory[-1]), "--", *plan.command]
        kept += [filter_read, status_write, *([control] if control >= 0 else [])]
        launcher = os.getpid()

        def child() -> NoReturn:
            _child(argv, environment, network, standard, kept, failed_write, launcher, before_drop)

        pid = kernel.fork_as_init(child) if os.geteuid() == 0 else os.fork() or child()
    except OSError as error:
        for fd in (filter_write, status_read, failed_read):
            os.close(fd)
        raise SandboxError(f"the compartment cannot be started: {error}", hint=_HINT) from error
    finally:
        opener.close()
        for fd in (filter_read, status_write, failed_write, *memory):
            os.close(fd)
    return Compartment(pid, filter_write, status_read, failed_read, fd_limit)


def arguments(
    effects: Sequence[Effect], opened: Callable[[str], int], data: Callable[[Effect], int]
) -> tuple[list[str], list[int]]:
    """bubblewrap's arguments for ``effects``, and the descriptors that it needs for them."""
    argv: list[str] = []
    kept: list[int] = []
    for effect in effects:
        if effect.mode:
            argv += ["--perms", effect.mode]
        if effect.op in ("bind-fd", "ro-bind-fd"):
            kept.append(opened(effect.source))
            argv += [f"--{effect.op}", str(kept[-1]), effect.dest]
        elif effect.op in _DATA:
            kept.append(data(effect))
            argv += [_DATA[effect.op], str(kept[-1]), effect.dest]
        elif effect.op in ("ro-bind", "symlink"):
            argv += [f"--{effect.op}", effect.source, effect.dest]
        else:
            argv += [f"--{effect.op}", effect.dest]
    return argv, kept


def _child(
    argv: list[str],
    environment: Mapping[str, str],
    network: Network,
    standard: tuple[int, int, int],
    kept: Sequence[int],
    failed: int,
    launcher: int,
    before_drop: Callable[[], None] | None,
) -> NoReturn:
    """In the forked child: confine, then execute. What goes wrong is written to ``failed``; nothing is executed."""
    root = os.geteuid() == 0

    def execute() -> NoReturn:
        if root:
            kernel.keep_capability_for_own_id()
        os.execve(argv[0], argv, environment)  # noqa: S606 (a list, and no shell is meant)

    try:
        for number in (signal.SIGPIPE, signal.SIGXFSZ):  # which Python ignores
            signal.signal(number, signal.SIG_DFL)
        os.setsid()
        for fd, source in enumerate(standard):
            os.dup2(source, fd)
        kernel.keep_only(kept)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        if root:
            kernel.guard_devices(f"/dev/{node}" for node in NODES)
        network.enter(before_drop)
        kernel.go_on_as_init(launcher, execute)
    except BaseException as error:
        os.write(failed, f"{type(error).__name__}: {error}"[:4096].encode(errors="replace"))
        os._exit(127)
