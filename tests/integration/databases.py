"""The configuration of a task that uses databases, over the servers of the contract suite."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from contract.subject import Subject

if TYPE_CHECKING:
    from servers.harness import Leasehold
    from servers.upstreams import Upstreams


@dataclass(frozen=True, slots=True, kw_only=True)
class Database:
    """One credential ``name``. ``host`` is the name that a compartment knows the server by."""

    name: str
    protocol: str
    host: str
    port: int
    subject: Subject
    authority: Path
    max_ttl: str = "15m"


def configure(lh: Leasehold, up: Upstreams, *databases: Database) -> None:
    """Replace the operator's configuration by one with these databases."""
    folder = lh.config.parent
    authorities = folder / "authorities.pem"
    authorities.write_bytes(b"".join([up.ca.path.read_bytes(), *(each.authority.read_bytes() for each in databases)]))
    resolve = ", ".join(f'{json.dumps(each.host)} = "127.0.0.1"' for each in databases)
    head = f"""
[trust]
domain = "test.example"
upstream_ca = {json.dumps(str(authorities))}
[network]
resolve = {{ {resolve} }}
allow_private = ["127.0.0.1/32"]
[sandbox]
tools = {json.dumps([str(Path(sys.prefix))])}
"""
    lh.config.write_text(head + "".join(_section(each, folder, authorities) for each in databases))
    lh.own(folder)


def _section(database: Database, folder: Path, authorities: Path) -> str:
    secret = folder / f"{database.name}.secret"
    secret.write_bytes(database.subject.secret.reveal())
    secret.chmod(0o600)
    parameters: Mapping[str, Any] = {**database.subject.parameters(), "ca": str(authorities)}
    lines = "\n".join(f"{key} = {json.dumps(value)}" for key, value in parameters.items())
    return f"""
[credentials.{database.name}]
issuer = "{database.protocol}"
secret = "file:{secret}"
environment = "development"
role = "execute"
max_ttl = "{database.max_ttl}"
{lines}
[[credentials.{database.name}.endpoints]]
host = "{database.host}"
protocol = "{database.protocol}"
port = {database.port}
"""
