"""The master key: where it is, and that it is never quietly another one."""

from __future__ import annotations

import base64
import os
from pathlib import Path

import pytest
from keyring.errors import KeyringLocked

from leasehold.broker.vault import keys
from leasehold.broker.vault.keys import audit_key, ledger_key, master_key, system_keyring, vault_key
from leasehold.core.errors import VaultError


class FakeKeyring:
    """A keyring in memory; ``broken`` is what it raises."""

    def __init__(self) -> None:
        self.stored: dict[tuple[str, str], str] = {}
        self.broken: Exception | None = None

    def get_password(self, service: str, username: str) -> str | None:
        if self.broken:
            raise self.broken
        return self.stored.get((service, username))

    def set_password(self, service: str, username: str, password: str) -> None:
        if self.broken:
            raise self.broken
        self.stored[service, username] = password


def none() -> None:
    return None


@pytest.fixture
def ring() -> FakeKeyring:
    return FakeKeyring()


def test_without_a_keyring_it_is_in_a_file_of_its_user(tmp_path: Path) -> None:
    key = master_key(tmp_path, none)
    path = tmp_path / "vault.key"
    assert path.read_bytes() == key.reveal()
    assert len(key) == 32
    assert path.stat().st_mode & 0o777 == 0o600
    assert master_key(tmp_path, none) == key
    assert list(tmp_path.iterdir()) == [path]


def test_each_folder_has_its_own(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    assert master_key(tmp_path, none) != master_key(tmp_path / "other", none)


def test_with_a_keyring_it_is_there_and_not_in_the_file(tmp_path: Path, ring: FakeKeyring) -> None:
    key = master_key(tmp_path, lambda: ring)
    assert ring.stored == {("leasehold", "master-key"): base64.b64encode(key.reveal()).decode()}
    assert (tmp_path / "vault.key").read_bytes() == b"keyring\n"
    assert master_key(tmp_path, lambda: ring) == key


def test_a_key_in_a_file_stays_there_when_a_keyring_comes(tmp_path: Path, ring: FakeKeyring) -> None:
    key = master_key(tmp_path, none)
    assert master_key(tmp_path, lambda: ring) == key
    assert ring.stored == {}


def test_a_session_without_the_keyring_gets_no_new_key(tmp_path: Path, ring: FakeKeyring) -> None:
    key = master_key(tmp_path, lambda: ring)
    with pytest.raises(VaultError, match="there is none in this session"):
        master_key(tmp_path, none)
    assert master_key(tmp_path, lambda: ring) == key


@pytest.mark.parametrize("stored", [None, "", "?", base64.b64encode(b"short").decode()])
def test_a_keyring_that_lost_it_is_told(tmp_path: Path, ring: FakeKeyring, stored: str | None) -> None:
    master_key(tmp_path, lambda: ring)
    ring.stored = {} if stored is None else {("leasehold", "master-key"): stored}
    with pytest.raises(VaultError, match="the keyring has no key of 32 bytes") as caught:
        master_key(tmp_path, lambda: ring)
    assert caught.value.__context__ is None


@pytest.mark.parametrize("broken", [KeyringLocked("hidden"), ConnectionRefusedError("hidden")])
def test_a_keyring_that_refuses_is_told(tmp_path: Path, ring: FakeKeyring, broken: Exception) -> None:
    ring.broken = broken
    for _ in range(2):
        with pytest.raises(VaultError, match=f"the keyring refuses: {type(broken).__name__}") as caught:
            master_key(tmp_path, lambda: ring)
        assert "hidden" not in caught.value.message
        assert caught.value.__context__ is None
        assert list(tmp_path.iterdir()) == []
    ring.broken = None
    assert len(master_key(tmp_path, lambda: ring)) == 32


@pytest.mark.parametrize("content", [b"", b"x" * 31, b"x" * 33, b"keyring", b"keyring\n\n"])
def test_a_file_that_holds_no_key_is_refused_and_kept(tmp_path: Path, ring: FakeKeyring, content: bytes) -> None:
    path = tmp_path / "vault.key"
    path.write_bytes(content)
    path.chmod(0o600)
    with pytest.raises(VaultError, match="must be a file of 32 bytes"):
        master_key(tmp_path, lambda: ring)
    assert path.read_bytes() == content


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620])
def test_a_file_that_others_may_read_is_refused(tmp_path: Path, mode: int) -> None:
    key = master_key(tmp_path, none)
    (tmp_path / "vault.key").chmod(mode)
    with pytest.raises(VaultError, match="that only uid"):
        master_key(tmp_path, none)
    (tmp_path / "vault.key").chmod(0o600)
    assert master_key(tmp_path, none) == key


def test_a_file_of_somebody_else_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    master_key(tmp_path, none)
    monkeypatch.setattr(os, "getuid", lambda: 4242)
    with pytest.raises(VaultError, match="that only uid 4242 may read"):
        master_key(tmp_path, none)


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "vault.key"
    path.mkdir()
    with pytest.raises(VaultError, match="must be a file"):
        master_key(tmp_path, none)
    path.rmdir()
    (tmp_path / "real").write_bytes(b"x" * 32)
    path.symlink_to(tmp_path / "real")
    with pytest.raises(VaultError, match="cannot be read: Too many levels of symbolic links"):
        master_key(tmp_path, none)
    path.unlink()
    path.symlink_to(tmp_path / "nowhere")
    with pytest.raises(VaultError, match="cannot be read"):
        master_key(tmp_path, none)


def test_what_a_stopped_machine_left_is_in_nobodys_way(tmp_path: Path) -> None:
    (tmp_path / "vault.new").write_bytes(b"half")
    assert (tmp_path / "vault.key").exists() is False
    assert len(master_key(tmp_path, none)) == 32
    assert not (tmp_path / "vault.new").exists()


def test_a_full_disk_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(VaultError, match="cannot be written: No space left on device"):
            master_key(tmp_path, none)
    assert len(master_key(tmp_path, none)) == 32


def test_of_two_that_begin_at_once_one_is_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, other = os.link, b"o" * 32

    def late(source: Path, target: Path) -> None:
        target.write_bytes(other)
        target.chmod(0o600)
        real(source, target)

    monkeypatch.setattr(os, "link", late)
    assert master_key(tmp_path, none).reveal() == other


def test_keys_for_different_purposes_differ(tmp_path: Path) -> None:
    master = master_key(tmp_path, none)
    derived = [audit_key(master), vault_key(master), ledger_key(master)]
    assert len({key.reveal() for key in (master, *derived)}) == 4
    assert derived == [audit_key(master), vault_key(master), ledger_key(master)]


def test_without_a_session_there_is_no_keyring(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DBUS_SESSION_BUS_ADDRESS", raising=False)
    assert system_keyring() is None


def test_without_a_service_there_is_no_keyring(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """And the one that would keep it in the clear, or nowhere, is never asked."""
    monkeypatch.setenv("DBUS_SESSION_BUS_ADDRESS", f"unix:path={tmp_path}/nobody")
    monkeypatch.setenv("PYTHON_KEYRING_BACKEND", "keyring.backends.null.Keyring")
    assert system_keyring() is None


def test_a_keyring_that_works_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    from keyring.backends import kwallet

    class Working(FakeKeyring):
        viable = True

    monkeypatch.setenv("DBUS_SESSION_BUS_ADDRESS", "unix:path=/nonexistent")
    monkeypatch.setattr(kwallet, "DBusKeyring", Working)
    assert isinstance(system_keyring(), Working)


def test_only_real_keyrings_are_listed() -> None:
    assert [module for module, _ in keys._REAL if "plain" in module or "null" in module or "fail" in module] == []
