"""Leases of accounts in password files, as nginx and Apache read them at each request: one file for each realm.

The example of ``docs/issuers/writing-one.md``. ``FOLDER/.issuer`` holds the SHA-256 of the administrative secret: what
protects the files is the right to write to them, and the secret is there so that a broker of one place, with the
parameters of another, changes nothing.
"""

from __future__ import annotations

import asyncio
import base64
import fcntl
import hashlib
import hmac
import os
import re
import secrets
from collections.abc import Callable, Collection
from pathlib import Path

from leasehold.broker.issuers.builtin import Parameters
from leasehold.broker.issuers.ports import NAME_PREFIX, Issued, Order
from leasehold.broker.lease.machine import Revocability
from leasehold.core.errors import IssuerError
from leasehold.core.secret import Secret
from leasehold.core.toml import Wrong

NAME = re.compile(rf"{NAME_PREFIX}[a-z0-9_]{{1,29}}")
Files = dict[str, list[str]]
"""Realm to the lines of its file."""


class HtpasswdIssuer:
    """See :class:`leasehold.broker.issuers.ports.Issuer`. Its scope: realms."""

    kind = "htpasswd"
    revocability = Revocability.NEXT_USE  # an answer that is on its way is not cut

    def __init__(self, folder: Path, secret: Secret, realms: Collection[str]) -> None:
        self._folder, self._secret = folder, secret
        self.scope = frozenset(realms)

    async def check(self) -> None:
        await self._files(lambda files: files)

    async def issue(self, order: Order) -> Issued:
        self._lawful(order.name, order.scope)
        salt = secrets.token_bytes(8)
        digest = hashlib.sha1(order.secret.reveal() + salt, usedforsecurity=False).digest()
        line = f"{order.name}:{{SSHA}}{base64.b64encode(digest + salt).decode()}"
        added = {realm: [line] if realm in order.scope else [] for realm in self.scope}
        after = await self._files(lambda files: {r: [*without(files[r], order.name), *added[r]] for r in files})
        return Issued(
            material={"username": Secret(order.name.encode()), "password": order.secret},
            expires=order.expires,
            scope=frozenset(realm for realm in after if order.name in names(after[realm])),
        )

    async def revoke(self, name: str, kept: Secret | None = None) -> bool:
        self._lawful(name)
        after = await self._files(lambda files: {realm: without(files[realm], name) for realm in files})
        return not any(name in names(after[realm]) for realm in after)

    async def find(self) -> Collection[str]:
        files = await self._files(lambda files: files)
        return frozenset(name for lines in files.values() for name in names(lines) if NAME.fullmatch(name))

    async def close(self) -> None:
        """Nothing is kept open."""

    def _lawful(self, name: str, scope: frozenset[str] = frozenset()) -> None:
        if not NAME.fullmatch(name) or not scope <= self.scope:
            raise IssuerError("the order is none that this issuer takes", hint="report it to who wrote the issuer")

    async def _files(self, change: Callable[[Files], Files]) -> Files:
        """Change them under a lock, whole files only, and read them again."""
        try:
            lock = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                while not locked(lock):
                    await asyncio.sleep(0.02)  # here, and only here, the door may give it up
                mark = (self._folder / ".issuer").read_bytes().strip()
                if not hmac.compare_digest(hashlib.sha256(self._secret.reveal()).hexdigest().encode(), mark):
                    raise IssuerError("the folder refuses the secret", hint="look at its file .issuer")
                before = self._read()
                for realm, lines in change(before).items():
                    if lines != before[realm]:
                        replace(self._folder / realm, lines)
                os.fsync(lock)
                return self._read()
            finally:
                os.close(lock)
        except (OSError, UnicodeDecodeError) as e:
            problem = type(e).__name__
        raise IssuerError(f"the password files cannot be changed: {problem}", hint="look at folder and at realms")

    def _read(self) -> Files:
        return {realm: (self._folder / realm).read_text().splitlines() for realm in sorted(self.scope)}


def names(lines: list[str]) -> list[str]:
    return [line.partition(":")[0] for line in lines]


def without(lines: list[str], name: str) -> list[str]:
    return [line for line in lines if not line.startswith(f"{name}:")]


def locked(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def replace(path: Path, lines: list[str]) -> None:
    """Whoever reads it sees the old file or the new one, also after a crash; owner and mode stay."""
    was = path.stat()
    new = path.with_name(f".{path.name}.new")
    new.unlink(missing_ok=True)
    with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write("".join(f"{line}\n" for line in lines))
        os.fchown(file.fileno(), was.st_uid, was.st_gid)
        os.fchmod(file.fileno(), was.st_mode & 0o7777)
        file.flush()
        os.fsync(file.fileno())
    new.replace(path)


def make(parameters: Parameters, secret: Secret) -> HtpasswdIssuer:
    """What the entry point names; asks nobody."""
    if not parameters.has("realms"):
        raise parameters.error("the key realms is missing", "name the password files that a task may get into")
    return HtpasswdIssuer(parameters.text("folder", folder), secret, parameters.some("realms", realm))


def folder(text: str) -> Path:
    if not text.startswith("/") or "\0" in text:
        raise Wrong("expected the absolute path of a folder, found something else")
    return Path(text)


def realm(text: str) -> str:
    if not re.fullmatch(r"[a-z0-9][a-z0-9-]{0,62}", text):
        raise Wrong("expected the name of a file: lower-case letters, digits and -")
    return text
