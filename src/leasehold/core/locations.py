"""Where the state, the sockets and the operator's configuration are (XDG base directories)."""

from __future__ import annotations

import os
import stat
from contextlib import suppress

from leasehold.core.errors import ConfigError

CONFIG_NAME = "config.toml"
# The longest socket name in the runtime folder is "/" and a task's id and port; sun_path holds 108 bytes with its NUL.
_RUNTIME_BYTES_MAX = 107 - len("/xxxxxx-65535.sock")
_CA_BUNDLES = (
    "/etc/ssl/certs/ca-certificates.crt",  # Debian, Arch, Alpine, Gentoo
    "/etc/pki/tls/certs/ca-bundle.crt",  # Fedora, RHEL
    "/etc/ssl/ca-bundle.pem",  # SUSE
    "/etc/ssl/cert.pem",  # others
)


def state_dir() -> str:
    """``$XDG_STATE_HOME/leasehold``, made when it is missing. ``ConfigError`` unless it is the caller's alone."""
    return _private(f"{_base('XDG_STATE_HOME', '.local/state')}/leasehold")


def runtime_dir() -> str:
    """``$XDG_RUNTIME_DIR/leasehold``; without that variable ``/run/leasehold`` for root, else one under ``/tmp``."""
    base, uid = os.environ.get("XDG_RUNTIME_DIR", ""), os.getuid()
    if base.startswith("/"):
        path = os.path.join(base, "leasehold")
    else:
        # In a folder that all may write to, the owner and the mode are what counts: _private looks at them.
        path = "/run/leasehold" if uid == 0 else f"/tmp/leasehold-{uid}"  # noqa: S108  # see above
    if len(os.fsencode(path)) > _RUNTIME_BYTES_MAX:
        raise ConfigError(f"{path} is too long for the name of a socket", hint="set XDG_RUNTIME_DIR to a shorter path")
    return _private(path)


def socket_path() -> str:
    """The broker's socket."""
    return f"{runtime_dir()}/broker.sock"


def user_config_path() -> str:
    """Where the user's own configuration is, or would be."""
    return f"{_base('XDG_CONFIG_HOME', '.config')}/leasehold/{CONFIG_NAME}"


def operator_config_path() -> str:
    """``$LEASEHOLD_CONFIG``, else the user's file, else ``/etc/leasehold/config.toml``; absolute."""
    named = os.environ.get("LEASEHOLD_CONFIG")
    if named:
        return os.path.abspath(named)
    own = user_config_path()
    return own if os.path.lexists(own) else f"/etc/leasehold/{CONFIG_NAME}"


def system_ca_bundle() -> str:
    """This system's PEM bundle of trusted authorities; the most usual place where there is none."""
    return next((path for path in _CA_BUNDLES if os.path.exists(path)), _CA_BUNDLES[0])


def _base(variable: str, default: str) -> str:
    """A base folder; a relative one counts as not set, as the specification says."""
    given = os.environ.get(variable, "")
    if given.startswith("/"):
        return given.rstrip("/")
    home = os.path.expanduser("~")
    if not home.startswith("/"):
        raise ConfigError("there is no home folder", hint=f"set HOME, or {variable}")
    return f"{home.rstrip('/')}/{default}"


def _private(path: str) -> str:
    try:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with suppress(FileExistsError):
            os.mkdir(path, 0o700)
        info = os.lstat(path)
    except OSError as e:
        raise ConfigError(
            f"{path} cannot be made: {e.strerror}", hint="it must be a folder that you may write to"
        ) from e
    if not stat.S_ISDIR(info.st_mode) or info.st_uid != os.getuid() or info.st_mode & 0o077:
        raise ConfigError(
            f"expected {path} to be a folder of uid {os.getuid()} with mode 0700, found {_seen(info)}",
            hint=f"chmod 700 {path}, or remove it when it is not yours",
        )
    return path


def _seen(info: os.stat_result) -> str:
    kind = "one" if stat.S_ISDIR(info.st_mode) else "a link" if stat.S_ISLNK(info.st_mode) else "something else"
    return f"{kind} of uid {info.st_uid} with mode {stat.S_IMODE(info.st_mode):04o}"
