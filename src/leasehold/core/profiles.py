"""What is known about particular agents, so that they work at once. Data, and the functions that read it.

A profile is chosen by its name or by the command's. It opens no way out: with their telemetry, update checks and
feature switches off, none of these programs needs a host without a credential. The files of a profile are made anew
for each run. What lies in a ``persist`` folder stays for the next run of the same profile in the same workspace,
except where a file of the profile lies over it, and that is how a login is never kept.
"""

from __future__ import annotations

import json
import re

from leasehold.core.errors import UsageError
from leasehold.core.record import record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence


@record
class KeyVariable:
    """A variable in which programs look for a key: its usual beginning, and the header in which it is sent to ``host``.

    It is filled with a placeholder when the task has a credential that is injected into ``header`` (lower case) at
    ``host``. What the program sends is replaced there, whatever it is.
    """

    name: str
    host: str
    header: str
    prefix: str


@record
class HomeFile:
    """A file of the throw-away home; ``path`` is relative to it.

    In ``text``, ``@WORKSPACE@`` stands for the workspace's absolute path, ``@NAME@`` for the placeholder in variable
    ``NAME`` and ``@NAME.tail@`` for its last 20 characters; each is escaped for a JSON or TOML string. ``writable``
    is false for what the program must not change. A file in a ``persist`` folder is laid over it as a mount.
    """

    path: str
    text: str
    writable: bool = True


@record
class Profile:
    """One kind of agent.

    ``commands``: base names that select it. ``hosts``: what it needs without a credential. ``wants``: hosts for
    which it needs a credential. ``environment``: settings for every run, ``root_environment``: for root only.
    ``persist``: folders, relative to the home folder.
    """

    name: str
    commands: tuple[str, ...] = ()
    hosts: tuple[str, ...] = ()
    wants: tuple[str, ...] = ()
    environment: tuple[tuple[str, str], ...] = ()
    root_environment: tuple[tuple[str, str], ...] = ()
    files: tuple[HomeFile, ...] = ()
    persist: tuple[str, ...] = ()


ANTHROPIC = "api.anthropic.com"
OPENAI = "api.openai.com"

KEY_VARIABLES = (
    KeyVariable(name="ANTHROPIC_API_KEY", host=ANTHROPIC, header="x-api-key", prefix="sk-ant-api03-"),
    KeyVariable(name="CLAUDE_CODE_OAUTH_TOKEN", host=ANTHROPIC, header="authorization", prefix="sk-ant-oat01-"),
    KeyVariable(name="OPENAI_API_KEY", host=OPENAI, header="authorization", prefix="sk-proj-"),
)

# The onboarding is skipped and the placeholder and the workspace are accepted: nobody may be there to answer, and
# the compartment is the boundary.
_CLAUDE_STATE = """{
  "hasCompletedOnboarding": true,
  "theme": "dark",
  "autoUpdates": false,
  "bypassPermissionsModeAccepted": true,
  "customApiKeyResponses": {"approved": ["@ANTHROPIC_API_KEY.tail@"], "rejected": []},
  "projects": {"@WORKSPACE@": {"hasTrustDialogAccepted": true, "hasCompletedProjectOnboarding": true}}
}
"""

# Codex's own sandbox cannot be nested in the compartment, which does its work. Its provider is written out because
# the built-in one prefers WebSockets, whose frames cannot be scrubbed as HTTP bodies can, and asks for a login.
_CODEX_CONFIG = """model_provider = "openai-https"
sandbox_mode = "danger-full-access"
check_for_update_on_startup = false
cli_auth_credentials_store = "file"

[model_providers.openai-https]
name = "OpenAI over HTTPS"
base_url = "https://api.openai.com/v1"
env_key = "OPENAI_API_KEY"
wire_api = "responses"
supports_websockets = false

[analytics]
enabled = false

[feedback]
enabled = false

[otel]
exporter = "none"
trace_exporter = "none"
metrics_exporter = "none"

[features]
api_key_model_discovery = false
apps = false
daemon_auto_start = false
plugins = false
remote_plugin = false

[projects."@WORKSPACE@"]
trust_level = "trusted"
"""

# An empty object counts as a login with ChatGPT, which would ask chatgpt.com about itself.
_CODEX_LOGIN = '{"auth_mode": "apikey", "OPENAI_API_KEY": null}\n'

GENERIC = Profile(name="generic")

PROFILES = (
    Profile(
        name="claude",
        commands=("claude",),
        wants=(ANTHROPIC,),
        environment=(
            ("CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC", "1"),
            ("CLAUDE_CODE_DISABLE_OFFICIAL_MARKETPLACE_AUTOINSTALL", "1"),
            ("DISABLE_AUTOUPDATER", "1"),
            ("DISABLE_ERROR_REPORTING", "1"),
            ("DISABLE_TELEMETRY", "1"),
        ),
        root_environment=(("IS_SANDBOX", "1"),),
        files=(
            HomeFile(path=".claude.json", text=_CLAUDE_STATE),
            HomeFile(path=".claude/.credentials.json", text="{}\n", writable=False),
        ),
        persist=(".claude",),
    ),
    Profile(
        name="codex",
        commands=("codex",),
        wants=(OPENAI,),
        files=(
            HomeFile(path=".codex/config.toml", text=_CODEX_CONFIG),
            HomeFile(path=".codex/auth.json", text=_CODEX_LOGIN, writable=False),
        ),
        persist=(".codex",),
    ),
    Profile(
        name="aider",
        commands=("aider",),
        wants=(ANTHROPIC, OPENAI),
        environment=(
            ("AIDER_ANALYTICS_DISABLE", "true"),
            ("AIDER_CHECK_UPDATE", "false"),
            ("AIDER_SHOW_RELEASE_NOTES", "false"),
            ("LITELLM_LOCAL_MODEL_COST_MAP", "True"),
        ),
        # A fresh cache keeps it from asking for a list of prices; what it knows of models comes with it.
        files=(HomeFile(path=".aider/caches/model_prices_and_context_window.json", text='{"none": {}}\n'),),
    ),
    GENERIC,
)

# Files, batches and administration are left out: with them an agent could carry data away or make keys.
_ANTHROPIC_TOML = """[credentials.anthropic]
issuer = "static"
secret = "vault:anthropic"    # leasehold secret set anthropic
environment = "development"
role = "execute"
max_ttl = "1h"

[[credentials.anthropic.endpoints]]
host = "api.anthropic.com"
methods = ["POST"]
paths = ["/v1/messages", "/v1/messages/count_tokens"]
inject = { header = "x-api-key", format = "{secret}" }

[[credentials.anthropic.endpoints]]
host = "api.anthropic.com"
methods = ["GET", "HEAD"]
paths = ["/v1/models", "/v1/models/*", "/api/claude_code/settings", "/api/claude_code/policy_limits"]
inject = { header = "x-api-key", format = "{secret}" }
"""

_OPENAI_TOML = """[credentials.openai]
issuer = "static"
secret = "vault:openai"       # leasehold secret set openai
environment = "development"
role = "execute"
max_ttl = "1h"

[[credentials.openai.endpoints]]
host = "api.openai.com"
methods = ["POST"]
paths = ["/v1/responses", "/v1/responses/compact", "/v1/chat/completions"]
inject = { header = "Authorization", format = "Bearer {secret}" }

[[credentials.openai.endpoints]]
host = "api.openai.com"
methods = ["GET", "HEAD"]
paths = ["/v1/models", "/v1/models/*"]
inject = { header = "Authorization", format = "Bearer {secret}" }
"""

_MARK = re.compile(r"@([A-Z_]+)(\.tail)?@")


def profile_for(name: str | None, command: Sequence[str]) -> Profile:
    """The profile called ``name``, or else the one of the command, or else ``generic``.

    Raises ``UsageError`` for a name that there is none of.
    """
    if name is not None:
        for profile in PROFILES:
            if profile.name == name:
                return profile
        known = ", ".join(profile.name for profile in PROFILES)
        raise UsageError(f"there is no profile {name!a}", hint=f"the profiles are {known}")
    program = command[0].rpartition("/")[2] if command else ""
    return next((profile for profile in PROFILES if program in profile.commands), GENERIC)


def key_variables(injected: Iterable[tuple[str, str]]) -> tuple[KeyVariable, ...]:
    """The variables to fill for a task whose credentials are injected at these (host, header name)s."""
    places = {(host, header.lower()) for host, header in injected}
    return tuple(variable for variable in KEY_VARIABLES if (variable.host, variable.header) in places)


def environment(profile: Profile, *, root: bool) -> dict[str, str]:
    """The profile's settings. ``root``: whether the agent sees itself as user 0."""
    return dict(profile.environment + (profile.root_environment if root else ()))


def home_files(profile: Profile, *, workspace: str, placeholders: Mapping[str, str]) -> tuple[HomeFile, ...]:
    """The profile's files with everything filled in; a placeholder that the task does not have becomes empty."""
    values = {**placeholders, "WORKSPACE": workspace}

    def fill(mark: re.Match[str]) -> str:
        value = values.get(mark[1], "")
        return json.dumps(value[-20:] if mark[2] else value)[1:-1]

    return tuple(
        HomeFile(path=file.path, text=_MARK.sub(fill, file.text), writable=file.writable) for file in profile.files
    )


def starter_credentials() -> dict[str, str]:
    """TOML for the operator's file by profile: the credential that it wants, as narrow as the program allows."""
    return {"claude": _ANTHROPIC_TOML, "codex": _OPENAI_TOML, "aider": _ANTHROPIC_TOML + "\n" + _OPENAI_TOML}
