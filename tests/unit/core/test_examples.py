"""The examples are valid, and the manual lists exactly the keys that there are."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from leasehold.core.config import narrow, read_operator, read_project
from leasehold.core.errors import ConfigError

ROOT = Path(__file__).parents[3]
MANUAL = (ROOT / "docs" / "configuration.md").read_text()
TRUST = '[trust]\ndomain = "d"\n'
STATIC = 'issuer = "static"\nsecret = "vault:x"\nenvironment = "staging"\nrole = "execute"\nmax_ttl = "1m"\n'
ENDPOINT = '[[credentials.c.endpoints]]\nhost = "h"\n'
TABLES = {
    "`[trust]`": f"{TRUST}zz = 1",
    "`[network]`": f"{TRUST}[network]\nzz = 1",
    "`[hosts]`": f"{TRUST}[hosts]\nzz = 1",
    "`[sandbox]`": f"{TRUST}[sandbox]\nzz = 1",
    "`[credentials.NAME]`": f'{TRUST}[credentials.c]\nzz = 1\n{STATIC}endpoints = [{{ host = "h" }}]',
    "Rules": f'{TRUST}[credentials.c]\n{STATIC}{ENDPOINT}zz = 1\ninject = {{ query = "q" }}',
    "`[grants.NAME]`": "[grants.c]\nzz = 1",
    "Its `[sandbox]`": "[sandbox]\nzz = 1",
}


def section(heading: str) -> str:
    return MANUAL.split(f"### {heading}\n")[1].split("\n## ")[0].split("\n### ")[0]


@pytest.mark.parametrize("heading", TABLES)
def test_the_manual_lists_the_keys_that_there_are(heading: str, tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    path.write_text(TABLES[heading])
    path.chmod(0o600)
    with pytest.raises(ConfigError, match=r"\bzz: unknown key") as caught:
        (read_project if "grants" in heading or heading.startswith("Its") else read_operator)(path)
    known = caught.value.hint.removeprefix("known here: ").split(", ")
    blocks = section(heading).strip().split("\n\n")
    rows = next(block for block in blocks if block.startswith("| key |")).splitlines()[2:]
    assert sorted(row.split("`")[1] for row in rows) == sorted(known)


def test_the_manual_names_every_table() -> None:
    assert set(re.findall(r"^### (.*)$", MANUAL, re.MULTILINE)) - TABLES.keys() == {"Paths", "Secrets"}


def example(folder: Path, name: str) -> Path:
    """A copy that nobody else may write to, wherever the checkout came from."""
    path = folder / name
    path.write_bytes((ROOT / "examples" / name).read_bytes())
    path.chmod(0o600)
    return path


def test_the_examples_are_valid_together(tmp_path: Path) -> None:
    operator = read_operator(example(tmp_path, "config.toml"))
    granted = narrow(operator, read_project(example(tmp_path, "leasehold.toml")), None)
    assert [(c.name, c.max_ttl_s) for c in granted] == [("forge", 1800), ("packages", 3600)]
    (issues,) = granted[0].endpoints
    assert (issues.methods, issues.paths) == (("GET", "POST"), ("/api/v1/repos/acme/web/issues/**",))


def test_every_example_of_a_file_is_looked_at() -> None:
    assert {path.name for path in (ROOT / "examples").glob("*.toml")} == {"config.toml", "leasehold.toml"}
