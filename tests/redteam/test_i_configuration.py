"""BOUNDARY area I and A16, through the command line: a configuration that is not understood starts nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path

    from servers.harness import Leasehold


@pytest.fixture
def changed(leasehold: Leasehold):  # type: ignore[no-untyped-def]
    """Change the operator's file for one test."""
    before = leasehold.config.read_text()

    def change(old: str, new: str) -> None:
        assert before.count(old) >= 1
        leasehold.config.write_text(before.replace(old, new, 1))

    yield change
    leasehold.config.write_text(before)


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ('role = "execute"', 'role = "execute"\nenviroment = "staging"', "enviroment"),
        ('role = "execute"', 'role = "execute"\nrole = "fetch"', "overwrite a value"),
        ('host = "api.forge.test"', 'host = "*.forge.test"', "wildcard"),
        ('methods = ["GET", "HEAD", "POST", "PUT", "DELETE"]', "methods = []", "methods"),
        ('methods = ["GET", "HEAD", "POST", "PUT", "DELETE"]', 'methods = ["TRACE"]', "TRACE"),
        ("/repos/acme/web/**", "/repos/../**", "canonical"),
        ('format = "Bearer {secret}"', 'format = "Bearer"', "format"),
        ("[hosts]", "[host]", "host"),
    ],
)
def test_i1_i3_i8_a_file_with_a_mistake_starts_nothing(
    leasehold: Leasehold,
    changed,
    old: str,
    new: str,
    words: str,  # type: ignore[no-untyped-def]
) -> None:
    changed(old, new)
    done = leasehold.run("echo", "started")
    assert done.returncode == 125 and "started" not in done.stdout
    assert "error: config-invalid" in done.stderr and words in done.stderr and "hint: " in done.stderr
    assert str(leasehold.config) in done.stderr


@pytest.mark.parametrize(
    "text",
    [
        "[credentials.mine]\nissuer = 'static'\n",
        "[hosts]\nallow = [{ host = 'evil.test' }]\n",
        "[grants.nosuch]\n",
        "[grants.api]\nhost = 'evil.test'\n",
        "[grants.api]\nmethods = ['GET']\nmethod = ['PUT']\n",
        "[network]\nallow_private = ['0.0.0.0/0']\n",
    ],
)
def test_i7_a_project_file_defines_nothing(leasehold: Leasehold, text: str) -> None:
    workspace: Path = leasehold.workspace()
    (workspace / "leasehold.toml").write_text(text)
    done = leasehold.run("echo", "started", workspace=workspace)
    assert done.returncode == 125 and "started" not in done.stdout and "hint: " in done.stderr


def test_i7_a_project_file_narrows(leasehold: Leasehold) -> None:
    workspace = leasehold.workspace()
    (workspace / "leasehold.toml").write_text("[grants.api]\nmethods = ['GET']\npaths = ['/v1/**']\n")
    call = "curl -sS -o /dev/null -w '%{http_code} '"
    script = (
        f"{call} https://api.forge.test/v1/me; {call} -X PUT https://api.forge.test/v1/me;"
        f" {call} https://api.forge.test/repos/acme/web/x; {call} https://key.forge.test/v1/me"
    )
    assert leasehold.run("sh", "-c", script, workspace=workspace).stdout.split() == ["200", "403", "403", "000"]
