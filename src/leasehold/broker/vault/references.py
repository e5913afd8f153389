"""References to secrets, resolved when they are used and kept in memory only."""

from __future__ import annotations

import os
import select
import shutil
import signal
import stat
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, cast

from leasehold.broker.vault.store import Vault
from leasehold.broker.vault.values import problem_with, without_line_end
from leasehold.core.errors import SecretUnavailable
from leasehold.core.limits import LIMITS
from leasehold.core.references import Reference, parse_reference
from leasehold.core.secret import Secret

# Where a command is looked for by its name. Not the caller's PATH: a virtual environment in a workspace stands there
# first, and what an agent writes into it would run outside.
COMMAND_PATH = "/usr/local/bin:/usr/bin:/bin:/usr/local/sbin:/usr/sbin:/sbin:/snap/bin:/run/current-system/sw/bin"
_COMMAND_ENVIRONMENT = (
    "HOME", "USER", "LOGNAME", "LANG", "LC_ALL", "XDG_CONFIG_HOME", "XDG_DATA_HOME", "XDG_STATE_HOME",
    "XDG_RUNTIME_DIR", "DBUS_SESSION_BUS_ADDRESS", "GNUPGHOME", "PASSWORD_STORE_DIR",
)  # fmt: skip
_READ_BYTES = 4096


def resolve(
    reference: str, vault: Vault, variable: Callable[[str], str | None], reachable: Sequence[str] = ()
) -> Secret:
    """The value of a reference (:mod:`leasehold.core.references`); ``SecretUnavailable`` when it cannot be had.

    ``variable``: one variable of the caller's environment. ``reachable``: folders in an agent's reach, from which
    neither a value nor a program is taken. One line end is dropped. Blocks: a command may take its time.
    """
    try:
        found = parse_reference(reference)
    except ValueError as e:
        problem = str(e)
    else:
        if found.kind == "vault":
            return vault.get(found.rest)
        value = _READERS[found.kind](found, variable, [os.path.realpath(folder) for folder in reachable])
        problem = problem_with(value)
        if not problem:
            return Secret(value)
        # A command's arguments are not repeated: people have put passwords there.
        where = f"command:{found.words()[0]}" if found.kind == "command" else reference
        problem = f"{where}: {problem}"
    raise SecretUnavailable(problem, hint="`leasehold credential check` tries every reference")


def _variable(reference: Reference, variable: Callable[[str], str | None], _reachable: Sequence[str]) -> bytes:
    value = variable(reference.rest)
    if value is None:
        raise SecretUnavailable(
            f"the variable {reference.rest} is not set where leasehold was started", hint=f"export {reference.rest}"
        )
    return value.encode(errors="surrogateescape")


def _file(reference: Reference, _variable: Callable[[str], str | None], reachable: Sequence[str]) -> bytes:
    path = Path(reference.rest).expanduser()
    hint = f"chmod 600 {path}"
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
    except OSError as e:
        problem, hint = f"cannot be read: {e.strerror}", "the broker runs as you; does the file exist?"
    else:
        try:
            problem = _unfit(os.fstat(fd))
            # Of what was opened, not of the name: links lead anywhere.
            if not problem and _below(str(Path(f"/proc/self/fd/{fd}").readlink()), reachable):
                problem, hint = "lies in a workspace, where an agent reads it", "move it out of the workspace"
            if not problem:
                return without_line_end(os.read(fd, LIMITS.secret_bytes_max + 3))
        finally:
            os.close(fd)
    raise SecretUnavailable(f"{path} {problem}", hint=hint)


def _unfit(info: os.stat_result) -> str:
    if not stat.S_ISREG(info.st_mode):
        return "must be an ordinary file"
    if info.st_uid not in (os.getuid(), 0) or info.st_mode & 0o077:
        return f"must be a file that nobody else may read (it is uid {info.st_uid}'s, mode {info.st_mode & 0o7777:04o})"
    return ""


def _below(path: str, folders: Sequence[str]) -> bool:
    return any(path == folder or path.startswith(folder.rstrip("/") + "/") for folder in folders)


def _command(reference: Reference, _variable: Callable[[str], str | None], reachable: Sequence[str]) -> bytes:
    """Run without a shell; what it writes to standard error may hold the value and is not shown."""
    name, *arguments = reference.words()
    program = shutil.which(str(Path(name).expanduser()) if "/" in name else name, path=COMMAND_PATH)
    if program is None:
        raise SecretUnavailable(
            f"there is no program {name!a} in the system's folders", hint="give its absolute path: command:/…"
        )
    if _below(os.path.realpath(program), reachable):
        raise SecretUnavailable(
            f"{program} lies in a workspace, where an agent can change it", hint="move it elsewhere"
        )
    environment = {key: os.environ[key] for key in _COMMAND_ENVIRONMENT if key in os.environ}
    try:
        process = subprocess.Popen(
            [program, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            cwd="/",
            env=environment | {"PATH": COMMAND_PATH},
            start_new_session=True,
        )
    except OSError as e:
        problem = f"cannot be started: {e.strerror}"
    else:
        with process:
            try:
                value, problem = _output(process)
            finally:
                # What it started and left goes with it, while its number is still its own: it is reaped afterwards.
                os.killpg(process.pid, signal.SIGKILL)
        if not problem and process.returncode:
            problem = f"ended with exit code {process.returncode}"
        if not problem:
            return without_line_end(value)
    raise SecretUnavailable(f"the command {name!a} {problem}", hint="run it yourself, and sign in")


def _output(process: subprocess.Popen[bytes]) -> tuple[bytes, str]:
    """What it writes until it ends, bounded in size and time, and what went wrong. It is not reaped."""
    until = time.monotonic() + LIMITS.secret_command_timeout_s
    pipe, value = cast(IO[bytes], process.stdout).fileno(), b""
    pidfd = os.pidfd_open(process.pid)
    poll = select.poll()
    for fd in (pipe, pidfd):
        poll.register(fd, select.POLLIN)
    try:
        while ready := dict(poll.poll(max(0.0, until - time.monotonic()) * 1000)):
            part = os.read(pipe, _READ_BYTES) if pipe in ready else b""
            value += part
            if len(value) > LIMITS.secret_bytes_max + 2:
                return b"", "writes more than a secret may have"
            if part:
                continue
            # Somebody that it left behind may hold the pipe open: its own end is what counts.
            if pidfd in ready:
                return value, ""
            poll.unregister(pipe)
    finally:
        os.close(pidfd)
    return b"", f"took longer than {LIMITS.secret_command_timeout_s:g} s"


_READERS = {"env": _variable, "file": _file, "command": _command}
