"""The agents' profiles: which is chosen, what it fills in, and that it carries no key."""

from __future__ import annotations

import json
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from leasehold.core import profiles
from leasehold.core.errors import UsageError
from leasehold.core.paths import check_pattern
from leasehold.core.profiles import (
    KEY_VARIABLES,
    PROFILES,
    HomeFile,
    Profile,
    environment,
    home_files,
    key_variables,
    profile_for,
    starter_credentials,
)

_BARE = {"PYTHONPATH": str(Path(profiles.__file__).parents[2])}
NASTY = '/w/a "b"\\c\nd'  # a workspace's name that would break out of a string


@pytest.mark.parametrize(
    ("command", "name"),
    [
        (["claude"], "claude"),
        (["/opt/node/bin/claude", "-p", "hello"], "claude"),
        (["codex", "exec"], "codex"),
        (["./venv/bin/aider"], "aider"),
        (["bash", "claude"], "generic"),
        (["/opt/claude/other"], "generic"),
        (["claude-code"], "generic"),
        ([], "generic"),
    ],
)
def test_command_selects_profile(command: list[str], name: str) -> None:
    assert profile_for(None, command).name == name


def test_name_wins_over_command() -> None:
    assert profile_for("aider", ["claude"]).name == "aider"
    assert profile_for("generic", ["claude"]).name == "generic"


def test_unknown_name_is_refused_and_says_which_there_are() -> None:
    with pytest.raises(UsageError) as caught:
        profile_for("clod", ["claude"])
    assert caught.value.hint == "the profiles are claude, codex, aider, generic"


@pytest.mark.parametrize("profile", PROFILES, ids=lambda profile: profile.name)
def test_profiles_open_no_host(profile: Profile) -> None:
    assert profile.hosts == ()


def test_every_wanted_host_has_a_variable_and_a_starter() -> None:
    for profile in PROFILES:
        text = starter_credentials().get(profile.name, "")
        for host in profile.wants:
            assert any(variable.host == host for variable in KEY_VARIABLES)
            assert f'host = "{host}"' in text


@pytest.mark.parametrize(
    ("host", "header", "names"),
    [
        ("api.anthropic.com", "X-Api-Key", ["ANTHROPIC_API_KEY"]),
        ("api.anthropic.com", "Authorization", ["CLAUDE_CODE_OAUTH_TOKEN"]),
        ("api.openai.com", "authorization", ["OPENAI_API_KEY"]),
        ("api.openai.com", "x-api-key", []),
        ("api.forge.example", "authorization", []),
    ],
)
def test_variables_follow_the_injection(host: str, header: str, names: list[str]) -> None:
    assert [variable.name for variable in key_variables([(host, header)])] == names


def test_root_has_its_own_settings() -> None:
    claude = profile_for("claude", [])
    assert environment(claude, root=True) == {**environment(claude, root=False), "IS_SANDBOX": "1"}
    assert environment(claude, root=False)["DISABLE_TELEMETRY"] == "1"
    assert "IS_SANDBOX" not in environment(claude, root=False)


def test_settings_never_carry_a_key() -> None:
    taken = {variable.name for variable in KEY_VARIABLES}
    for profile in PROFILES:
        assert not taken & environment(profile, root=True).keys()


def _files(name: str, workspace: str = NASTY, **placeholders: str) -> dict[str, HomeFile]:
    files = home_files(profile_for(name, []), workspace=workspace, placeholders=placeholders)
    return {file.path: file for file in files}


def test_claude_state_accepts_the_placeholder_and_the_workspace() -> None:
    key = "sk-ant-api03-" + "x" * 30 + "0123456789abcdefghij"
    state = json.loads(_files("claude", ANTHROPIC_API_KEY=key)[".claude.json"].text)
    assert state["customApiKeyResponses"] == {"approved": ["0123456789abcdefghij"], "rejected": []}
    assert state["projects"][NASTY]["hasTrustDialogAccepted"] is True


def test_claude_state_without_a_placeholder() -> None:
    assert json.loads(_files("claude")[".claude.json"].text)["customApiKeyResponses"]["approved"] == [""]


def test_codex_config_trusts_the_workspace_and_takes_the_key_from_the_environment() -> None:
    config = tomllib.loads(_files("codex")[".codex/config.toml"].text)
    assert config["projects"] == {NASTY: {"trust_level": "trusted"}}
    provider = config["model_providers"][config["model_provider"]]
    assert provider["env_key"] == "OPENAI_API_KEY"
    assert provider["supports_websockets"] is False
    assert not any(config["features"].values())


def test_whole_placeholder_is_filled_in() -> None:
    profile = Profile(name="x", files=(HomeFile(path="a", text='"@A_KEY@" @other@ me@example.org'),))
    (file,) = home_files(profile, workspace="/w", placeholders={"A_KEY": 'k"'})
    assert file == HomeFile(path="a", text='"k\\"" @other@ me@example.org')


@pytest.mark.parametrize("profile", PROFILES, ids=lambda profile: profile.name)
def test_files_stay_in_the_home_folder(profile: Profile) -> None:
    for path in (*profile.persist, *(file.path for file in profile.files)):
        assert not path.startswith("/")
        assert ".." not in path.split("/")


@pytest.mark.parametrize(("name", "path"), [("claude", ".claude/.credentials.json"), ("codex", ".codex/auth.json")])
def test_a_login_is_covered_in_what_persists(name: str, path: str) -> None:
    file = _files(name)[path]
    assert not any(value for key, value in json.loads(file.text).items() if key != "auth_mode")
    assert not file.writable
    assert path.startswith(tuple(f"{folder}/" for folder in profile_for(name, []).persist))


@pytest.mark.parametrize("text", starter_credentials().values(), ids=starter_credentials().keys())
def test_starter_credentials_are_narrow(text: str) -> None:
    for credential in tomllib.loads(text)["credentials"].values():
        assert credential["secret"].startswith("vault:")
        for endpoint in credential["endpoints"]:
            assert endpoint["methods"]
            for path in endpoint["paths"]:
                assert check_pattern(path)
                assert "**" not in path
                assert "/files" not in path
            key_variable = key_variables([(endpoint["host"], endpoint["inject"]["header"])])
            assert len(key_variable) == 1


def test_documentation_gives_the_starter_credentials() -> None:
    page = (Path(__file__).parents[3] / "docs" / "agents.md").read_text()
    for name in ("claude", "codex"):
        assert f"```toml\n{starter_credentials()[name]}```\n" in page


def test_import_is_cheap() -> None:
    code = "import sys; import leasehold.core.profiles; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-S", "-c", code], capture_output=True, text=True, check=True, env=_BARE)
    assert not {"dataclasses", "inspect", "asyncio", "subprocess"} & set(done.stdout.split())
