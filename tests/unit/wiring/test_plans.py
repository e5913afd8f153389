"""What a task may have: the operator's word and the project's, and nothing that only one of them says."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from leasehold.core.errors import ConfigError, GrantRefused, UsageError
from leasehold.core.model import AgentClass, Credential, Environment, Role, Rule, SandboxSettings, TaskPlan
from leasehold.wiring.plans import check_issuers, plan_task

_OPERATOR = """
[trust]
domain = "dev.example"

[hosts]
allow = [{ host = "docs.example", methods = ["GET"] }]

[sandbox]
hide = ["*.key"]
read_only = ["ci/**"]

[credentials.forge]
issuer = "static"
secret = "vault:forge-token"
environment = "development"
role = "execute"
max_ttl = "30m"

[[credentials.forge.endpoints]]
host = "api.forge.example"
methods = ["GET", "POST"]
inject = { header = "Authorization", format = "Bearer {secret}" }

[[credentials.forge.endpoints]]
host = "forge.example"
git = { repository = "acme/web", access = "read" }
inject = { basic = { username = "x-access-token" } }

[credentials.model]
issuer = "static"
secret = "vault:model"
environment = "development"
role = "execute"
max_ttl = "1h"

[[credentials.model.endpoints]]
host = "api.anthropic.com"
inject = { header = "X-Api-Key" }

[credentials.open]
issuer = "static"
secret = "vault:open"
environment = "development"
role = "execute"
max_ttl = "1h"

[[credentials.open.endpoints]]
host = "api.openai.com"
inject = { query = "key" }
"""


Ask = Callable[..., TaskPlan]


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    (tmp_path / "web").mkdir()
    return tmp_path / "web"


@pytest.fixture
def ask(tmp_path: Path, workspace: Path) -> Ask:
    def asked(**message: Any) -> TaskPlan:
        config = tmp_path / "config.toml"
        config.write_text(_OPERATOR)
        config.chmod(0o600)
        return plan_task({"workspace": str(workspace), "config": str(config), "command": ["make"], **message})

    return asked


def names(plan: TaskPlan) -> list[str]:
    return [credential.name for credential in plan.credentials]


def test_without_a_project_all_that_the_operator_defines(ask: Ask, workspace: Path) -> None:
    plan = ask(purpose="fix a bug")
    assert names(plan) == ["forge", "model", "open"]
    assert plan.hosts == (Rule(host="docs.example", methods=("GET",)),)
    assert (plan.agent_class, plan.profile, plan.ttl_s) == (AgentClass.LOCAL, "generic", 3600)
    assert (plan.purpose, plan.workspace) == ("fix a bug", str(workspace))
    assert plan.sandbox == SandboxSettings(hide=("*.key",), read_only=("ci/**",))


def test_the_project_narrows_and_adds_only_protection(ask: Ask, workspace: Path) -> None:
    text = '[grants.forge]\nmethods = ["GET"]\nttl = "10m"\n[sandbox]\nhide = ["*.pem"]\nread_only = ["deploy/**"]\n'
    (workspace / "leasehold.toml").write_text(text)
    plan = ask()
    assert names(plan) == ["forge"]
    [forge] = plan.credentials
    assert (forge.max_ttl_s, forge.endpoints[0].methods) == (600, ("GET",))
    assert plan.sandbox == SandboxSettings(hide=("*.key", "*.pem"), read_only=("ci/**", "deploy/**"))


def test_a_project_that_asks_for_what_is_not_there_is_refused(ask: Ask, workspace: Path) -> None:
    (workspace / "leasehold.toml").write_text("[grants.other]\n")
    with pytest.raises(GrantRefused, match="no credential 'other'"):
        ask()


def test_the_command_line_narrows_further(ask: Ask) -> None:
    assert names(ask(grants=["model"])) == ["model"]
    assert names(ask(grants=[])) == ["forge", "model", "open"]
    with pytest.raises(GrantRefused, match="no credential 'other'"):
        ask(grants=["other"])


def test_a_folder_in_the_place_of_the_project_file_is_none(ask: Ask, workspace: Path) -> None:
    """It is the mount point that another run has put there."""
    (workspace / "leasehold.toml").mkdir()
    assert names(ask()) == ["forge", "model", "open"]


@pytest.mark.parametrize("to", ["missing", "folder"])
def test_a_link_in_the_place_of_the_project_file_is_refused(ask: Ask, workspace: Path, to: str) -> None:
    (workspace / "folder").mkdir()
    (workspace / "leasehold.toml").symlink_to(to)
    with pytest.raises(ConfigError):
        ask()


@pytest.mark.parametrize(("name", "longest"), [("local", 3600), ("ci", 900), ("remediation", 600)])
def test_each_class_has_its_longest_time(ask: Ask, name: str, longest: int) -> None:
    plan = ask(**{"class": name})
    assert (plan.agent_class, plan.ttl_s) == (AgentClass(name), longest)
    assert ask(**{"class": name}, ttl_s=longest).ttl_s == longest
    assert ask(**{"class": name}, ttl_s=1).ttl_s == 1
    for wrong in (longest + 1, 0, -1, "60", 1.5):
        with pytest.raises(GrantRefused, match=f"at most {longest} s"):
            ask(**{"class": name}, ttl_s=wrong)


def test_an_unknown_class_is_refused(ask: Ask) -> None:
    with pytest.raises(GrantRefused, match="no class 'admin'") as caught:
        ask(**{"class": "admin"})
    assert caught.value.hint == "the classes are local, ci, remediation"


def test_the_profile_comes_from_the_command_or_its_name(ask: Ask) -> None:
    assert ask(command=["/usr/bin/claude", "-p", "x"]).profile == "claude"
    assert ask(profile="codex").profile == "codex"
    assert ask(command=None).profile == "generic"
    with pytest.raises(UsageError):
        ask(profile="unknown")


def test_placeholders_stand_where_programs_look_for_a_key_that_is_injected(ask: Ask) -> None:
    """Not for one that is injected in another way than the program sends its key."""
    [key] = ask().placeholders
    assert (key.variable, key.credential, key.prefix) == ("ANTHROPIC_API_KEY", "model", "sk-ant-api03-")
    assert ask(grants=["forge"]).placeholders == ()


def test_basic_authentication_is_the_authorization_header(ask: Ask, tmp_path: Path) -> None:
    with_basic = _OPERATOR.replace('inject = { header = "X-Api-Key" }', 'inject = { basic = { username = "u" } }')
    config = tmp_path / "basic.toml"
    config.write_text(with_basic)
    config.chmod(0o600)
    assert [key.variable for key in ask(config=str(config)).placeholders] == ["CLAUDE_CODE_OAUTH_TOKEN"]


def database(**parameters: object) -> Credential:
    given = {"server": "postgresql://issuer@db.example/orders", "grants": ["CONNECT"], **parameters}
    return Credential(
        name="orders",
        issuer="postgres",
        secret="vault:orders",
        environment=Environment.STAGING,
        role=Role.EXECUTE,
        max_ttl_s=900,
        endpoints=(Rule(host="db.example", port=5432, scheme="postgres"),),
        parameters=tuple(given.items()),
    )


def test_what_an_issuer_does_not_take_is_refused_before_anything_starts() -> None:
    check_issuers([database()])
    check_issuers([database()])
    with pytest.raises(ConfigError, match=r"credentials\.orders: issuer\(postgres\).*conections"):
        check_issuers([database(), database(conections=1)])
    with pytest.raises(ConfigError, match="grants"):
        check_issuers([database(grants=["SUPERUSER"])])
