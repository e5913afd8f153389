"""Where the state, the sockets and the operator's configuration are (XDG base directories)."""

from __future__ import annotations

import os
import stat
from pathlib import Path

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


def state_dir() -> Path:
    """``$XDG_STATE_HOME/leasehold``, made when it is missing. ``ConfigError`` unless it is the caller's alone."""
    return _private(_base("XDG_STATE_HOME", ".local/state") / "leasehold")


def runtime_dir() -> Path:
    """``$XDG_RUNTIME_DIR/leasehold``; without that variable ``/run/leasehold`` for root, else one under ``/tmp``."""
    base, uid = os.environ.get("XDG_RUNTIME_DIR", ""), os.getuid()
    if base.startswith("/"):
        path = Path(base) / "leasehold"
    else:
        # In a folder that all may write to, the owner and the mode are what counts: _private looks at them.
        path = Path("/run/leasehold") if uid == 0 else Path("/tmp") / f"leasehold-{uid}"  # noqa: S108  # see above
    if len(os.fsencode(path)) > _RUNTIME_BYTES_MAX:
        raise ConfigError(f"{path} is too long for the name of a socket", hint="set XDG_RUNTIME_DIR to a shorter path")
    return _private(path)


def socket_path() -> Path:
    """The broker's socket."""
    return runtime_dir() / "broker.sock"


def user_config_path() -> Path:
    """Where the user's own configuration is, or would be."""
    return _base("XDG_CONFIG_HOME", ".config") / "leasehold" / CONFIG_NAME


def operator_config_path() -> Path:
    """``$LEASEHOLD_CONFIG``, else the user's file, else ``/etc/leasehold/config.toml``; absolute."""
    named = os.environ.get("LEASEHOLD_CONFIG")
    if named:
        return Path(named).absolute()
    own = user_config_path()
    return own if os.path.lexists(own) else Path("/etc/leasehold") / CONFIG_NAME


def system_ca_bundle() -> Path:
    """This system's PEM bundle of trusted authorities; the most usual place where there is none."""
    return Path(next((path for path in _CA_BUNDLES if Path(path).exists()), _CA_BUNDLES[0]))


def _base(variable: str, default: str) -> Path:
    """A base folder; a relative one counts as not set, as the specification says."""
    given = os.environ.get(variable, "")
    if given.startswith("/"):
        return Path(given)
    try:
        return Path.home() / default
    except RuntimeError as e:
        raise ConfigError("there is no home folder", hint=f"set HOME, or {variable}") from e


def _private(path: Path) -> Path:
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        info = path.lstat()
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
