"""What of the caller's environment reaches the agent, and what never does."""

from __future__ import annotations

import pytest

from leasehold.core.errors import ConfigError
from leasehold.node.sandbox.environment import CA_FILE, agent_environment, agent_path, check_names


def visible(path: str) -> bool:
    return path.startswith(("/usr", "/bin", "/home/ann/.pyenv", "/srv"))


def made(host: dict[str, str], named: tuple[str, ...] = (), **given: dict[str, str]) -> dict[str, str]:
    return agent_environment(
        host,
        named=named,
        visible=visible,
        home="/home/ann",
        user="ann",
        placeholders=given.get("placeholders", {}),
        profile=given.get("profile", {}),
    )


def test_only_the_allow_list_passes() -> None:
    host = {
        "TERM": "xterm",
        "LC_TIME": "C",
        "LANG": "C.UTF-8",
        "EDITOR": "vi",
        "ANYTHING": "x",
        "AWS_SECRET_ACCESS_KEY": "canary",
        "SSH_AUTH_SOCK": "/tmp/ssh-x/agent",
        "http_proxy": "http://u:p@proxy",
        "NO_PROXY": "*",
        "LD_PRELOAD": "/srv/evil.so",
        "HOME": "/elsewhere",
        "USER": "mallory",
        "SSL_CERT_FILE": "/host.pem",
        "CURL_CA_BUNDLE": "/host.pem",
    }
    env = made(host)
    assert {name for name in env if name in host and env[name] == host[name]} == {
        "TERM",
        "LC_TIME",
        "LANG",
        "EDITOR",
    }
    assert (env["HOME"], env["USER"], env["LOGNAME"], env["SSL_CERT_FILE"]) == (
        "/home/ann",
        "ann",
        "ann",
        CA_FILE,
    )
    assert not {"ANYTHING", "AWS_SECRET_ACCESS_KEY", "http_proxy", "NO_PROXY", "SSH_AUTH_SOCK"} & env.keys()
    assert "canary" not in " ".join(env.values())


def test_paths_pass_when_they_can_be_seen() -> None:
    env = made({"SHELL": "/bin/bash", "PYENV_ROOT": "/home/ann/.pyenv", "VIRTUAL_ENV": "/var/venv"})
    assert (env["SHELL"], env["PYENV_ROOT"]) == ("/bin/bash", "/home/ann/.pyenv")
    assert "VIRTUAL_ENV" not in env
    assert made({"SHELL": "/nix/fish"})["SHELL"] == "/bin/sh"


def test_precedence() -> None:
    env = made(
        {"CI": "1", "EXTRA": "host", "EDITOR": "vi"},
        ("EXTRA",),
        profile={
            "EDITOR": "ed",
            "API_URL": "https://x.test",
            "HOME": "/profile",
            "NODE_EXTRA_CA_CERTS": "/x",
        },
        placeholders={"ANTHROPIC_API_KEY": "canary", "API_URL": "placeholder"},
    )
    assert (env["EXTRA"], env["EDITOR"], env["API_URL"]) == ("host", "ed", "placeholder")
    assert (env["HOME"], env["NODE_EXTRA_CA_CERTS"], env["ANTHROPIC_API_KEY"]) == (
        "/home/ann",
        CA_FILE,
        "canary",
    )


def test_trust_is_the_compartments_own_authority() -> None:
    env = made({})
    for name in ("REQUESTS_CA_BUNDLE", "GIT_SSL_CAINFO", "PIP_CERT", "CARGO_HTTP_CAINFO", "AWS_CA_BUNDLE"):
        assert env[name] == CA_FILE


@pytest.mark.parametrize(
    "name",
    [
        "GITHUB_TOKEN",
        "OPENAI_API_KEY",
        "DB_PASSWORD",
        "SENTRY_DSN",
        "AWS_PROFILE",
        "AZURE_CLIENT_ID",
        "ARM_TENANT_ID",
        "GOOGLE_PROJECT",
        "CLOUDSDK_CONFIG",
        "GH_HOST",
        "NPM_CONFIG_REGISTRY",
        "PIP_INDEX_URL",
        "TWINE_USERNAME",
        "UV_INDEX",
        "CARGO_REGISTRY_TOKEN",
        "CARGO_REGISTRIES_ACME_TOKEN",
        "VAULT_ADDR",
        "OP_SESSION_x",
        "BW_SESSION",
        "TF_VAR_x",
        "TF_TOKEN_x",
        "DATABASE_URL",
        "PGPASSWORD",
        "MYSQL_PWD",
        "KUBECONFIG",
        "GITHUB_PAT",
        "APP_CREDENTIALS",
        "http_proxy",
        "HTTPS_PROXY",
        "no_proxy",
        "SSH_AUTH_SOCK",
        "VSCODE_IPC_HOOK_CLI",
        "XDG_RUNTIME_DIR",
        "DBUS_SESSION_BUS_ADDRESS",
        "DOCKER_HOST",
        "CI_JOB_TOKEN",
        "ACTIONS_ID_TOKEN_REQUEST_URL",
        "TOKEN",
        "LEASEHOLD_CONFIG",
        "SYSTEM_ACCESSTOKEN",
        "MyToken",
    ],
)
def test_credentials_are_refused_even_from_the_operator(name: str) -> None:
    with pytest.raises(ConfigError, match="credential"):
        check_names([name])


@pytest.mark.parametrize(
    "name",
    [
        "LD_PRELOAD",
        "LD_LIBRARY_PATH",
        "BASH_ENV",
        "ENV",
        "NODE_OPTIONS",
        "PYTHONPATH",
        "PYTHONSTARTUP",
        "PERL5OPT",
        "PERL5LIB",
        "RUBYOPT",
        "JAVA_TOOL_OPTIONS",
        "_JAVA_OPTIONS",
        "JDK_JAVA_OPTIONS",
        "GOFLAGS",
        "DOTNET_STARTUP_HOOKS",
        "GIT_SSH_COMMAND",
        "GIT_CONFIG_COUNT",
        "GIT_SSH",
        "PROMPT_COMMAND",
        "SSL_CERT_FILE",
        "NODE_TLS_REJECT_UNAUTHORIZED",
        "BASH_FUNC_x",
        "OPENSSL_CONF",
        "GIT_ASKPASS",
    ],
)
def test_code_is_refused_even_from_the_operator(name: str) -> None:
    with pytest.raises(ConfigError, match="load code"):
        check_names([name])


def test_names_that_are_not_names_are_refused() -> None:
    for name in ("A=B", "", "1X", "A\n", "É"):
        with pytest.raises(ConfigError, match="not the name"):
            check_names([name])


def test_harmless_names_are_accepted() -> None:
    check_names(["MY_SETTING", "RAILS_ENV", "NODE_ENV", "DEBUG", "MAKEFLAGS", "KEYMAP", "COMPATIBILITY"])


def test_a_named_value_with_user_information_is_refused() -> None:
    with pytest.raises(ConfigError, match="user name or password"):
        made({"MIRROR": "https://bob:canary@mirror.test/x"}, ("MIRROR",))
    assert made({"MIRROR": "https://mirror.test/x@y"}, ("MIRROR",))["MIRROR"] == "https://mirror.test/x@y"
    assert "ABSENT" not in made({}, ("ABSENT",))


def test_path() -> None:
    assert agent_path("/opt/x/bin:/usr/bin:.::/srv/bin:/usr/bin:bin", visible) == (
        "/run/leasehold/bin:/usr/bin:/srv/bin"
    )
    assert agent_path("/opt/x", visible) == "/run/leasehold/bin:/usr/local/bin:/usr/bin:/bin"
