"""The issuer of SSH certificates, where a real host cannot be made to do it: bad keys, locks, lists that break."""

from __future__ import annotations

import asyncio
import errno
import fcntl
import os
import subprocess
from collections.abc import Coroutine, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import pytest
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    SSHCertificate,
    load_ssh_public_identity,
)

from leasehold.broker.issuers import ssh_ca
from leasehold.broker.issuers.ports import Issued, Order
from leasehold.broker.issuers.ssh_ca import SshCaIssuer, command, grant, source
from leasehold.broker.lease.machine import Revocability
from leasehold.core.errors import IssuerError
from leasehold.core.secret import Secret
from leasehold.core.toml import Wrong

T = TypeVar("T")
GRANTS = frozenset({"principal deploy", "permit-pty"})
ORDER = Order(name="lh_t1_0123", secret=Secret(b"unused"), task="t1", expires=2_000_000_000.5, scope=GRANTS)


def pem(key: Any) -> bytes:
    return bytes(key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()))


AUTHORITY = ed25519.Ed25519PrivateKey.generate()


@pytest.fixture
def krl(tmp_path: Path) -> Path:
    path = tmp_path / "lists" / "revoked"
    path.parent.mkdir()
    subprocess.run(["ssh-keygen", "-q", "-k", "-f", str(path)], check=True, timeout=20)
    return path


@pytest.fixture
def held(krl: Path) -> Iterator[int]:
    """Somebody else has the lock on the list's folder."""
    fd = os.open(krl.parent, os.O_RDONLY)
    fcntl.flock(fd, fcntl.LOCK_EX)
    yield fd
    os.close(fd)


def issuer(krl: Path | str = "", authority: bytes | None = None, **changes: Any) -> SshCaIssuer:
    settings = {"command": "", "sources": (), "krl": str(krl), **changes}
    return SshCaIssuer(Secret(authority or pem(AUTHORITY)), settings.pop("grants", GRANTS), **settings)


def run(work: Coroutine[Any, Any, T]) -> T:
    return asyncio.run(work)


def certificate(issued: Issued) -> SSHCertificate:
    found = load_ssh_public_identity(issued.material["certificate"].reveal())
    assert isinstance(found, SSHCertificate)
    return found


@pytest.mark.parametrize(
    "authority",
    [
        b"no key",
        b"\xff\xfe",
        pem(dsa.generate_private_key(1024)),  # noqa: S505 - SSH knows no longer ones
        pem(AUTHORITY)[:-60],
        AUTHORITY.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
    ],
    ids=["text", "bytes", "dsa", "cut", "pkcs8"],
)
def test_a_bad_key_of_the_authority_is_refused_and_not_repeated(authority: bytes, krl: Path) -> None:
    for work in (issuer(krl, authority).check(), issuer(krl, authority).issue(ORDER)):
        with pytest.raises(IssuerError) as caught:
            run(work)
        assert "the authority's key is refused" in caught.value.message
        assert caught.value.__context__ is None


def test_a_passphrase_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "authority"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "locked", "-f", str(file)], check=True, timeout=20)
    with pytest.raises(IssuerError, match="without a passphrase"):
        run(issuer(authority=file.read_bytes()).issue(ORDER))


@pytest.mark.parametrize(
    "key", [AUTHORITY, ec.generate_private_key(ec.SECP256R1()), rsa.generate_private_key(65537, 2048)]
)
def test_authorities_of_the_usual_kinds_sign(key: Any, krl: Path) -> None:
    made = issuer(krl, pem(key))
    run(made.check())
    signed = certificate(run(made.issue(ORDER)))
    signed.verify_cert_signature()
    assert (signed.valid_principals, signed.valid_before) == ([b"deploy"], 2_000_000_000)
    assert run(made.revoke(ORDER.name)) is True
    run(made.close())


@pytest.mark.parametrize("scope", [{"permit-pty"}, {"principal root"}, {"principal deploy", "permit-port-forwarding"}])
def test_more_than_is_configured_is_not_signed(scope: set[str]) -> None:
    with pytest.raises(IssuerError, match="more was ordered"):
        run(issuer().issue(replace(ORDER, scope=frozenset(scope))))
    assert run(issuer().issue(replace(ORDER, scope=frozenset({"principal deploy"})))).scope == {"principal deploy"}


@pytest.mark.parametrize("name", ["root", "lh_", "lh_a\nid: x", "lh_A", "lh_" + "a" * 30])
def test_a_name_that_is_none_of_ours_is_not_signed_or_revoked(name: str, krl: Path) -> None:
    before = krl.read_bytes()
    for work in (issuer(krl).issue(replace(ORDER, name=name)), issuer(krl).revoke(name)):
        with pytest.raises(IssuerError, match="none of ours"):
            run(work)
    assert krl.read_bytes() == before


def test_mode_and_owner_of_the_list_stay(krl: Path) -> None:
    krl.chmod(0o640)
    os.chown(krl, os.getuid(), os.getgid())
    was = krl.stat()
    assert run(issuer(krl).revoke(ORDER.name)) is True
    now = krl.stat()
    assert (now.st_mode, now.st_uid, now.st_gid) == (was.st_mode, was.st_uid, was.st_gid)
    assert now.st_ino != was.st_ino
    assert [path.name for path in krl.parent.iterdir()] == ["revoked"]
    kept = krl.read_bytes()
    assert run(issuer(krl).revoke(ORDER.name)) is True and krl.read_bytes() == kept
    with pytest.raises(IssuerError, match="revoked before"):
        run(issuer(krl).issue(ORDER))


def test_what_breaks_before_the_rename_leaves_the_old_list(krl: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(issuer(krl).revoke("lh_t0_0123"))
    before = krl.read_bytes()

    def full(_fd: int) -> None:
        raise OSError(errno.ENOSPC, "full")

    with monkeypatch.context() as broken:
        broken.setattr(os, "fsync", full)
        with pytest.raises(IssuerError, match="cannot be changed: OSError"):
            run(issuer(krl).revoke(ORDER.name))
    assert krl.read_bytes() == before
    assert [path.name for path in krl.parent.iterdir()] == ["revoked"]
    # A crash leaves its folder, which nobody minds.
    (krl.parent / ".leasehold-crashed").mkdir()
    (krl.parent / ".leasehold-crashed" / "krl").write_bytes(b"half")
    assert run(issuer(krl).revoke(ORDER.name)) is True
    listed = subprocess.run(["ssh-keygen", "-Q", "-l", "-f", str(krl)], capture_output=True, text=True, timeout=20)
    assert "id: lh_t0_0123" in listed.stdout and f"id: {ORDER.name}" in listed.stdout


@pytest.mark.parametrize("content", [b"no list", b""])
def test_a_list_that_cannot_be_read_issues_and_revokes_nothing(krl: Path, content: bytes) -> None:
    krl.write_bytes(content)
    for work in (issuer(krl).check(), issuer(krl).issue(ORDER), issuer(krl).revoke(ORDER.name)):
        with pytest.raises(IssuerError, match="cannot be changed: OSError"):
            run(work)
    assert krl.read_bytes() == content


def test_without_a_folder_or_a_list_nothing_is_issued(tmp_path: Path) -> None:
    for path in (tmp_path / "none" / "revoked", tmp_path / "revoked"):
        with pytest.raises(IssuerError, match="cannot be changed"):
            run(issuer(path).issue(ORDER))


def test_a_keygen_that_hangs_is_ended(krl: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ssh_ca, "_KEYGEN_S", 0.0)
    krl.unlink()
    os.mkfifo(krl)  # it waits for a writer that never comes
    with pytest.raises(IssuerError, match="TimeoutError"):
        run(issuer(krl).check())
    lock = os.open(krl.parent, os.O_RDONLY)
    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    os.close(lock)


def test_it_waits_for_the_lock_and_can_be_ended_meanwhile(krl: Path, held: int) -> None:
    async def script() -> None:
        waiting = asyncio.create_task(issuer(krl).revoke(ORDER.name))
        given_up = asyncio.create_task(issuer(krl).revoke(ORDER.name))
        await asyncio.sleep(0)
        given_up.cancel()
        with pytest.raises(asyncio.CancelledError):
            await given_up
        assert not waiting.done()
        fcntl.flock(held, fcntl.LOCK_UN)
        assert await waiting is True

    run(script())


def test_two_at_once_are_both_in_the_list(krl: Path) -> None:
    async def script() -> tuple[bool, bool]:
        return await asyncio.gather(issuer(krl).revoke("lh_t0_0123"), issuer(krl).revoke(ORDER.name))

    assert list(run(script())) == [True, True]
    for name in ("lh_t0_0123", ORDER.name):
        with pytest.raises(IssuerError, match="revoked before"):
            run(issuer(krl).issue(replace(ORDER, name=name)))


def test_what_another_authority_has_signed_is_revoked_too(krl: Path, tmp_path: Path) -> None:
    """The operator may have changed the authority's key while certificates of the old one are about."""
    signed = tmp_path / "cert.pub"
    signed.write_bytes(run(issuer(krl).issue(ORDER)).material["certificate"].reveal())
    query = ["ssh-keygen", "-Q", "-f", str(krl), str(signed)]
    assert subprocess.run(query, capture_output=True, timeout=20).returncode == 0
    assert run(issuer(krl, pem(ed25519.Ed25519PrivateKey.generate())).revoke(ORDER.name)) is True
    assert subprocess.run(query, capture_output=True, timeout=20).returncode == 1


def test_without_a_list_it_only_expires() -> None:
    made = issuer()
    run(made.check())
    assert made.revocability is Revocability.TTL_ONLY
    assert run(made.revoke(ORDER.name)) is False
    assert run(made.find()) == ()


def test_a_command_and_networks_are_in_the_certificate() -> None:
    made = issuer(command="echo", sources=("10.0.0.0/8", "::/0"))
    options = certificate(run(made.issue(ORDER))).critical_options
    assert options == {b"force-command": b"echo", b"source-address": b"10.0.0.0/8,::/0"}


def test_settings_are_read() -> None:
    assert [grant("principal a.b@c"), grant("permit-pty"), command("a b"), source("10.0.0.0/8")]
    for read, wrong in [
        (grant, "principal Root"),
        (grant, "principal a,b"),
        (grant, "permit-agent-forwarding"),
        (command, ""),
        (command, "a\nb"),
        (source, "10.0.0.1/8"),
        (source, "!10.0.0.1"),
    ]:
        with pytest.raises(Wrong):
            read(wrong)
