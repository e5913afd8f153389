"""The ``leasehold`` command of a compartment."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fakes.launcher import REPLY
from leasehold.inside import agent

GRANTS = {key: REPLY[key] for key in ("task", "class", "grants", "hosts", "ports")} | {
    "expires_at": 3600.0,
    "names": [],
}


@pytest.fixture
def grants_file(tmp_path: Path) -> str:
    path = tmp_path / "grants.json"
    path.write_text(json.dumps(GRANTS))
    return str(path)


def test_grants(grants_file: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert agent.main(["grants"], grants_file) == 0
    out = capsys.readouterr().out
    assert out.startswith("task 7f3k · local · until ")
    assert "  forge · execute · development · on first use\n    api.forge.test /repos/**\n" in out
    assert "  without a credential\n    docs.test\n" in out
    assert out.endswith("  ports 443, 80; no other name or port can be reached\n")


def test_grants_for_machines(grants_file: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert agent.main(["grants", "--json"], grants_file) == 0
    assert json.loads(capsys.readouterr().out) == GRANTS


def test_no_hosts_no_line() -> None:
    assert "without a credential" not in agent.show(GRANTS | {"hosts": []})


def test_explain(capsys: pytest.CaptureFixture[str]) -> None:
    assert agent.main(["explain", "rule-not-allowed"]) == 0
    assert "not with this method and path" in capsys.readouterr().out
    assert agent.main(["explain", "brand-new"]) == 0
    assert "has a hint" in capsys.readouterr().out
    assert agent.main(["explain"]) == 0
    assert "name-not-known\n  Only the names" in capsys.readouterr().out


@pytest.mark.parametrize("argv", [[], ["-h"], ["--help"]])
def test_help(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert agent.main(argv) == 0
    assert capsys.readouterr().out.startswith("usage: leasehold grants")


@pytest.mark.parametrize("argv", [["run", "--", "true"], ["grants", "x"], ["explain", "a", "b"], ["secret"]])
def test_nothing_else_exists_inside(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert agent.main(argv) == 2
    assert "error: usage" in capsys.readouterr().err
