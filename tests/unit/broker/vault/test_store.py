"""The vault: what went in comes out, nothing else does, and nothing is lost by a failure."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from leasehold.broker.vault.store import Vault
from leasehold.core.errors import SecretUnavailable, VaultError
from leasehold.core.limits import LIMITS
from leasehold.core.secret import Secret

KEY, OTHER = Secret(b"k" * 32), Secret(b"o" * 32)
VALUE = b"forge-s3cr3t-value"


def vault(folder: Path, key: Secret = KEY, now: float = 1000.5) -> Vault:
    return Vault(folder / "vault", key, lambda: now)


def file(folder: Path) -> Path:
    return folder / "vault" / "secrets.json"


def edited(folder: Path, change: Any) -> None:
    """Rewrite the file as ``change`` leaves its document."""
    document = json.loads(file(folder).read_bytes())
    change(document)
    file(folder).write_text(json.dumps(document))


def test_what_is_set_can_be_had_by_whoever_has_the_key(tmp_path: Path) -> None:
    vault(tmp_path).set("forge", Secret(VALUE))
    assert vault(tmp_path).get("forge").reveal() == VALUE


def test_a_value_can_be_replaced_and_removed(tmp_path: Path) -> None:
    store = vault(tmp_path)
    store.set("forge", Secret(b"old"))
    store.set("other", Secret(b"x"))
    store.set("forge", Secret(b"new"))
    assert store.get("forge").reveal() == b"new"
    store.remove("forge")
    with pytest.raises(SecretUnavailable, match="no secret 'forge'"):
        store.get("forge")
    with pytest.raises(SecretUnavailable, match="no secret 'forge'"):
        store.remove("forge")
    assert [entry.name for entry in store.list()] == ["other"]


def test_a_list_tells_names_and_times_only(tmp_path: Path) -> None:
    vault(tmp_path, now=7.9).set("b", Secret(VALUE))
    vault(tmp_path, now=9).set("a", Secret(VALUE))
    listed = [entry.as_dict() for entry in vault(tmp_path).list()]
    assert listed == [{"name": "a", "changed": 9}, {"name": "b", "changed": 7}]


def test_the_value_is_not_in_the_folder(tmp_path: Path) -> None:
    vault(tmp_path).set("forge", Secret(VALUE))
    stored = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    assert b"forge" in stored
    assert VALUE not in stored
    assert vault(tmp_path).get("forge") == Secret(VALUE)


def test_the_same_value_is_sealed_anew_each_time(tmp_path: Path) -> None:
    store = vault(tmp_path)
    store.set("a", Secret(VALUE))
    first = json.loads(file(tmp_path).read_bytes())["entries"]
    store.set("a", Secret(VALUE))
    second = json.loads(file(tmp_path).read_bytes())["entries"]
    assert first["a"]["nonce"] != second["a"]["nonce"]
    assert first["a"]["sealed"] != second["a"]["sealed"]


def test_only_the_owner_may_read_it(tmp_path: Path) -> None:
    before = os.umask(0o000)
    try:
        vault(tmp_path).set("a", Secret(VALUE))
    finally:
        os.umask(before)
    folder = file(tmp_path).parent
    modes = {path.name: path.stat().st_mode & 0o777 for path in [folder, *folder.iterdir()]}
    assert modes == {"vault": 0o700, "secrets.json": 0o600, "lock": 0o600}


@pytest.mark.parametrize(
    "value", [b"", b"a\nb", b"a\r", b"a\0", b"a\x1b[0m", b"a\x7f", b"x" * (LIMITS.secret_bytes_max + 1)]
)
def test_what_is_no_credential_is_refused(tmp_path: Path, value: bytes) -> None:
    with pytest.raises(VaultError) as caught:
        vault(tmp_path).set("a", Secret(value))
    assert repr(value)[2:-1] not in caught.value.message or not value
    assert vault(tmp_path).list() == []


@pytest.mark.parametrize("value", [b"x", b"a b", "pässwört".encode(), b"\xff", b"x" * LIMITS.secret_bytes_max])
def test_any_line_of_text_is_a_credential(tmp_path: Path, value: bytes) -> None:
    vault(tmp_path).set("a", Secret(value))
    assert vault(tmp_path).get("a").reveal() == value


@pytest.mark.parametrize("name", ["", "A", "a/b", "../a", "a\n", "\0", "a" * 64, "-a"])
def test_what_is_no_name_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(VaultError, match="is no name for a secret"):
        vault(tmp_path).set(name, Secret(VALUE))


def test_another_key_opens_nothing_and_changes_nothing(tmp_path: Path) -> None:
    vault(tmp_path).set("a", Secret(VALUE))
    before = file(tmp_path).read_bytes()
    with pytest.raises(VaultError, match="the key is another one"):
        vault(tmp_path, OTHER)
    assert file(tmp_path).read_bytes() == before
    assert vault(tmp_path).get("a").reveal() == VALUE


def test_a_key_that_changes_under_way_is_noticed(tmp_path: Path) -> None:
    store = vault(tmp_path, OTHER)
    vault(tmp_path).set("a", Secret(VALUE))
    for attempt in (
        lambda: store.set("b", Secret(VALUE)),
        lambda: store.remove("a"),
        store.list,
        lambda: store.get("a"),
    ):
        with pytest.raises(VaultError, match="the key is another one"):
            attempt()
    assert vault(tmp_path).get("a").reveal() == VALUE


def _swap(document: Any) -> None:
    entries = document["entries"]
    entries["a"], entries["b"] = entries["b"], entries["a"]


def _flip(document: Any) -> None:
    sealed = document["entries"]["a"]["sealed"]
    document["entries"]["a"]["sealed"] = ("B" if sealed[0] == "A" else "A") + sealed[1:]


def _make_new(document: Any) -> None:
    document["entries"]["a"]["changed"] += 1


def _cut_nonce(document: Any) -> None:
    document["entries"]["a"]["nonce"] = "AAAA"


@pytest.mark.parametrize("change", [_swap, _flip, _make_new, _cut_nonce])
def test_a_changed_value_does_not_open(tmp_path: Path, change: Any) -> None:
    store = vault(tmp_path)
    store.set("a", Secret(VALUE))
    store.set("b", Secret(b"another"))
    edited(tmp_path, change)
    with pytest.raises(VaultError, match="the value of a was changed") as caught:
        store.get("a")
    assert caught.value.__context__ is None


@pytest.mark.parametrize(
    "content",
    [
        b"", b"{", b"[]", b"null", b'{"format": 1}', b'{"format": 2, "entries": {}}', b'{"format": 1, "entries": []}',
        b'{"format": 1, "entries": {}}', b'{"format": 1, "entries": {"a": 1}}', b"\xff", b"[" * 100_000,
        b'{"format": 1, "entries": {"a": {"changed": "1", "nonce": "", "sealed": ""}}}',
        b'{"format": 1, "entries": {"a": {"changed": 1, "nonce": "?", "sealed": ""}}}',
        b'{"format": 1, "entries": {"a": {"changed": 1, "sealed": ""}}}',
    ],
    ids=lambda content: content[:70],
)  # fmt: skip
def test_a_file_that_is_not_what_was_written_is_refused_and_kept(tmp_path: Path, content: bytes) -> None:
    store = vault(tmp_path)
    store.set("a", Secret(VALUE))
    file(tmp_path).write_bytes(content)
    for attempt in (lambda: vault(tmp_path), lambda: store.set("b", Secret(VALUE)), store.list, lambda: store.get("a")):
        with pytest.raises(VaultError, match="is not what was written"):
            attempt()
    assert file(tmp_path).read_bytes() == content


def test_every_truncation_is_noticed(tmp_path: Path) -> None:
    store = vault(tmp_path)
    store.set("a", Secret(VALUE))
    whole = file(tmp_path).read_bytes()
    for end in range(0, len(whole) - 1, 7):
        file(tmp_path).write_bytes(whole[:end])
        with pytest.raises(VaultError):
            store.get("a")
    file(tmp_path).write_bytes(whole)
    assert store.get("a").reveal() == VALUE


def test_a_link_in_its_place_is_not_followed(tmp_path: Path) -> None:
    vault(tmp_path).set("a", Secret(VALUE))
    file(tmp_path).rename(tmp_path / "elsewhere")
    file(tmp_path).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(VaultError, match="is not what was written"):
        vault(tmp_path)


def test_a_folder_that_others_may_enter_is_refused(tmp_path: Path) -> None:
    vault(tmp_path)
    file(tmp_path).parent.chmod(0o750)
    with pytest.raises(VaultError, match="must be a folder of uid"):
        vault(tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(VaultError, match="cannot be made: Not a directory"):
        Vault(tmp_path / "file" / "vault", KEY, lambda: 0)


@pytest.mark.parametrize("step", ["fsync", "rename"])
def test_a_full_disk_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    store = vault(tmp_path)
    store.set("a", Secret(VALUE))

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(*((os, "fsync", full) if step == "fsync" else (Path, "replace", full)))
        with pytest.raises(VaultError, match="cannot be written: No space left on device"):
            store.set("a", Secret(b"new"))
    assert vault(tmp_path).get("a").reveal() == VALUE
    store.set("a", Secret(b"new"))
    assert vault(tmp_path).get("a").reveal() == b"new"


WRITER = """
import sys
from pathlib import Path
from leasehold.broker.vault.store import Vault
from leasehold.core.secret import Secret
vault = Vault(Path(sys.argv[1]), Secret(b"k" * 32), lambda: 0)
number = 0
while True:
    number += 1
    vault.set(f"own-{sys.argv[2]}", Secret(str(number).encode()))
    vault.set("shared", Secret(sys.argv[2].encode() * 1000))
    print(number, flush=True)
"""


def test_writers_that_are_killed_at_any_moment_lose_nothing(tmp_path: Path) -> None:
    """Two at once, several times: each keeps what the other wrote, and what was said to be stored is there."""
    folder = tmp_path / "vault"
    for writes in range(1, 6):
        running = [
            subprocess.Popen([sys.executable, "-c", WRITER, str(folder), name], stdout=subprocess.PIPE) for name in "ab"
        ]
        for process in running:
            assert process.stdout is not None
            for _ in range(writes):
                assert process.stdout.readline()
        said = {}
        for name, process in zip("ab", running, strict=True):
            process.send_signal(signal.SIGKILL)
            output, _ = process.communicate()
            said[name] = int((output.split() or [b"%d" % writes])[-1])
        store = Vault(folder, KEY, lambda: 0)
        for name, number in said.items():
            assert number >= writes
            assert int(store.get(f"own-{name}").reveal()) in (number, number + 1)
        assert store.get("shared").reveal() in (b"a" * 1000, b"b" * 1000)
