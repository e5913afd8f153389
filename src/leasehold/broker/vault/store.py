"""Static secrets, sealed at rest: one file, each value under AES-256-GCM with its name as associated data."""

from __future__ import annotations

import base64
import fcntl
import json
import os
import secrets
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from leasehold.broker.vault.keys import sync_folder, vault_key
from leasehold.broker.vault.values import problem_with
from leasehold.core.errors import SecretUnavailable, VaultError
from leasehold.core.references import check_secret_name
from leasehold.core.secret import Secret

_FORMAT = 1
_NONCE_BYTES = 12
_CHECK = "\0"
"""In place of a name: an empty value by which a wrong key is noticed before anything is written with it."""
_HINT = "restore the file from a backup, or remove it and set the secrets again"


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """What may be told of a secret. ``changed``: Unix seconds."""

    name: str
    changed: int

    def as_dict(self) -> dict[str, Any]:
        return {"name": self.name, "changed": self.changed}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Sealed:
    changed: int
    nonce: bytes
    sealed: bytes


class Vault:
    """The store in ``folder/secrets.json``. Values go in and come out as ``Secret`` only. ``clock``: Unix seconds.

    ``VaultError`` from every method when the file is not what was written, or was written with another key.
    """

    def __init__(self, folder: Path, master: Secret, clock: Callable[[], float]) -> None:
        self._path = folder / "secrets.json"
        self._lock = folder / "lock"
        self._clock = clock
        self._cipher = AESGCM(vault_key(master).reveal())
        _make_private(folder)
        self._load()

    def set(self, name: str, value: Secret) -> None:
        """Store or replace a value; durable when it returns."""
        problem = _name_problem(name) or problem_with(value.reveal())
        if problem:
            raise VaultError(f"{name!a}: {problem}", hint="a secret is one line; its name has a-z, 0-9, . _ and -")
        with self._locked():
            entries = self._load()
            entries[name] = self._seal(name, value.reveal())
            self._save(entries)

    def get(self, name: str) -> Secret:
        """The value; ``SecretUnavailable`` when there is none."""
        entry = self._load().get(name)
        if entry is None:
            raise SecretUnavailable(f"the vault has no secret {name!a}", hint=f"leasehold secret set {name}")
        return Secret(self._open(name, entry))

    def list(self) -> list[Entry]:
        """All names; never a value."""
        return [Entry(name=name, changed=entry.changed) for name, entry in sorted(self._load().items())]

    def remove(self, name: str) -> None:
        """Forget a value; ``SecretUnavailable`` when there is none."""
        with self._locked():
            entries = self._load()
            if entries.pop(name, None) is None:
                raise SecretUnavailable(f"the vault has no secret {name!a}", hint="leasehold secret list")
            self._save(entries)

    def _seal(self, name: str, value: bytes) -> _Sealed:
        nonce = secrets.token_bytes(_NONCE_BYTES)
        changed = int(self._clock())
        return _Sealed(
            changed=changed, nonce=nonce, sealed=self._cipher.encrypt(nonce, value, _associated(name, changed))
        )

    def _open(self, name: str, entry: _Sealed) -> bytes:
        try:
            return self._cipher.decrypt(entry.nonce, entry.sealed, _associated(name, entry.changed))
        except (InvalidTag, ValueError):
            what = "the key is another one" if name == _CHECK else f"the value of {name} was changed"
        # Raised here, where no exception is left to carry anything.
        raise VaultError(f"{self._path} does not open: {what}", hint=_HINT)

    def _load(self) -> dict[str, _Sealed]:
        try:
            fd = os.open(self._path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                entries = _parse(_content(fd))
            finally:
                os.close(fd)
            check = entries.pop(_CHECK)
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as e:
            reason = type(e).__name__
        else:
            self._open(_CHECK, check)
            return entries
        raise VaultError(f"{self._path} is not what was written ({reason})", hint=_HINT)

    def _save(self, entries: dict[str, _Sealed]) -> None:
        """Replace the file as a whole: what was there stays until what is new is durable."""
        fresh = self._path.with_suffix(".new")
        content = _render(entries | {_CHECK: self._seal(_CHECK, b"")})
        try:
            fd = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
            with os.fdopen(fd, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(fd)
            fresh.replace(self._path)
            sync_folder(self._path.parent)
        except OSError as e:
            reason = e.strerror
        else:
            return
        raise VaultError(f"{self._path} cannot be written: {reason}", hint="make room; what was there is still there")

    @contextmanager
    def _locked(self) -> Iterator[None]:
        fd = os.open(self._lock, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            yield
        finally:
            os.close(fd)


def _content(fd: int) -> bytes:
    with os.fdopen(fd, "rb", closefd=False) as file:
        return file.read()


def _make_private(folder: Path) -> None:
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        info = folder.lstat()
    except OSError as e:
        problem = f"cannot be made: {e.strerror}"
    else:
        if stat.S_ISDIR(info.st_mode) and info.st_uid == os.getuid() and not info.st_mode & 0o077:
            return
        problem = f"must be a folder of uid {os.getuid()} with mode 0700"
    raise VaultError(f"{folder} {problem}", hint=f"chmod 700 {folder}, when it is yours")


def _name_problem(name: str) -> str:
    try:
        check_secret_name(name)
    except ValueError as e:
        return str(e)
    return ""


def _associated(name: str, changed: int) -> bytes:
    """Binds a sealed value to its name, its time and this format: entries cannot be swapped or made to look new."""
    return f"leasehold vault {_FORMAT} {changed} {name}".encode()


def _render(entries: dict[str, _Sealed]) -> bytes:
    rows = {
        name: {
            "changed": entry.changed,
            "nonce": base64.b64encode(entry.nonce).decode(),
            "sealed": base64.b64encode(entry.sealed).decode(),
        }
        for name, entry in entries.items()
    }
    return json.dumps({"format": _FORMAT, "entries": rows}, indent=1, sort_keys=True).encode()


def _parse(content: bytes) -> dict[str, _Sealed]:
    """What :func:`_render` wrote; anything else raises ``ValueError``, ``KeyError``, ``TypeError`` or the like."""
    document = json.loads(content)
    if document["format"] != _FORMAT:
        raise ValueError
    found = {}
    for name, row in document["entries"].items():
        if type(row["changed"]) is not int:
            raise TypeError
        nonce, sealed = (base64.b64decode(row[key], validate=True) for key in ("nonce", "sealed"))
        found[name] = _Sealed(changed=row["changed"], nonce=nonce, sealed=sealed)
    return found
