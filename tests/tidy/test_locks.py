"""What is installed is fixed by hash, and no lock says where it came from."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from tidy.sources import ROOT, files, name, text

PYTHON = [path for path in files() if path.suffix == ".lock"]
NODE = [path for path in files() if path.name == "package-lock.json"]


@pytest.mark.parametrize("path", PYTHON, ids=name)
def test_python_locks_have_a_hash_for_everything_and_no_address(path: Path) -> None:
    lines = [line.split("#")[0].rstrip() for line in text(path).splitlines()]
    pinned = [line for line in lines if re.match(r"[A-Za-z0-9]", line)]
    assert pinned
    assert [line for line in pinned if not re.fullmatch(r"[A-Za-z0-9._-]+==[\w.!+]+(?: ;.*)? \\", line)] == []
    assert all(re.fullmatch(r"    --hash=sha256:[0-9a-f]{64}(?: \\)?", line) for line in lines if line.startswith(" "))
    assert "://" not in text(path)


@pytest.mark.parametrize("path", NODE, ids=name)
def test_node_locks_have_a_hash_for_everything_and_no_address(path: Path) -> None:
    packages: dict[str, dict[str, Any]] = json.loads(text(path))["packages"]
    assert len(packages) > 1
    for at, package in packages.items():
        if at:
            assert package["integrity"].startswith("sha512-"), at
        assert "resolved" not in package, at
        # Where its authors ask for money is theirs to say; it is not where it came from.
        assert "://" not in json.dumps({key: value for key, value in package.items() if key != "funding"}), at


def test_every_lock_is_looked_at() -> None:
    assert {name(path) for path in PYTHON} >= {"requirements.lock", "benchmarks/peers.lock"}
    assert {name(path) for path in NODE} >= {"tests/servers/package-lock.json"}


def test_nothing_else_names_an_index() -> None:
    """Which index is used is the machine's configuration, not the project's."""
    option = re.compile(r"--(?:extra-)?index-url|--find-links|--trusted-host|^registry *=", re.MULTILINE)
    places = [
        path
        for path in files()
        if path.suffix in {".toml", ".in", ".lock", ".txt", ".cfg", ""} or path.name == ".npmrc"
    ]
    assert [name(path) for path in places if option.search(text(path))] == []
    assert ROOT / "Makefile" in places
