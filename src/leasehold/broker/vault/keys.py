"""The master key of this user's vault, and the keys that follow from it (RFC 5869).

It is in the OS keyring where there is a real one, else in a file that only its user may read. Which of the two was
chosen stays chosen: ``vault.key`` holds the key itself or the word ``keyring``. So a session without its keyring is
told so, instead of getting a new key that opens nothing.
"""

from __future__ import annotations

import base64
import os
import secrets
import stat
from collections.abc import Callable
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Protocol, TypeVar

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from leasehold.core.errors import VaultError
from leasehold.core.secret import Secret

T = TypeVar("T")
FILE = "vault.key"
_BYTES = 32
_MARK = b"keyring\n"
_SERVICE, _USER = "leasehold", "master-key"
# Never one that keeps a password in the clear, or nowhere; so never whatever happens to be configured.
_REAL = (
    ("keyring.backends.SecretService", "Keyring"),
    ("keyring.backends.libsecret", "Keyring"),
    ("keyring.backends.kwallet", "DBusKeyring"),
)


class Keyring(Protocol):
    """A store of passwords that the operating system guards."""

    def get_password(self, service: str, username: str) -> str | None: ...

    def set_password(self, service: str, username: str, password: str) -> None: ...


def system_keyring() -> Keyring | None:
    """The session's keyring; ``None`` where there is no real one."""
    if "DBUS_SESSION_BUS_ADDRESS" not in os.environ:
        return None
    for module, name in _REAL:
        backend = getattr(import_module(module), name)
        if backend.viable:
            found: Keyring = backend()
            return found
    return None


def master_key(state: Path, keyring: Callable[[], Keyring | None] = system_keyring) -> Secret:
    """The key, made on first use; ``VaultError`` when it cannot be had. ``state``: a folder of the caller alone."""
    path = state / FILE
    if not os.path.lexists(path):
        ring = keyring()
        fresh = secrets.token_bytes(_BYTES)
        if ring is not None:
            _ask(lambda: ring.set_password(_SERVICE, _USER, base64.b64encode(fresh).decode()))
        _create(path, _MARK if ring is not None else fresh)
    content = _content(path)
    return _of_keyring(path, keyring()) if content == _MARK else Secret(content)


def audit_key(master: Secret) -> Secret:
    """The key that seals the audit log."""
    return _derived(master, b"leasehold audit log")


def vault_key(master: Secret) -> Secret:
    """The key that seals the vault's values."""
    return _derived(master, b"leasehold vault")


def ledger_key(master: Secret) -> Secret:
    """The key that seals what the ledger keeps for revoking."""
    return _derived(master, b"leasehold ledger")


def _derived(master: Secret, purpose: bytes) -> Secret:
    return Secret(HKDF(algorithm=hashes.SHA256(), length=_BYTES, salt=None, info=purpose).derive(master.reveal()))


def _content(path: Path) -> bytes:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as e:
        problem = f"cannot be read: {e.strerror}"
    else:
        try:
            info = os.fstat(fd)
            ours = stat.S_ISREG(info.st_mode) and info.st_uid == os.getuid() and not info.st_mode & 0o077
            content = os.read(fd, _BYTES + 1) if ours else b""
        finally:
            os.close(fd)
        if content == _MARK or len(content) == _BYTES:
            return content
        problem = f"must be a file of {_BYTES} bytes that only uid {os.getuid()} may read"
    raise VaultError(f"{path} {problem}", hint="restore it from a backup; without it the vault's values are lost")


def _create(path: Path, content: bytes) -> None:
    """Whole or not at all, also when the machine stops; never over a file that is there."""
    fresh = path.with_suffix(".new")
    try:
        fresh.unlink(missing_ok=True)
        fd = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        with os.fdopen(fd, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(fd)
        with suppress(FileExistsError):  # another one was first, and its key is the key
            os.link(fresh, path)
        fresh.unlink()
        sync_folder(path.parent)
    except OSError as e:
        reason = e.strerror
    else:
        return
    raise VaultError(f"{path} cannot be written: {reason}", hint="make room, or look at the folder's rights")


def sync_folder(folder: Path) -> None:
    """Make what was renamed or linked in ``folder`` durable. Raises ``OSError``."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _of_keyring(path: Path, ring: Keyring | None) -> Secret:
    if ring is None:
        raise VaultError(
            f"the vault's key is in the keyring ({path} says so), and there is none in this session",
            hint="start the broker from a session with a keyring: leasehold daemon stop, then run again there",
        )
    stored = _ask(lambda: ring.get_password(_SERVICE, _USER))
    with suppress(ValueError):
        key = base64.b64decode(stored or "", validate=True)
        if len(key) == _BYTES:
            return Secret(key)
    raise VaultError(
        f"the keyring has no key of {_BYTES} bytes for {_SERVICE}",
        hint=f"restore the keyring from a backup, or remove {path} and the vault, and set the secrets again",
    )


def _ask(question: Callable[[], T]) -> T:
    from keyring.errors import KeyringError

    try:
        return question()
    except (KeyringError, OSError) as e:
        reason = type(e).__name__
    raise VaultError(f"the keyring refuses: {reason}", hint="unlock it, and try again")
