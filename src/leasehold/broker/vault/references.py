"""References to secrets, resolved when they are used and kept in memory only."""

from __future__ import annotations

import os
import shlex
import stat
import subprocess
from collections.abc import Callable
from pathlib import Path

from leasehold.broker.vault.store import Vault
from leasehold.core.errors import SecretUnavailable
from leasehold.core.limits import LIMITS
from leasehold.core.secret import Secret


def resolve(reference: str, vault: Vault, variable: Callable[[str], str | None]) -> Secret:
    """The value of ``vault:NAME``, ``env:NAME``, ``file:PATH`` or ``command:PROGRAM ARGUMENTS``.

    ``variable``: one variable of the caller's environment. One trailing line end is dropped; a value with CR, LF or NUL
    is refused, because it goes into a header. ``SecretUnavailable`` otherwise.
    """
    kind, _, rest = reference.partition(":")
    if kind == "vault":
        return vault.get(rest)
    if kind == "env":
        value = variable(rest)
        if value is None:
            raise SecretUnavailable(
                f"the variable {rest} is not set where leasehold was started", hint=f"export {rest}"
            )
        return _checked(value.encode(), reference)
    if kind == "file":
        return _checked(_file(Path(rest).expanduser()), reference)
    if kind == "command":
        return _checked(_command(rest), f"command:{rest.split()[0]}")
    raise SecretUnavailable(f"{kind!a} is no kind of reference", hint="use vault:, env:, file: or command:")


def _checked(value: bytes, reference: str) -> Secret:
    value = value.removesuffix(b"\n").removesuffix(b"\r")
    if not value:
        raise SecretUnavailable(f"{reference} is empty", hint="put the value there")
    if len(value) > LIMITS.secret_bytes_max:
        raise SecretUnavailable(
            f"{reference} is longer than {LIMITS.secret_bytes_max} bytes", hint="is it the right one?"
        )
    if any(byte in value for byte in (b"\r"[0], b"\n"[0], 0)):
        raise SecretUnavailable(f"{reference} has several lines or a NUL", hint="a credential is one line of text")
    return Secret(value)


def _file(path: Path) -> bytes:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as e:
        reason = f"cannot be read: {e.strerror}"
    else:
        with os.fdopen(fd, "rb") as file:
            info = os.fstat(fd)
            if stat.S_ISREG(info.st_mode) and not info.st_mode & 0o077:
                return file.read(LIMITS.secret_bytes_max + 2)
        reason = "must be an ordinary file that nobody else may read"
    raise SecretUnavailable(f"{path} {reason}", hint=f"chmod 600 {path}")


def _command(line: str) -> bytes:
    """Run without a shell; what it writes to standard error may hold the value and is not shown."""
    environment = {name: os.environ[name] for name in _COMMAND_ENVIRONMENT if name in os.environ}
    try:
        done = subprocess.run(
            shlex.split(line),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=environment,
            timeout=LIMITS.secret_command_timeout_s,
            check=False,
        )
    except (OSError, ValueError) as e:
        reason = getattr(e, "strerror", None) or "it is not a command line"
    except subprocess.TimeoutExpired:
        reason = f"it took longer than {LIMITS.secret_command_timeout_s:g} s"
    else:
        if done.returncode == 0:
            return done.stdout
        reason = f"exit code {done.returncode}"
    raise SecretUnavailable(
        f"the command {shlex.split(line)[0]!a} failed: {reason}", hint="run it yourself, and sign in"
    )


_COMMAND_ENVIRONMENT = (
    "PATH", "HOME", "USER", "LANG", "XDG_CONFIG_HOME", "XDG_RUNTIME_DIR", "DBUS_SESSION_BUS_ADDRESS", "GNUPGHOME",
    "PASSWORD_STORE_DIR",
)  # fmt: skip
