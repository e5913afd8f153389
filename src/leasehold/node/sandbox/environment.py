"""The agent's environment: an allow-list, so that what nobody thought of stays outside. Pure."""

from __future__ import annotations

import re

from leasehold.core.errors import ConfigError
from leasehold.node.sandbox.places import within

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

INSIDE = "/run/leasehold"
CA_FILE = f"{INSIDE}/ca.pem"

# Passed on as they are: how the terminal looks, what language, which programs the person likes.
_PASSED = (
    "TERM", "COLORTERM", "TERM_PROGRAM", "TERM_PROGRAM_VERSION", "LS_COLORS", "NO_COLOR", "FORCE_COLOR", "CLICOLOR",
    "CLICOLOR_FORCE", "LANG", "LANGUAGE", "TZ", "EDITOR", "VISUAL", "PAGER", "CI", "DEBIAN_FRONTEND",
    "SOURCE_DATE_EPOCH", "PYTHONUNBUFFERED", "PYTHONDONTWRITEBYTECODE", "RUST_BACKTRACE", "RUSTUP_TOOLCHAIN",
    "PYENV_VERSION",
)  # fmt: skip
# Passed on when the folder or program that they name can be seen inside.
_PATHS = (
    "SHELL", "PYENV_ROOT", "NVM_DIR", "NVM_BIN", "RUSTUP_HOME", "VOLTA_HOME", "ASDF_DIR", "ASDF_DATA_DIR",
    "BUN_INSTALL", "DENO_INSTALL", "JAVA_HOME", "GOROOT", "VIRTUAL_ENV",
)  # fmt: skip

_TRUSTING = (
    "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "GIT_SSL_CAINFO", "NODE_EXTRA_CA_CERTS", "PIP_CERT",
    "CARGO_HTTP_CAINFO", "AWS_CA_BUNDLE", "GRPC_DEFAULT_SSL_ROOTS_FILE_PATH", "NPM_CONFIG_CAFILE", "DENO_CERT",
)  # fmt: skip
SSH_AGENT = f"{INSIDE}/ssh-agent.sock"
EXPOSED = f"{INSIDE}/exposed"
"""The folder of what a task was started to have in files."""
_TRUST = dict.fromkeys(_TRUSTING, CA_FILE)
# Between an agent and its relay TLS only costs; where a client is told to ask for it, it gets it.
_PLAIN = {"PGSSLMODE": "disable"}

# What usually holds a credential, an address of one, or a way to one (PLACES: environment, sockets, pipelines).
_CREDENTIAL = r"""(?:.*_)?(?:TOKEN|KEY|SECRET|PASSWORD|PASSWD|PASSPHRASE|CREDENTIALS?|DSN|PAT|COOKIE|SESSION)
    |.*(?:TOKEN|APIKEY|SECRET|PASSWORD|CREDENTIALS).*
    |(?:AWS|AZURE|ARM|GOOGLE|GCLOUD|CLOUDSDK|GH|GITHUB|GITLAB|NPM|TWINE|UV|VAULT|OP|TF_VAR|TF_TOKEN|ACTIONS|RUNNER
      |INPUT|CI_JOB|CI_REGISTRY|IDENTITY|MSI|VSCODE|SSH|GPG|DBUS|DOCKER|CONTAINER|KUBE|PODMAN|SPIFFE|LEASEHOLD)_.*
    |BW_SESSION|DATABASE_URL|PGPASSWORD|PGPASSFILE|MYSQL_PWD|KUBECONFIG|PIP_(?:EXTRA_)?INDEX_URL|PIP_CONFIG_FILE
    |NETRC|BOTO_CONFIG|(?:.*_)?PROXY|DISPLAY|WAYLAND_DISPLAY|XAUTHORITY|XDG_RUNTIME_DIR|TMUX|STY|KRB5CCNAME"""
# What makes a program load code or settings of somebody's choice.
_INJECTING = r"""(?:LD|DYLD|BASH_FUNC|GIT_CONFIG|GIT_SSH|GIT_TRACE|GCONV|MALLOC)_.*
    |BASH_ENV|ENV|SHELLOPTS|BASHOPTS|PROMPT_COMMAND|PS4|IFS|CDPATH|GIT_SSH|GIT_ASKPASS|SSH_ASKPASS
    |GIT_(?:EXEC_PATH|TEMPLATE_DIR|EXTERNAL_DIFF|EDITOR|SEQUENCE_EDITOR|PAGER|PROXY_COMMAND|DIR|SSL_NO_VERIFY)
    |NODE_(?:OPTIONS|PATH|TLS_REJECT_UNAUTHORIZED|EXTRA_CA_CERTS)|PYTHON(?:PATH|STARTUP|HOME|INSPECT|BREAKPOINT)
    |PERL5?(?:OPT|LIB|DB)|PERL5DB|RUBY(?:OPT|LIB)|(?:_JAVA|JAVA_TOOL|JDK_JAVA|MAVEN|GRADLE|SBT)_?OPT(?:ION)?S
    |CLASSPATH|GOFLAGS|GOPROXY|CARGO_HOME|RUSTC_WRAPPER|DOTNET_STARTUP_HOOKS|LESSOPEN|LESSCLOSE|BROWSER
    |HOSTALIASES|RES_OPTIONS|LOCALDOMAIN|NLSPATH|TERMINFO(?:_DIRS)?|OPENSSL_(?:CONF|ENGINES|MODULES)|SSLKEYLOGFILE"""
_USERINFO = r"://[^/?#@\s]+@"


def check_names(names: Sequence[str]) -> None:
    """Refuse what an operator may not pass in (``ConfigError``): names of credentials and of code to load."""
    flags = re.VERBOSE | re.IGNORECASE
    for name in names:
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
            raise ConfigError(f"sandbox.env: {name!a} is not the name of a variable", hint="name one exactly")
        if re.fullmatch(_CREDENTIAL, name, flags):
            raise ConfigError(
                f"sandbox.env: {name} usually holds a credential or a way to one, and never enters a compartment",
                hint="define it as a credential; the agent can use it without having it",
            )
        if re.fullmatch(_INJECTING, name, flags) or name in _TRUST:
            raise ConfigError(
                f"sandbox.env: {name} makes programs load code or settings, and never enters a compartment",
                hint="put the setting into the project, where it can be seen",
            )


def _check_values(values: Mapping[str, str]) -> None:
    for name, value in values.items():
        if re.search(_USERINFO, value):
            raise ConfigError(
                f"sandbox.env: the value of {name} is a URL with a user name or password in it",
                hint="define it as a credential; the agent can use it without having it",
            )


def agent_environment(
    host: Mapping[str, str],
    *,
    named: Sequence[str],
    visible: Callable[[str], bool],
    home: str,
    user: str,
    placeholders: Mapping[str, str],
    profile: Mapping[str, str],
    ssh: bool = False,
) -> dict[str, str]:
    """The whole environment of the agent.

    ``host``: the caller's. ``named``: the operator's additions, refused by :func:`check_names` and where a value is
    a URL with user information. ``visible``: whether a path of the host can be seen inside. ``profile``: the agent
    profile's own settings. ``ssh``: there is an agent. Later ones win: passed on, named, profile, placeholders, ours.
    """
    check_names(named)
    _check_values({name: host[name] for name in named if name in host})
    passed = {name: host[name] for name in (*_PASSED, *named) if name in host}
    passed |= {name: value for name, value in host.items() if name.startswith("LC_") and name not in passed}
    passed |= {name: host[name] for name in _PATHS if name in host and visible(host[name])}
    ours = {"PATH": agent_path(host.get("PATH", ""), visible), "HOME": home, "USER": user, "LOGNAME": user}
    if ssh:
        ours["SSH_AUTH_SOCK"] = SSH_AGENT
    return {"SHELL": "/bin/sh", "TERM": "dumb"} | _PLAIN | passed | dict(profile) | dict(placeholders) | ours | _TRUST


def agent_path(path: str, visible: Callable[[str], bool]) -> str:
    """``PATH`` inside: our own command first, then the caller's absolute folders that can be seen, each once."""
    usual = ("/usr/local/bin", "/usr/bin", "/bin")
    kept = [folder for folder in path.split(":") if folder.startswith("/") and visible(folder)]
    if not any(within(folder, "/usr") for folder in kept):
        kept += usual
    return ":".join(dict.fromkeys((f"{INSIDE}/bin", *kept)))
