"""Static secrets, sealed at rest: one file, each value under AES-256-GCM with its name as associated data."""

from __future__ import annotations

import base64
import fcntl
import json
import os
import re
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from leasehold.broker.vault.keys import vault_key
from leasehold.core.errors import SecretUnavailable, VaultError
from leasehold.core.limits import LIMITS
from leasehold.core.secret import Secret

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}\Z")
_FORMAT = 1
_HINT = "restore the file from a backup, or remove it and set the secrets again"


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """What may be told of a secret. ``changed``: Unix seconds."""

    name: str
    changed: int

    def as_dict(self) -> dict[str, Any]:
        return {"name": self.name, "changed": self.changed}


class Vault:
    """The store in ``folder/secrets.json``. Values go in and come out as ``Secret`` only."""

    def __init__(self, folder: Path, master: Secret) -> None:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._path = folder / "secrets.json"
        self._lock = folder / "lock"
        self._cipher = AESGCM(vault_key(master).reveal())
        self._load()

    def set(self, name: str, value: Secret) -> None:
        """Store or replace a value; durable when it returns."""
        if not _NAME.match(name):
            raise VaultError(f"{name!a} is no name for a secret", hint="use lower-case letters, digits, . _ and -")
        if not 0 < len(value) <= LIMITS.secret_bytes_max:
            raise VaultError(
                f"a secret has 1 to {LIMITS.secret_bytes_max} bytes, this has {len(value)}", hint="check what was sent"
            )
        nonce = secrets.token_bytes(12)
        sealed = self._cipher.encrypt(nonce, value.reveal(), _associated(name))
        with self._locked():
            entries = self._load()
            entries[name] = {
                "changed": int(time.time()),
                "nonce": base64.b64encode(nonce).decode(),
                "sealed": base64.b64encode(sealed).decode(),
            }
            self._save(entries)

    def get(self, name: str) -> Secret:
        """The value; ``SecretUnavailable`` when there is none, ``VaultError`` when it does not open with our key."""
        entry = self._load().get(name)
        if entry is None:
            raise SecretUnavailable(f"the vault has no secret {name!a}", hint=f"leasehold secret set {name}")
        try:
            nonce, sealed = base64.b64decode(entry["nonce"]), base64.b64decode(entry["sealed"])
            return Secret(self._cipher.decrypt(nonce, sealed, _associated(name)))
        except (InvalidTag, ValueError, KeyError, TypeError):
            pass  # said below, where no exception is left to carry anything
        raise VaultError(f"the value of {name} in {self._path} does not open", hint=_HINT)

    def list(self) -> list[Entry]:
        """All names; never a value."""
        return [Entry(name=name, changed=int(entry.get("changed", 0))) for name, entry in sorted(self._load().items())]

    def remove(self, name: str) -> None:
        """Forget a value."""
        with self._locked():
            entries = self._load()
            if entries.pop(name, None) is None:
                raise SecretUnavailable(f"the vault has no secret {name!a}", hint="leasehold secret list")
            self._save(entries)

    def _load(self) -> dict[str, dict[str, Any]]:
        try:
            content = json.loads(self._path.read_bytes())
            if content["format"] != _FORMAT or not all(isinstance(e, dict) for e in content["entries"].values()):
                raise ValueError
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as e:
            reason = type(e).__name__
        else:
            entries: dict[str, dict[str, Any]] = content["entries"]
            return entries
        raise VaultError(f"{self._path} is not what was written ({reason})", hint=_HINT)

    def _save(self, entries: dict[str, dict[str, Any]]) -> None:
        fresh = self._path.with_suffix(".new")
        try:
            fd = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
            with os.fdopen(fd, "w", encoding="ascii") as file:
                json.dump({"format": _FORMAT, "entries": entries}, file, indent=1, sort_keys=True)
                file.flush()
                os.fsync(fd)
            fresh.replace(self._path)
            folder = os.open(self._path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
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


def _associated(name: str) -> bytes:
    """Binds a sealed value to its name and to this format: entries cannot be swapped."""
    return f"leasehold vault {_FORMAT} {name}".encode()
