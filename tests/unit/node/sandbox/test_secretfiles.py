"""Which names are those of files with secrets."""

from __future__ import annotations

import pytest

from leasehold.node.sandbox import secretfiles
from leasehold.node.sandbox.secretfiles import DATA, ENV, KEY, NOT_PUBLIC, NOTE, TEXT, WORDS, rule_for


@pytest.mark.parametrize(
    ("name", "rule"),
    [
        (".env", ENV), (".env.local", ENV), (".env.production", ENV), (".envrc", ENV), (".env-staging", ENV),
        ("prod.env", ENV), (".dev.vars", ENV), (".flaskenv", ENV), (".env.keys", ENV), (".secrets", ENV),
        ("server.pem", KEY), ("backup.asc", KEY), ("client.ovpn", KEY), ("server.crt", KEY),
        ("server.key", NOT_PUBLIC), ("id_rsa", NOT_PUBLIC), ("id_ed25519", NOT_PUBLIC),
        ("a.p12", NOTE), ("a.pfx", NOTE), ("a.jks", NOTE), ("a.kdbx", NOTE), ("a.keystore", NOTE), ("a.ppk", NOTE),
        (".netrc", NOTE), ("_netrc", NOTE), (".pypirc", NOTE), (".git-credentials", NOTE), (".pgpass", NOTE),
        ("terraform.tfstate", NOTE), ("terraform.tfstate.backup", NOTE), ("terraform.tfstate.123.backup", NOTE),
        ("prod.tfvars", NOTE), ("prod.auto.tfvars", NOTE), ("prod.tfvars.json", NOTE), ("master.key", NOTE),
        ("my-service-account.json", NOTE), ("serviceaccount.json", NOTE), ("gha-creds-1.json", DATA),
        ("x-firebase-adminsdk-1.json", NOTE), ("client_secret_1.json", DATA), ("kubeconfig", NOTE),
        ("prod.kubeconfig", NOTE), ("forge.token", NOTE), ("forge.secret", NOTE),
        ("secrets.yml", DATA), ("secrets.yaml", DATA), ("secrets.json", DATA), ("secrets.prod.toml", DATA),
        ("credentials.json", DATA), ("db-password.txt", DATA),
        ("auth.json", WORDS), ("settings.xml", WORDS),
        (".npmrc", TEXT), (".yarnrc.yml", TEXT), ("pip.conf", TEXT), (".mcp.json", TEXT), ("gradle.properties", TEXT),
    ],
)  # fmt: skip
def test_names_with_a_rule(name: str, rule: str) -> None:
    assert rule_for(name, "") == rule


@pytest.mark.parametrize(
    "name",
    [
        ".env.example", ".env.sample", ".env.template", ".env.local.example", ".env-dist", "example.env",
        "prod.tfvars.example", "id_rsa.pub", "secrets.py", "secret.go", "password.ts", "package.json", "config.json",
        "config", "environment.ts", "secrets.example.yml", "service-account.yaml", "readme.md", "key.py", "pem", "key",
        "monkey", "tokens.css", "makefile",
    ],
)  # fmt: skip
def test_names_without(name: str) -> None:
    assert rule_for(name, "") is None


def test_names_that_need_their_folder() -> None:
    assert rule_for("config.json", ".docker") == NOTE and rule_for("config.json", "src") is None
    assert rule_for("config", ".kube") == NOTE and rule_for("config", ".aws") == NOTE


def test_the_quick_test_of_names_lets_all_of_them_through() -> None:
    """What :class:`~leasehold.node.sandbox.survey.Survey` looks at before it asks for a rule."""
    assert all(rule_for(name, "") == rule for name, rule in secretfiles.NAMES.items())
