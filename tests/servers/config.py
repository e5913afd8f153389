"""The operator's configuration for the upstreams of a session."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from servers.upstreams import Upstreams

_CHECKOUT = Path(__file__).parents[2]
CLIENTS = _CHECKOUT / "tests" / "clients"
_METHODS = ["GET", "HEAD", "POST", "PUT", "DELETE"]
# What an agent may call at the API; the rest of it (/user, /repos/other, /private …) is denied.
API_PATHS = [
    "/repos/acme/web/**",
    "/v1/**",
    "/echo",
    "/reflect",
    "/reflect-split",
    "/reflect-headers",
    "/gzip",
    "/deflate",
    "/br",
    "/zstd",
    "/stream",
    "/download",
    "/upload",
    "/status/*",
    "/redirect",
    "/slow",
]


def write(up: Upstreams, folder: Path, servers: tuple[str, ...], *, extra: str = "") -> Path:
    """Write ``config.toml``, the authority of the upstreams and the secrets' files (0600) into ``folder``.

    Returns the path of the configuration.
    """
    folder.mkdir(parents=True, exist_ok=True)
    authority = folder / "upstream-ca.pem"
    authority.write_bytes(b"".join(path.read_bytes() for path in (up.ca.path, *up.beside.values())))
    sections = [_head(up, authority)]
    for name in servers:
        reference = secret(folder, name, up.server(name).credential)
        sections += SECTIONS[name](up, reference)
    path = folder / "config.toml"
    path.write_text("\n".join([*sections, extra.replace("@folder@", str(folder))]))
    path.chmod(0o600)
    return path


def secret(folder: Path, name: str, value: str) -> str:
    path = folder / f"{name}.secret"
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        file.write(value)
    return f"file:{path}"


def _head(up: Upstreams, authority: Path) -> str:
    tools = [str(Path(sys.prefix)), str(CLIENTS)]
    open_host = _table({"host": "open.forge.test", "port": up.place("api").port, "methods": ["GET", "POST"]})
    return f"""
[trust]
domain = "test.example"
upstream_ca = {json.dumps(str(authority))}

[network]
resolve = {_table(up.resolve())}
allow_private = {json.dumps([f"{up.network}.0/24", *(["127.0.0.1/32"] if up.beside else [])])}

[hosts]
allow = [{open_host}]

[sandbox]
tools = {json.dumps(tools)}
"""


def _table(values: dict[str, object] | dict[str, str]) -> str:
    inner = ", ".join(f"{json.dumps(key)} = {json.dumps(value)}" for key, value in values.items())
    return f"{{ {inner} }}"


def _credential(name: str, reference: str, role: str = "execute") -> str:
    return f"""
[credentials.{name}]
issuer = "static"
secret = {json.dumps(reference)}
environment = "development"
role = "{role}"
max_ttl = "1h"
"""


def _endpoint(name: str, host: str, port: int, rest: dict[str, str]) -> str:
    lines = [f"[[credentials.{name}.endpoints]]", f'host = "{host}"', f"port = {port}"]
    return "\n".join([*lines, *(f"{key} = {value}" for key, value in rest.items()), ""])


def _git(up: Upstreams, reference: str) -> list[str]:
    place = up.place("git")
    inject = '{ basic = { username = "x-access-token" } }'
    rules = {"acme/web": "write", "acme/docs": "read"}
    return [_credential("forge", reference)] + [
        _endpoint(
            "forge",
            place.host,
            place.port,
            {"git": f'{{ repository = "{repository}", access = "{access}" }}', "inject": inject},
        )
        for repository, access in rules.items()
    ]


def _pypi(up: Upstreams, reference: str) -> list[str]:
    place = up.place("pypi")
    rest = {"methods": '["GET", "HEAD"]', "inject": '{ basic = { username = "reader" } }'}
    return [_credential("pypi", reference, "fetch"), _endpoint("pypi", place.host, place.port, rest)]


def _npm(up: Upstreams, reference: str) -> list[str]:
    place = up.place("npm")
    rest = {
        "methods": '["GET", "HEAD"]',
        "inject": '{ header = "Authorization", format = "Bearer {secret}" }',
    }
    return [_credential("npm", reference, "fetch"), _endpoint("npm", place.host, place.port, rest)]


def _api(up: Upstreams, reference: str) -> list[str]:
    """One credential for each way of injecting: they have the same value, because the server has one."""
    port = up.place("api").port
    ways = {
        "api": ("api.forge.test", '{ header = "Authorization", format = "Bearer {secret}" }'),
        "api-key": ("key.forge.test", '{ header = "x-api-key", format = "{secret}" }'),
        "api-basic": ("basic.forge.test", '{ basic = { username = "agent" } }'),
        "api-query": ("query.forge.test", '{ query = "key" }'),
    }
    out = []
    for name, (host, inject) in ways.items():
        rest = {"methods": json.dumps(_METHODS), "paths": json.dumps(API_PATHS), "inject": inject}
        out += [_credential(name, reference), _endpoint(name, host, port, rest)]
        if name == "api":
            out.append(
                _endpoint(name, host, port, {"paths": '["/ws", "/upgrade"]', "websocket": "true", "inject": inject})
            )
    return out


def _grpc(up: Upstreams, reference: str) -> list[str]:
    place = up.place("grpc")
    methods = [f"/leasehold.test.Echo/{name}" for name in ("Unary", "Stream", "Reflect")]
    rest = {
        "methods": '["POST"]',
        "paths": json.dumps(methods),
        "inject": '{ header = "authorization", format = "Bearer {secret}" }',
    }
    return [_credential("grpc", reference), _endpoint("grpc", place.host, place.port, rest)]


SECTIONS: dict[str, Callable[[Upstreams, str], list[str]]] = {
    "git": _git,
    "pypi": _pypi,
    "npm": _npm,
    "api": _api,
    "grpc": _grpc,
}
