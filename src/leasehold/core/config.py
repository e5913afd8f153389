"""The strict reader of the operator's ``config.toml`` and a project's ``leasehold.toml`` (DESIGN 10)."""

from __future__ import annotations

import binascii
import ipaddress
import os
import re
from collections.abc import Callable
from contextlib import suppress
from functools import lru_cache
from pathlib import Path

from leasehold.core.addresses import allowed
from leasehold.core.conflicts import Placed, check_paths, check_roles, check_rules
from leasehold.core.durations import parse_duration
from leasehold.core.endpoints import ISSUERS, method, one_of, path_pattern, read_rule
from leasehold.core.errors import ConfigError
from leasehold.core.limits import LIMITS
from leasehold.core.locations import system_ca_bundle
from leasehold.core.model import (
    Credential,
    Environment,
    GrantRequest,
    Network,
    OperatorConfig,
    ProjectConfig,
    Role,
    Rule,
    SandboxSettings,
)
from leasehold.core.names import canonical_host, is_public_address
from leasehold.core.narrowing import narrow
from leasehold.core.references import parse_reference
from leasehold.core.toml import Table, Wrong, parse, read_bytes

__all__ = ["ISSUERS", "narrow", "read_operator", "read_project"]

_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,62}\Z")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")
_CERTIFICATE = re.compile(rb"-----BEGIN CERTIFICATE-----\r?\n(.*?)-----END CERTIFICATE-----", re.DOTALL)
_CA_BYTES_MAX = 1 << 24
# A wider network than the widest that is private (RFC 1918, RFC 4193) names more than anyone means.
_PREFIX_MIN = {4: 8, 6: 7}
_PARSED_KEPT = 4


def read_operator(path: Path) -> OperatorConfig:
    """Read and check the operator's file; ``ConfigError`` names file, line and key.

    It is read anew each time, and parsed when it has changed.
    """
    data = read_bytes(path, bytes_max=LIMITS.config_bytes_max, reachable=False)
    config, trust = _operator(str(path), data, system_ca_bundle())
    if trust.has("upstream_ca") or Path(config.network.upstream_ca).exists():
        _check_bundle(trust, config.network.upstream_ca)
        return config
    raise trust.error("the key upstream_ca is missing, and this system's CA bundle was not found", "name a PEM file")


def read_project(path: Path) -> ProjectConfig:
    """Read and check a project's file. It lies in the agent's reach: nothing in it costs much time to refuse."""
    data = read_bytes(path, bytes_max=LIMITS.project_bytes_max, reachable=True)
    root = parse(str(path), data)
    for key in ("credentials", "hosts", "network", "trust"):
        if key in root.names():
            raise root.error("a project asks and narrows; it defines nothing", "write it into the operator's file", key)
    grants = root.table("grants")
    requests = tuple(_grant(grants.table(name), name) for name in grants.names())
    grants.done()
    sandbox = root.table("sandbox")
    hide, read_only = sandbox.texts("hide", _workspace_pattern), sandbox.texts("read_only", _workspace_pattern)
    sandbox.done()
    root.done()
    return ProjectConfig(path=str(path), grants=requests, hide=hide, read_only=read_only)


@lru_cache(maxsize=_PARSED_KEPT)
def _operator(path: str, data: bytes, bundle: str) -> tuple[OperatorConfig, Table]:
    """The configuration, and its table ``trust`` for what has to be looked up on disk."""
    root = parse(path, data)
    trust = root.table("trust")
    domain = trust.text("domain", canonical_host)
    upstream_ca = trust.text_or(bundle, "upstream_ca", _absolute)
    trust.done()
    network = _network(root.table("network"), upstream_ca)
    hosts = root.table("hosts")
    open_rules = [(read_rule(table, None), table) for table in hosts.tables("allow")]
    hosts.done()
    sandbox = _sandbox(root.table("sandbox"))
    credentials = root.table("credentials")
    found = [_credential(credentials, name) for name in credentials.names()]
    credentials.done()
    root.done()
    _check_all(found, open_rules)
    config = OperatorConfig(
        path=path,
        trust_domain=domain,
        network=network,
        hosts=tuple(rule for rule, _ in open_rules),
        credentials=tuple(credential for credential, _, _ in found),
        sandbox=sandbox,
    )
    return config, trust


def _check_all(credentials: list[tuple[Credential, Table, tuple[Table, ...]]], hosts: list[tuple[Rule, Table]]) -> None:
    placed = [
        Placed(rule=rule, credential=credential.name, table=table)
        for credential, _, tables in credentials
        for rule, table in zip(credential.endpoints, tables, strict=True)
    ]
    placed += [Placed(rule=rule, credential=None, table=table) for rule, table in hosts]
    for item in placed:
        check_paths(item.rule.paths, item.table)
    check_roles((credential, table) for credential, table, _ in credentials)
    check_rules(placed)


def _network(table: Table, upstream_ca: str) -> Network:
    allow_private = table.texts("allow_private", _private_network)
    resolve = table.table("resolve")
    entries: dict[str, str] = {}
    for key in resolve.names():
        try:
            name, problem = canonical_host(key), ""
        except ValueError as e:
            name, problem = "", str(e)
        if problem or name in entries:
            raise resolve.error(problem or f"{name} stands there twice", "one exact name and its address", key)
        entries[name] = resolve.text(key, _address)
        if not allowed([entries[name]], allow_private):
            raise resolve.error(
                f"{entries[name]} is not public and not in allow_private, so it is never dialled",
                f'allow_private = ["{entries[name]}"]',
                key,
            )
    resolve.done()
    table.done()
    return Network(resolve=tuple(entries.items()), allow_private=allow_private, upstream_ca=upstream_ca)


def _sandbox(table: Table) -> SandboxSettings:
    settings = SandboxSettings(
        hide=table.texts("hide", _workspace_pattern),
        read_only=table.texts("read_only", _workspace_pattern),
        tools=table.texts("tools", _folder),
        env=table.texts("env", _variable),
    )
    table.done()
    return settings


def _credential(parent: Table, name: str) -> tuple[Credential, Table, tuple[Table, ...]]:
    if not _NAME.match(name):
        parent.has(name)
        raise parent.error("expected lower-case letters, digits and -, at most 63", "rename the credential", name)
    table = parent.table(name)
    issuer = table.text("issuer", _issuer)
    secret = table.text("secret", _reference)
    environment = Environment(table.text("environment", one_of(tuple(Environment))))
    role = Role(table.text("role", one_of(tuple(Role))))
    max_ttl_s = table.text("max_ttl", _ttl)
    endpoints = table.tables("endpoints")
    if not endpoints:
        raise table.error("expected an endpoint, found none", f"add [[credentials.{name}.endpoints]]")
    expose = _expose(table, issuer, environment)
    # What an issuer wants besides is its own to read: the broker refuses what it does not know.
    parameters = table.others() if issuer != "static" else ()
    table.done()
    credential = Credential(
        name=name,
        issuer=issuer,
        secret=secret,
        environment=environment,
        role=role,
        max_ttl_s=max_ttl_s,
        endpoints=tuple(read_rule(endpoint, role, issuer) for endpoint in endpoints),
        parameters=parameters,
        expose=expose,
    )
    return credential, table, endpoints


def _expose(table: Table, issuer: str, environment: Environment) -> tuple[tuple[str, str], ...]:
    if not table.has("expose"):
        return ()
    if issuer == "static":
        raise table.error("a static secret never enters a compartment", "an issuer makes one for each task", "expose")
    if environment is Environment.PRODUCTION:
        raise table.error("nothing of production enters a compartment", "leave it out", "expose")
    variables = table.table("expose")
    found = []
    for name in variables.names():
        if not _VARIABLE.match(name):
            raise variables.error("it is not the name of a variable", "such as PGPASSWORD", name)
        found.append((name, variables.text(name, _part)))
    variables.done()
    return tuple(found)


def _grant(table: Table, name: str) -> GrantRequest:
    request = GrantRequest(
        credential=name,
        methods=table.some("methods", method) or None,
        paths=table.some("paths", path_pattern) or None,
        ttl_s=table.text_or(None, "ttl", parse_duration),
    )
    table.done()
    return request


def _check_bundle(trust: Table, path: str) -> None:
    """Refuse a CA bundle that is none: what upstreams are verified against decides who gets the credentials."""
    try:
        data = read_bytes(Path(path), bytes_max=_CA_BYTES_MAX, reachable=False)
        problem = "" if _is_bundle(data) else f"{path} holds no PEM certificates"
    except ConfigError as e:
        problem = e.message
    if problem:
        raise trust.error(problem, "name a file of PEM certificates", "upstream_ca")


@lru_cache(maxsize=_PARSED_KEPT)
def _is_bundle(data: bytes) -> bool:
    blocks = _CERTIFICATE.findall(data)
    try:
        return bool(blocks) and all(binascii.a2b_base64(block)[:1] == b"\x30" for block in blocks)
    except binascii.Error:
        return False


def _issuer(value: str) -> str:
    if value in ISSUERS:
        return value
    from importlib.metadata import entry_points  # only for what does not come with Leasehold

    return one_of((*ISSUERS, *entry_points(group="leasehold.issuers").names))(value)


def _reference(value: str) -> str:
    parse_reference(value)
    return value


def _ttl(value: str) -> int:
    seconds = parse_duration(value)
    if seconds > LIMITS.local_ttl_s_max:
        raise Wrong(
            f"expected at most {LIMITS.local_ttl_s_max} s, found {value}", "no class of agent gets it for longer"
        )
    return seconds


def _address(value: str) -> str:
    return _parsed(ipaddress.ip_address, value, "an IPv4 or IPv6 address")


def _private_network(value: str) -> str:
    found = ipaddress.ip_network(
        _parsed(ipaddress.ip_network, value, "a network such as 10.1.2.0/24, without host bits")
    )
    if found.prefixlen < _PREFIX_MIN[found.version]:
        raise Wrong(f"{found} is wider than any private network", "name the networks that are meant")
    if found.prefixlen >= found.max_prefixlen - 8 and all(is_public_address(str(found[at])) for at in (0, -1)):
        raise Wrong(f"{found} is public and needs no permission", "leave it out")
    return str(found)


def _parsed(reader: Callable[[str], object], value: str, expected: str) -> str:
    with suppress(ValueError):
        return str(reader(value))
    raise Wrong(f"expected {expected}, found {value!a}")


def _absolute(value: str) -> str:
    if not value.startswith("/"):
        raise Wrong(f"expected an absolute path, found {value!a}")
    return value


def _folder(value: str) -> str:
    """An absolute folder; ``~/`` stands for the home of who runs the broker."""
    path = str(Path(value).expanduser()) if value.startswith("~/") else value
    if not path.startswith("/") or os.path.normpath(path) != path or path == "/":
        raise Wrong(
            f"expected the absolute path of a folder, found {value!a}", "without .. and without a slash at its end"
        )
    return path


def _part(value: str) -> str:
    if not re.fullmatch(r"(?:file:)?[a-z][a-z0-9_]*", value):
        raise Wrong(
            f"expected a part such as username, password, token or file:token, found {value!a}",
            "the issuer's page says",
        )
    return value


def _variable(value: str) -> str:
    if not _VARIABLE.match(value):
        raise Wrong(f"{value!a} is not the name of a variable", "name one exactly")
    return value


def _workspace_pattern(value: str) -> str:
    if not value or value.startswith("/") or ".." in value.split("/") or not value.isprintable():
        raise Wrong(f"expected a path below the workspace, found {value!a}", "such as deploy/keys or *.secret")
    return value
