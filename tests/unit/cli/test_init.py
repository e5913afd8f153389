"""The starter file: valid as it is written, and with anything in it that one may uncomment."""

from __future__ import annotations

import itertools
import re
from pathlib import Path

import pytest

from leasehold.cli.init import _domain, starter
from leasehold.core.config import read_operator
from leasehold.core.model import OperatorConfig
from leasehold.core.profiles import starter_credentials

PEM = "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n"
NAMES = tuple(starter_credentials())


@pytest.fixture
def bundle(tmp_path: Path) -> str:
    path = tmp_path / "ca.pem"
    path.write_text(PEM)
    path.chmod(0o600)
    return str(path)


def read(folder: Path, text: str) -> OperatorConfig:
    path = folder / "config.toml"
    path.write_text(text)
    path.chmod(0o600)
    return read_operator(path)


def names(config: OperatorConfig) -> set[str]:
    return {credential.name for credential in config.credentials}


@pytest.mark.parametrize("chosen", [chosen for n in range(4) for chosen in itertools.combinations(NAMES, n)])
def test_it_is_valid_with_the_credentials_that_were_chosen(
    tmp_path: Path, bundle: str, chosen: tuple[str, ...]
) -> None:
    config = read(tmp_path, starter(chosen, domain="ann.localhost", bundle=bundle))
    wanted = {
        name for profile in chosen for name in re.findall(r"\[credentials\.(\w+)\]", starter_credentials()[profile])
    }
    assert names(config) == wanted
    assert config.network.upstream_ca == bundle


def test_it_is_valid_when_everything_is_uncommented(tmp_path: Path, bundle: str) -> None:
    text = starter((), domain="ann.localhost", bundle=bundle)
    valid = re.compile(r"^( *)# (?=\[|\{|[a-z_]+ = )", re.MULTILINE)
    config = read(tmp_path, valid.sub(r"\1", text).replace('"10.1.2.3"', '"8.8.8.8"'))
    assert names(config) == {"anthropic", "openai", "forge", "registry"}
    assert [rule.host for rule in config.hosts] == ["docs.python.org"]
    assert config.network.resolve == (("git.corp.example", "8.8.8.8"),)


def test_every_line_that_is_no_setting_is_a_comment(bundle: str) -> None:
    text = starter(NAMES, domain="ann.localhost", bundle=bundle)
    assert [line for line in text.splitlines() if line.rstrip() != line] == []
    assert len(re.findall(r"^# ", text, re.MULTILINE)) > 10


@pytest.mark.parametrize(
    ("user", "domain"),
    [("ann", "ann.localhost"), ("Ann.B-1", "annb1.localhost"), ("", "me.localhost"), ("ä", "me.localhost")],
)
def test_the_domain_is_a_name_whatever_the_user_is_called(user: str, domain: str) -> None:
    assert _domain(user) == domain
