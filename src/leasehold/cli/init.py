"""``leasehold init``: a commented starter configuration; nothing that is there is overwritten."""

from __future__ import annotations

import os
import re
from pathlib import Path

from leasehold.core import profiles
from leasehold.core.errors import ConfigError
from leasehold.core.locations import operator_config_path, system_ca_bundle, user_config_path

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterable, Sequence

_HEAD = """# Leasehold: what agents of this user may use. docs/configuration.md explains every key;
# `leasehold credential check` reads this file and tries every secret.

[trust]
domain = "{domain}"    # a name for this installation
upstream_ca = "{bundle}"    # PEM: what upstreams are verified against

[network]
# Private, loopback and metadata addresses are refused unless they are named here.
allow_private = []    # such as "10.1.2.0/24"
# resolve = {{ "git.corp.example" = "10.1.2.3" }}    # like a hosts file

[hosts]
# What may be reached without a credential, by exact name. Everything else does not exist for an agent.
allow = [
  # {{ host = "docs.python.org", methods = ["GET", "HEAD"] }},
]

[sandbox]
hide = []    # paths of a workspace that no agent sees, such as "deploy/keys"
read_only = []    # and that none may change
tools = []    # folders outside of the system's that agents may read, such as "/opt/toolchain"
env = []    # variables that are passed in besides the harmless ones
"""
_FORGE = """# One repository. First: leasehold secret set forge
[credentials.forge]
issuer = "static"
secret = "vault:forge"    # or env:NAME, file:PATH, command:op read op://…
environment = "development"    # development, staging or production
role = "execute"    # execute, fetch (reads only) or deploy
max_ttl = "1h"

[[credentials.forge.endpoints]]
host = "github.com"
git = { repository = "owner/name", access = "read" }    # or write
inject = { basic = { username = "x-access-token" } }

[[credentials.forge.endpoints]]
host = "api.github.com"
methods = ["GET"]
paths = ["/repos/owner/name/**"]
inject = { header = "Authorization", format = "Bearer {secret}" }
"""
_REGISTRY = """# A package registry: read only, and an identity of its own.
[credentials.registry]
issuer = "static"
secret = "vault:registry"
environment = "development"
role = "fetch"
max_ttl = "1h"

[[credentials.registry.endpoints]]
host = "registry.corp.example"
inject = { header = "Authorization", format = "Bearer {secret}" }
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--path", metavar="FILE", help="where to write; else the usual place")
    parser.add_argument(
        "--profile",
        metavar="NAME",
        action="append",
        default=[],
        choices=tuple(profiles.starter_credentials()),
        help=f"with the credentials of {', '.join(profiles.starter_credentials())} (repeatable)",
    )


def run(args: argparse.Namespace) -> int:
    """0; ``ConfigError`` when the file is there or cannot be written."""
    named = os.environ.get("LEASEHOLD_CONFIG")
    path = Path(args.path or (operator_config_path() if named else user_config_path())).absolute()
    _write(path, starter(args.profile, domain=_domain(os.environ.get("USER", "")), bundle=system_ca_bundle()))
    secrets = [f"leasehold secret set {name}" for name in _secrets(args.profile)] or ["leasehold secret set NAME"]
    print(f"wrote {path}")
    print(f"next: edit it; {'; '.join(secrets)}; leasehold doctor; leasehold run -- COMMAND")
    return 0


def starter(chosen: Sequence[str], *, domain: str, bundle: str) -> str:
    """The file: the credentials of the chosen profiles as they are, all else that one may want commented out."""
    wanted = _blocks(chosen)
    others = [text for text in _blocks(profiles.starter_credentials()) if text not in wanted]
    commented = [_commented(text) for text in (*others, _FORGE, _REGISTRY)]
    return "\n".join([_HEAD.format(domain=domain, bundle=bundle), *wanted, *commented])


def _blocks(names: Iterable[str]) -> list[str]:
    """The credentials of some profiles, each once: two profiles may want the same."""
    texts = [profiles.starter_credentials()[name] for name in names]
    blocks = [block for text in texts for block in re.split(r"\n(?=\[credentials\.)", text)]
    return list(dict.fromkeys(f"{block.rstrip()}\n" for block in blocks))


def _secrets(names: Sequence[str]) -> list[str]:
    return re.findall(r'"vault:([^"]+)"', "".join(_blocks(names)))


def _commented(text: str) -> str:
    return "".join(f"# {line}".rstrip() + "\n" for line in text.removeprefix("# ").splitlines())


def _domain(user: str) -> str:
    """A name of one's own that leads nowhere (RFC 6761)."""
    return f"{re.sub(r'[^a-z0-9]', '', user.lower()) or 'me'}.localhost"


def _write(path: Path, text: str) -> None:
    problem, hint = "there is one already, and nothing is overwritten", "edit it, move it away, or --path FILE"
    if not os.path.lexists(path):
        try:
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
            with os.fdopen(fd, "w", encoding="utf-8") as file:
                file.write(text)
        except OSError as e:
            problem, hint = f"it cannot be written: {e.strerror}", "choose another place: --path FILE"
        else:
            return
    raise ConfigError(f"{path}: {problem}", hint=hint)
