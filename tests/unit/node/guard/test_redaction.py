"""Secret values are found in what a run left."""

from __future__ import annotations

import base64
import gzip
import os
import shutil
import stat
import subprocess
import urllib.parse
import zlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from leasehold.core.secret import Secret
from leasehold.node.guard import redaction
from leasehold.node.guard.redaction import Finding, Needles, SearchResult, search

VALUE = b"s3cr3t/4711+very?long"
SECRETS = {"forge": Secret(VALUE)}


def found(root: Path, **options: object) -> SearchResult:
    return search(str(root), SECRETS, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("content", "form"),
    [
        (VALUE, "raw"),
        (VALUE[::-1], "reversed"),
        (VALUE.decode().encode("utf-16-le"), "utf-16"),
        (base64.b64encode(VALUE), "base64"),
        (base64.urlsafe_b64encode(b"x" + VALUE + b"y"), "base64"),
        (base64.b64encode(b"xy" + VALUE + b"z"), "base64"),
        (VALUE.hex().encode(), "hex"),
        (VALUE.hex().upper().encode(), "hex"),
        (urllib.parse.quote(VALUE, safe="").encode(), "percent"),
        (urllib.parse.quote(VALUE, safe="").lower().encode(), "percent"),
        ("".join(f"%{byte:02X}" for byte in VALUE).encode(), "percent"),
        (gzip.compress(VALUE), "raw, compressed"),
        (zlib.compress(b"blob 21\0" + VALUE), "raw, compressed"),
    ],
)
def test_every_form(tmp_path: Path, content: bytes, form: str) -> None:
    packed = "compressed" in form
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "f").write_bytes(content if packed else b"before " + content + b" after")
    assert Finding(path="a/f", name="forge", form=form) in found(tmp_path).findings
    assert VALUE.decode() not in repr(found(tmp_path))


@given(st.binary(max_size=9), st.binary(max_size=9), st.binary(min_size=8, max_size=40))
def test_base64_at_any_place(before: bytes, after: bytes, value: bytes) -> None:
    needles = Needles({"x": Secret(value)})
    assert ("x", "base64") in needles.within(base64.b64encode(before + value + after))


def test_what_holds_none_is_clean(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(VALUE[:-1] + b"x")
    (tmp_path / "x").write_bytes(b"\x78\x9cnot compressed")
    (tmp_path / "y").write_bytes(gzip.compress(b"nothing")[:-4])
    (tmp_path / "z").write_bytes(zlib.compress(b"nothing") + b"more")
    assert found(tmp_path) == SearchResult(findings=(), unread=())


def test_across_the_edges_of_pieces(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"x" * ((1 << 20) - 5) + VALUE)
    (tmp_path / "g").write_bytes(gzip.compress(b"x" * ((1 << 20) - 5) + VALUE))
    assert {(f.path, f.form) for f in found(tmp_path).findings} == {("f", "raw"), ("g", "raw, compressed")}


def test_names(tmp_path: Path) -> None:
    (tmp_path / VALUE.hex()).mkdir()
    assert found(tmp_path).findings == (Finding(path=VALUE.hex(), name="forge", form="hex", in_name=True),)


def test_links_and_pipes_are_not_followed(tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "f").write_bytes(VALUE)
    (tmp_path / "ws").mkdir()
    (tmp_path / "ws" / "l").symlink_to("../outside")
    (tmp_path / "ws" / "f").symlink_to("../outside/f")
    os.mkfifo(tmp_path / "ws" / "p")
    assert found(tmp_path / "ws") == SearchResult(findings=(), unread=())


def test_only_what_changed_since(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(VALUE)
    changed = (tmp_path / "f").stat().st_ctime_ns
    assert found(tmp_path, since_ns=changed).findings
    assert not found(tmp_path, since_ns=changed + 60_000_000_000).findings


def test_limits_are_told(tmp_path: Path) -> None:
    for name in "abc":
        (tmp_path / name).write_bytes(b"x" * 100)
    assert found(tmp_path, bytes_max=250).unread == ("c",)
    assert found(tmp_path, files_max=2).unread == ("",)


def test_what_is_too_deep_is_told(tmp_path: Path) -> None:
    fd = os.open(tmp_path, os.O_RDONLY)
    for _ in range(205):
        os.mkdir("d", dir_fd=fd)
        inner = os.open("d", os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = inner
    os.close(fd)
    assert len(found(tmp_path).unread) == 1


def test_what_cannot_be_read_is_told(tmp_path: Path) -> None:
    shutil.copy("/bin/sleep", tmp_path / "busy")
    with subprocess.Popen([tmp_path / "busy", "60"]) as running:
        try:
            assert found(tmp_path, mask=True).unread == ("busy",)  # nobody may write to a running program
        finally:
            running.kill()


def test_values_just_long_enough(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"x abcdef x")
    (tmp_path / "g").write_bytes(base64.b64encode(b"abcdef"))
    assert len(search(str(tmp_path), {"pin": Secret(b"abcdef")}).findings) == 2


def test_short_values_are_left_out(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"abc")
    assert search(str(tmp_path), {"pin": Secret(b"abc")}).findings == ()


def test_transcripts_are_cleaned(tmp_path: Path) -> None:
    edge = b"x" * ((1 << 20) - 5)
    content = b"a " + VALUE + b" b " + VALUE.hex().upper().encode() + b" c " + edge + VALUE + 3 * edge + b" end"
    (tmp_path / "t.jsonl").write_bytes(content)
    (tmp_path / "t.jsonl").chmod(0o644)
    (tmp_path / "other").write_bytes(b"x")
    (tmp_path / "other").chmod(0o644)
    assert len(found(tmp_path, mask=True).findings) == 2
    clean = (tmp_path / "t.jsonl").read_bytes()
    assert clean.startswith(b"a " + b"*" * len(VALUE) + b" b " + b"*" * 2 * len(VALUE) + b" c x")
    assert clean.endswith(b"x" + b"*" * len(VALUE) + 3 * edge + b" end") and len(clean) == len(content)
    assert stat.S_IMODE((tmp_path / "t.jsonl").stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / "other").stat().st_mode) == 0o644
    assert not found(tmp_path).findings


def test_a_bomb_is_not_unpacked_to_its_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "f").write_bytes(zlib.compress(bytes(5 << 20) + VALUE))
    assert found(tmp_path).findings
    monkeypatch.setattr(redaction, "PIECES_MAX", 5)
    assert not found(tmp_path).findings
