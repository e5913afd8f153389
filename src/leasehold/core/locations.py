"""Where the state, the sockets and the operator's configuration are (XDG base directories)."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from leasehold.core.errors import ConfigError


def state_dir() -> Path:
    """``$XDG_STATE_HOME/leasehold``, made when it is missing."""
    base = os.environ.get("XDG_STATE_HOME") or str(Path.home() / ".local" / "state")
    return _private(Path(base) / "leasehold")


def runtime_dir() -> Path:
    """``$XDG_RUNTIME_DIR/leasehold``; without that variable ``/run/leasehold`` for root, else one under ``/tmp``."""
    base = os.environ.get("XDG_RUNTIME_DIR")
    if base:
        return _private(Path(base) / "leasehold")
    uid = os.getuid()
    # In a folder that all may write to, the owner and the mode are what counts: _private looks at them.
    return _private(Path("/run/leasehold") if uid == 0 else Path("/tmp") / f"leasehold-{uid}")  # noqa: S108  # see above


def socket_path() -> Path:
    return runtime_dir() / "broker.sock"


def operator_config_path() -> Path:
    """``$LEASEHOLD_CONFIG``, else the user's file, else ``/etc/leasehold/config.toml``."""
    named = os.environ.get("LEASEHOLD_CONFIG")
    if named:
        return Path(named)
    base = os.environ.get("XDG_CONFIG_HOME") or str(Path.home() / ".config")
    own = Path(base) / "leasehold" / "config.toml"
    return own if own.exists() else Path("/etc/leasehold/config.toml")


def _private(path: Path) -> Path:
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    info = path.lstat()
    if not stat.S_ISDIR(info.st_mode) or info.st_uid != os.getuid() or info.st_mode & 0o077:
        raise ConfigError(f"{path} must be a folder of uid {os.getuid()} with mode 0700", hint=f"chmod 700 {path}")
    return path
