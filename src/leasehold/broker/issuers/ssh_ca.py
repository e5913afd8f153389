"""SSH: a key made for one task, and a user certificate for it that the broker signs as an authority of its own.

The host is not asked: it trusts the authority. So nothing can be listed, and what ends a certificate before its time is
the list of revoked ones (KRL) that the host reads at each login; what is logged in stays so. A certificate is named in
it by its key id, which is the lease's name, and so one that a crash left can be revoked without having been seen.
Sources: OpenSSH's PROTOCOL.certkeys and PROTOCOL.krl, ssh-keygen(1) "KEY REVOCATION LISTS", sshd_config(5).
"""

from __future__ import annotations

import asyncio
import fcntl
import hashlib
import ipaddress
import os
import re
import shutil
import tempfile
from collections.abc import Collection, Sequence
from contextlib import suppress
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import dsa, ed25519
from cryptography.hazmat.primitives.serialization import SSHCertificateBuilder, SSHCertificateType
from cryptography.hazmat.primitives.serialization.ssh import SSHCertPrivateKeyTypes

from leasehold.broker.issuers.ports import NAME_PREFIX, Issued, Order
from leasehold.broker.lease.machine import Revocability
from leasehold.core.errors import IssuerError
from leasehold.core.secret import Secret
from leasehold.core.toml import Wrong

EXTENSIONS = ("permit-pty", "permit-port-forwarding")
"""What a certificate may allow besides logging in. Agents and X11 are never forwarded."""
PRINCIPAL = re.compile(r"principal ([a-z_][a-z0-9_.@-]{0,63})")
_NAME = re.compile(rf"{NAME_PREFIX}[a-z0-9_]{{1,29}}")
_KEYGEN_S = 10.0
_POLL_S = 0.02


class SshCaIssuer:
    """See :class:`leasehold.broker.issuers.ports.Issuer`. Its secret is the authority's private key (OpenSSH, PEM).

    ``grants``: ``principal NAME`` and :data:`EXTENSIONS`. ``command`` and ``sources`` (CIDR) bind every certificate.
    ``krl``: the file in which certificates are revoked; without it they can only expire.
    """

    kind = "ssh-ca"

    def __init__(
        self, secret: Secret, grants: Collection[str], *, command: str, sources: Sequence[str], krl: str
    ) -> None:
        self._secret = secret
        self.scope = frozenset(grants)
        self._command = command
        self._sources = tuple(sources)
        self._krl = Path(krl) if krl else None
        self.revocability = Revocability.NEXT_USE if krl else Revocability.TTL_ONLY

    async def check(self) -> None:
        self._authority()
        await self._revoked()

    async def issue(self, order: Order) -> Issued:
        self._lawful(order.name)
        if not order.scope <= self.scope or not _principals(order.scope):
            raise IssuerError("more was ordered than is configured, or no principal", hint="look at grants")
        authority = self._authority()
        if order.name in await self._revoked():
            raise IssuerError("the name was revoked before", hint="try again: each lease has a new one")
        key = ed25519.Ed25519PrivateKey.generate()
        builder = (
            SSHCertificateBuilder()
            .public_key(key.public_key())
            .type(SSHCertificateType.USER)
            .serial(serial(order.name))
            .key_id(order.name.encode())
            .valid_principals([name.encode() for name in _principals(order.scope)])
            .valid_after(0)  # the host's clock may be behind ours
            .valid_before(int(order.expires))
        )
        if self._command:
            builder = builder.add_critical_option(b"force-command", self._command.encode())
        if self._sources:
            builder = builder.add_critical_option(b"source-address", ",".join(self._sources).encode())
        for extension in sorted(order.scope.intersection(EXTENSIONS)):
            builder = builder.add_extension(extension.encode(), b"")
        certificate = builder.sign(authority)
        private = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, serialization.NoEncryption()
        )
        given = {f"principal {name.decode()}" for name in certificate.valid_principals}
        given |= {name.decode() for name in certificate.extensions}
        return Issued(
            material={"private_key": Secret(private), "certificate": Secret(certificate.public_bytes())},
            expires=float(certificate.valid_before),
            scope=frozenset(given),
        )

    async def revoke(self, name: str, kept: Secret | None = None) -> bool:
        self._lawful(name)
        if self._krl is None:
            return False
        return name in await self._revoked(name)

    async def find(self) -> Collection[str]:
        """Nobody lists what an authority has signed."""
        return ()

    async def close(self) -> None:
        """Nothing is kept open."""

    def _lawful(self, name: str) -> None:
        if not _NAME.fullmatch(name):
            raise IssuerError("the name is none of ours", hint="this is a defect in Leasehold; please report it")

    def _authority(self) -> SSHCertPrivateKeyTypes:
        try:
            key = serialization.load_ssh_private_key(self._secret.reveal(), password=None)
        except (ValueError, TypeError, UnsupportedAlgorithm):
            key = None
        if key is None or isinstance(key, dsa.DSAPrivateKey):
            raise IssuerError(
                "the authority's key is refused: it is no private key in OpenSSH's form without a passphrase",
                hint="ssh-keygen -t ed25519 -N '' makes one",
            )
        return key

    async def _revoked(self, name: str = "") -> frozenset[str]:
        """The key ids in the list, once ``name`` is in it too: under a lock, whole files only, and read back."""
        if self._krl is None:
            return frozenset()
        try:
            krl = self._krl.resolve()  # a link stays one, and what it leads to is what the host reads
            lock = os.open(krl.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                while not _locked(lock):
                    await asyncio.sleep(_POLL_S)
                there = await _listed(krl)
                if name and name not in there:
                    await self._add(krl, name, lock)
                    there = await _listed(krl)
                return there
            finally:
                os.close(lock)
        except OSError as e:
            problem = type(e).__name__
        raise IssuerError(
            f"the list of revoked keys cannot be changed: {problem}",
            hint="look at krl: `ssh-keygen -k -f FILE` makes one",
        )

    async def _add(self, krl: Path, name: str, folder: int) -> None:
        with tempfile.TemporaryDirectory(prefix=".leasehold-", dir=krl.parent) as work:
            new, what = (Path(work) / part for part in ("krl", "what"))
            was = krl.stat()
            shutil.copyfile(krl, new)
            what.write_text(f"id: {name}\n")
            # Whatever authority signed it: ours may have been replaced since.
            await _keygen("-q", "-k", "-u", "-f", str(new), "-s", "NONE", str(what))
            with new.open("rb") as file:
                os.fchown(file.fileno(), was.st_uid, was.st_gid)
                os.fchmod(file.fileno(), was.st_mode & 0o7777)
                os.fsync(file.fileno())
            new.replace(krl)
            os.fsync(folder)


def grant(text: str) -> str:
    """``Wrong`` for what is neither a principal nor an extension that may be given."""
    if PRINCIPAL.fullmatch(text) or text in EXTENSIONS:
        return text
    raise Wrong(f"expected principal NAME, {' or '.join(EXTENSIONS)}, found something else")


def command(text: str) -> str:
    if not text or not text.isprintable():
        raise Wrong("expected one line that the host is to run, found something else")
    return text


def source(text: str) -> str:
    """A network (CIDR) from which the certificate may be used."""
    try:
        return str(ipaddress.ip_network(text))
    except ValueError:
        raise Wrong("expected a network such as 10.1.2.0/24, found something else") from None


def serial(name: str) -> int:
    """The serial number of the certificate of this name: 64 bits that say nothing else."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big")


def _principals(scope: Collection[str]) -> list[str]:
    return sorted(found[1] for grant in scope if (found := PRINCIPAL.fullmatch(grant)))


def _locked(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


async def _listed(krl: Path) -> frozenset[str]:
    said = await _keygen("-Q", "-l", "-f", str(krl))
    return frozenset(found[1] for line in said.splitlines() if (found := re.fullmatch(r"\s*id: (\S+)", line)))


async def _keygen(*arguments: str) -> str:
    program = await asyncio.create_subprocess_exec(
        "ssh-keygen",
        *arguments,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
        env={"PATH": "/usr/local/bin:/usr/bin:/bin", "LC_ALL": "C"},
    )
    try:
        async with asyncio.timeout(_KEYGEN_S):
            said, _ = await program.communicate()
    except BaseException:
        with suppress(ProcessLookupError):
            program.kill()
        raise
    if program.returncode != 0:
        raise OSError(f"ssh-keygen: exit code {program.returncode}")
    return said.decode()
