"""The master key of this user's vault, and the keys that follow from it (RFC 5869)."""

from __future__ import annotations

import base64
import os
import secrets
import stat
from pathlib import Path

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from leasehold.core.errors import VaultError
from leasehold.core.secret import Secret

_BYTES = 32
_SERVICE = "leasehold"
# Back ends that keep a password in the clear, or nowhere.
_REAL = ("keyring.backends.SecretService", "keyring.backends.kwallet", "keyring.backends.libsecret")


def master_key(state: Path) -> Secret:
    """The key from the OS keyring where there is one, else from ``state/vault.key`` (0600); made on first use."""
    path = state / "vault.key"
    if path.exists():
        return _from_file(path)
    ring = _keyring()
    if ring is not None:
        return ring
    key = secrets.token_bytes(_BYTES)
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        with os.fdopen(fd, "wb") as file:
            file.write(key)
            file.flush()
            os.fsync(fd)
    except OSError as e:
        reason = e.strerror
    else:
        return Secret(key)
    raise VaultError(f"{path} cannot be written: {reason}", hint="make room, or look at the folder's rights")


def audit_key(master: Secret) -> Secret:
    """The key that seals the audit log."""
    return _derived(master, b"leasehold audit log")


def vault_key(master: Secret) -> Secret:
    """The key that seals the vault's values."""
    return _derived(master, b"leasehold vault")


def _derived(master: Secret, purpose: bytes) -> Secret:
    return Secret(HKDF(algorithm=hashes.SHA256(), length=_BYTES, salt=None, info=purpose).derive(master.reveal()))


def _from_file(path: Path) -> Secret:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as e:
        problem = f"cannot be read: {e.strerror}"
    else:
        with os.fdopen(fd, "rb") as file:
            info = os.fstat(fd)
            key = file.read(_BYTES + 1)
        if (
            stat.S_ISREG(info.st_mode)
            and info.st_uid == os.getuid()
            and not info.st_mode & 0o077
            and len(key) == _BYTES
        ):
            return Secret(key)
        problem = f"must be a file of {_BYTES} bytes that only uid {os.getuid()} may read"
    raise VaultError(f"{path} {problem}", hint="restore it from a backup; without it the vault's values are lost")


def _keyring() -> Secret | None:
    """The key from the session's keyring; ``None`` where there is no real one."""
    if "DBUS_SESSION_BUS_ADDRESS" not in os.environ:
        return None
    import keyring
    from keyring.errors import KeyringError

    try:
        backend = keyring.get_keyring()
        if not type(backend).__module__.startswith(_REAL):
            return None
        stored = keyring.get_password(_SERVICE, "master-key")
        if stored is None:
            stored = base64.b64encode(secrets.token_bytes(_BYTES)).decode()
            keyring.set_password(_SERVICE, "master-key", stored)
    except KeyringError as e:
        reason = type(e).__name__
    else:
        return Secret(base64.b64decode(stored))
    raise VaultError(f"the keyring refuses: {reason}", hint="unlock it, and try again")
