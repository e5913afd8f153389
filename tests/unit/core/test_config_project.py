"""A project's file: it asks and narrows, and everything else is an error that names its place."""

from __future__ import annotations

from pathlib import Path

import pytest

from leasehold.core.config import read_project
from leasehold.core.errors import ConfigError
from leasehold.core.model import GrantRequest, ProjectConfig


def write(folder: Path, text: str, name: str = "leasehold.toml") -> Path:
    path = folder / name
    path.write_text(text)
    return path


def project(tmp_path: Path, text: str) -> ProjectConfig:
    return read_project(write(tmp_path, text))


def test_a_project_asks_and_narrows(tmp_path: Path) -> None:
    text = """[grants.forge]
methods = ["GET"]
paths = ["/repos/acme/web/issues"]
ttl = "15m"

[grants.registry]

[sandbox]
hide = ["fixtures"]
read_only = ["vendor"]
"""
    assert project(tmp_path, text) == ProjectConfig(
        path=str(tmp_path / "leasehold.toml"),
        grants=(
            GrantRequest(credential="forge", methods=("GET",), paths=("/repos/acme/web/issues",), ttl_s=900),
            GrantRequest(credential="registry"),
        ),
        hide=("fixtures",),
        read_only=("vendor",),
    )


def test_an_empty_project_asks_for_nothing(tmp_path: Path) -> None:
    assert project(tmp_path, "").grants == ()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[credentials.x]", ":1: credentials: a project asks and narrows; it defines nothing"),
        ("[hosts]", ":1: hosts: a project asks and narrows; it defines nothing"),
        ("[network]", ":1: network: a project asks and narrows; it defines nothing"),
        ("[trust]", ":1: trust: a project asks and narrows; it defines nothing"),
        ("[grant.forge]", ":1: grant: unknown key"),
        ('[grants.forge]\nsecret = "vault:x"', ":2: grants.forge.secret: unknown key"),
        ("[grants.forge]\nmethods = []", ":2: grants.forge.methods: expected at least one, found none"),
        ('[grants.forge]\nmethods = ["TRACE"]', ":2: grants.forge.methods[1]: TRACE is never allowed"),
        ("[grants.forge]\npaths = []", ":2: grants.forge.paths: expected at least one, found none"),
        ('[grants.forge]\npaths = ["x"]', ":2: grants.forge.paths[1]: path 'x' must start with /"),
        ('[grants.forge]\nttl = "1d"', ":2: grants.forge.ttl: '1d' is no duration"),
        ("[grants]\nforge = true", ":2: grants.forge: expected a table, found true or false"),
        ('[sandbox]\ntools = ["/"]', ":2: sandbox.tools: unknown key"),
        ('[sandbox]\nenv = ["AWS_SECRET"]', ":2: sandbox.env: unknown key"),
        ("grants = 1", ":1: grants: expected a table, found a number"),
        ("x" * 70_000, "expected at most 65536 bytes, found more"),
        ("a." * 30_000 + "a = 1", "expected at most 16 levels of nesting"),
    ],
    ids=lambda value: value[:50],
)
def test_a_project_says_nothing_else(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        project(tmp_path, text)
    assert said in caught.value.message
    assert caught.value.hint


def test_a_project_file_is_not_followed_to_another_place(tmp_path: Path) -> None:
    (tmp_path / "leasehold.toml").symlink_to(write(tmp_path, "", "elsewhere.toml"))
    with pytest.raises(ConfigError, match="a link is not followed"):
        read_project(tmp_path / "leasehold.toml")
