"""``leasehold init``: a commented starter configuration; nothing that is there is overwritten."""

from __future__ import annotations

import os
from pathlib import Path

from leasehold.core.errors import ConfigError
from leasehold.core.locations import operator_config_path

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse

STARTER = """# Leasehold: what agents on this machine may use. docs/configuration.md explains every key.

[trust]
domain = "{user}.localhost"                    # a name for this installation
upstream_ca = "{ca}"

[network]
# Private, loopback and metadata addresses are refused unless they are named here.
allow_private = []
# resolve = {{ "git.corp.example" = "10.1.2.3" }}

[hosts]
# Reachable without a credential, by exact name.
allow = [
  {{ host = "docs.python.org", methods = ["GET", "HEAD"] }},
]

# Claude Code. First: leasehold secret set anthropic
# [credentials.anthropic]
# issuer = "static"
# secret = "vault:anthropic"
# environment = "development"
# role = "execute"
# max_ttl = "1h"
#
# [[credentials.anthropic.endpoints]]
# host = "api.anthropic.com"
# methods = ["GET", "HEAD", "POST"]
# paths = ["/v1/messages", "/v1/messages/count_tokens", "/v1/models", "/v1/models/*"]
# inject = {{ header = "x-api-key" }}

# One repository, read only. First: leasehold secret set forge
# [credentials.forge]
# issuer = "static"
# secret = "vault:forge"                       # or env:NAME, file:PATH, command:op read op://…
# environment = "development"
# role = "execute"
# max_ttl = "1h"
#
# [[credentials.forge.endpoints]]
# host = "github.com"
# git = {{ repository = "owner/name", access = "read" }}
# inject = {{ basic = {{ username = "x-access-token" }} }}
"""
_BUNDLES = ("/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/cert.pem")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--path", metavar="FILE", help="where to write; else the usual place")


def run(args: argparse.Namespace) -> int:
    if args.path:
        path = Path(args.path)
    elif os.environ.get("LEASEHOLD_CONFIG"):
        path = operator_config_path()
    else:
        base = os.environ.get("XDG_CONFIG_HOME") or str(Path.home() / ".config")
        path = Path(base) / "leasehold" / "config.toml"
    ca = next((bundle for bundle in _BUNDLES if Path(bundle).exists()), _BUNDLES[0])
    user = "".join(c for c in (os.environ.get("USER") or "me").lower() if c.isalnum()) or "me"
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except OSError as e:
        reason = e.strerror
    else:
        with os.fdopen(fd, "w", encoding="utf-8") as file:
            file.write(STARTER.format(ca=ca, user=user))
        print(
            f"wrote {path}\nnext: edit it, `leasehold secret set NAME`, `leasehold doctor`, `leasehold run -- COMMAND`"
        )
        return 0
    raise ConfigError(f"{path} was not written: {reason}", hint="remove it first, or give --path FILE")
