"""The strict reader of the operator's ``config.toml`` and a project's ``leasehold.toml`` (TOML 1.0)."""

from __future__ import annotations

import ipaddress
import os
import re
import stat
import tomllib
from collections.abc import Callable, Iterable, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from leasehold.core.durations import parse_duration
from leasehold.core.errors import ConfigError, GrantRefused
from leasehold.core.limits import LIMITS
from leasehold.core.model import (
    DEFAULT_METHODS,
    Credential,
    Environment,
    GitRule,
    GrantRequest,
    Inject,
    InjectBasic,
    InjectHeader,
    InjectQuery,
    Network,
    OperatorConfig,
    ProjectConfig,
    Role,
    Rule,
    SandboxSettings,
)
from leasehold.core.names import canonical_host
from leasehold.core.paths import check_pattern, within

ISSUERS = ("static",)
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+\Z")
_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,62}\Z")
_REFERENCE = re.compile(r"(vault|env|file|command):.+\Z", re.DOTALL)


class _Place:
    """A table, its path in words, and the file's lines: for errors that name file, line and key."""

    def __init__(self, file: Path, text: str, table: Any, path: tuple[str, ...] = ()) -> None:
        self.file, self.text, self.path = file, text, path
        if not isinstance(table, dict):
            raise self.error("expected a table", "see docs/configuration.md")
        self.table = table
        self.seen: set[str] = set()

    def error(self, message: str, hint: str, key: str = "") -> ConfigError:
        where = ".".join((*self.path, key) if key else self.path) or "the file"
        line = _line(self.text, self.path, key)
        return ConfigError(f"{self.file}:{line}: {where}: {message}", hint=hint)

    def take(
        self, key: str, kind: type | tuple[type, ...], default: Any = ..., check: Callable[[Any], Any] | None = None
    ) -> Any:
        self.seen.add(key)
        if key not in self.table:
            if default is ...:
                raise self.error(f"the key {key} is missing", f"add {key}")
            return default
        value = self.table[key]
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is int):
            raise self.error(f"expected {_kind(kind)}, found {type(value).__name__}", "see docs/configuration.md", key)
        if check is None:
            return value
        try:
            return check(value)
        except ValueError as e:
            reason = str(e)
        raise self.error(reason, "see docs/configuration.md", key)

    def texts(self, key: str, check: Callable[[str], str] = str) -> tuple[str, ...]:
        def each(values: list[Any]) -> tuple[str, ...]:
            if not all(isinstance(value, str) for value in values):
                raise ValueError("expected a list of texts")
            found = tuple(check(value) for value in values)
            if len(set(found)) != len(found):
                raise ValueError("an entry stands there twice")
            return found

        found: tuple[str, ...] = self.take(key, list, (), each)
        if key in self.table and not found and key in ("methods", "paths"):
            raise self.error("an empty list allows nothing", f"leave {key} out, or name what is meant", key)
        return found

    def sub(self, key: str, default: Any = ...) -> _Place:
        return _Place(self.file, self.text, self.take(key, dict, default), (*self.path, key))

    def done(self) -> None:
        for key in self.table:
            if key not in self.seen:
                near = get_close_matches(key, self.seen, 1)
                raise self.error(
                    "unknown key",
                    f"did you mean {near[0]}?" if near else f"known here: {', '.join(sorted(self.seen))}",
                    key,
                )


def read_operator(path: Path) -> OperatorConfig:
    """Read and check the operator's file; ``ConfigError`` names file, line and key."""
    root = _read(path)
    trust = root.sub("trust")
    domain = trust.take("domain", str, check=canonical_host)
    upstream_ca = trust.take("upstream_ca", str, "/etc/ssl/certs/ca-certificates.crt", _pem)
    trust.done()
    net = root.sub("network", {})
    network = Network(
        resolve=net.take("resolve", dict, (), _resolve),
        allow_private=net.texts("allow_private", _network),
        upstream_ca=upstream_ca,
    )
    net.done()
    hosts_table = root.sub("hosts", {})
    allow = hosts_table.take("allow", list, [])
    hosts = tuple(_rule(_Place(path, root.text, item, ("hosts", "allow")), None) for item in allow)
    hosts_table.done()
    sandbox_table = root.sub("sandbox", {})
    sandbox = SandboxSettings(
        hide=sandbox_table.texts("hide"),
        read_only=sandbox_table.texts("read_only"),
        tools=sandbox_table.texts("tools"),
        env=sandbox_table.texts("env"),
    )
    sandbox_table.done()
    credentials_table = root.sub("credentials", {})
    credentials = []
    for name in credentials_table.table:
        if not _NAME.match(name):
            raise credentials_table.error("a name is lower-case letters, digits and -", "rename it", name)
        credentials.append(_credential(credentials_table.sub(name), name))
    root.done()
    _overlaps(root, credentials)
    return OperatorConfig(
        path=str(path),
        trust_domain=domain,
        network=network,
        hosts=hosts,
        credentials=tuple(credentials),
        sandbox=sandbox,
    )


def read_project(path: Path) -> ProjectConfig:
    """Read and check a project's file. It lies in the agent's reach: it is never followed out of its folder."""
    root = _read(path, follow=False)
    grants_table = root.sub("grants", {})
    grants = []
    for name in grants_table.table:
        grant = grants_table.sub(name)
        grants.append(
            GrantRequest(
                credential=name,
                methods=grant.texts("methods", _method) or None,
                paths=grant.texts("paths", check_pattern) or None,
                ttl_s=grant.take("ttl", str, None, parse_duration),
            )
        )
        grant.done()
    sandbox = root.sub("sandbox", {})
    hide, read_only = sandbox.texts("hide"), sandbox.texts("read_only")
    sandbox.done()
    root.done()
    return ProjectConfig(path=str(path), grants=tuple(grants), hide=hide, read_only=read_only)


def narrow(
    operator: OperatorConfig, project: ProjectConfig | None, asked: Sequence[str] | None
) -> tuple[Credential, ...]:
    """Operator's credentials ∩ project's grants ∩ the command line's: never more than any of them."""
    by_name = {c.name: c for c in operator.credentials}
    requests = {g.credential: g for g in project.grants} if project else {}
    for name in (*requests, *(asked or ())):
        if name not in by_name:
            near = get_close_matches(name, by_name, 1)
            raise GrantRefused(
                f"there is no credential {name!a}",
                hint=f"did you mean {near[0]}?" if near else "see `leasehold credential list`",
            )
    if project and asked:
        for name in asked:
            if name not in requests:
                raise GrantRefused(f"{project.path} does not ask for {name}", hint=f"add [grants.{name}] to it")
    chosen = [n for n in by_name if (project is None or n in requests) and (asked is None or n in asked)]
    return tuple(_narrowed(by_name[n], requests.get(n)) for n in chosen)


def _narrowed(credential: Credential, request: GrantRequest | None) -> Credential:
    if request is None:
        return credential
    endpoints = tuple(r for rule in credential.endpoints if (r := _narrow_rule(rule, request)) is not None)
    if not endpoints:
        raise GrantRefused(f"[grants.{credential.name}] leaves nothing of it", hint="widen its methods or paths")
    ttl = min(credential.max_ttl_s, request.ttl_s or credential.max_ttl_s)
    return Credential(
        name=credential.name,
        issuer=credential.issuer,
        secret=credential.secret,
        environment=credential.environment,
        role=credential.role,
        max_ttl_s=ttl,
        endpoints=endpoints,
    )


def _narrow_rule(rule: Rule, request: GrantRequest) -> Rule | None:
    if rule.git is not None:
        return rule if request.methods is None and request.paths is None else None
    methods = rule.methods
    if request.methods is not None:
        methods = tuple(m for m in request.methods if m in (rule.methods or DEFAULT_METHODS))
        if not methods:
            return None
    paths = rule.paths
    if request.paths is not None:
        paths = tuple(
            p for p in request.paths if not rule.paths or any(within(p, wide) for wide in rule.paths)
        ) + tuple(w for w in rule.paths if any(within(w, p) and w != p for p in request.paths))
        if not paths:
            return None
    return Rule(
        host=rule.host,
        port=rule.port,
        scheme=rule.scheme,
        methods=methods,
        paths=tuple(dict.fromkeys(paths)),
        git=None,
        websocket=rule.websocket,
        inject=rule.inject,
    )


def _credential(place: _Place, name: str) -> Credential:
    issuer = place.take("issuer", str, check=_one_of(ISSUERS, "issuer"))
    secret = place.take("secret", str, check=_reference)
    environment = place.take("environment", str, check=Environment)
    role = place.take("role", str, check=Role)
    ttl = place.take("max_ttl", str, check=parse_duration)
    if ttl > LIMITS.local_ttl_s_max:
        raise place.error(f"at most {LIMITS.local_ttl_s_max} s", "give a shorter max_ttl", "max_ttl")
    items = place.take("endpoints", list)
    if not items:
        raise place.error("a credential needs an endpoint", "add [[credentials.NAME.endpoints]]", "endpoints")
    endpoints = tuple(_rule(_Place(place.file, place.text, item, (*place.path, "endpoints")), role) for item in items)
    place.done()
    return Credential(
        name=name, issuer=issuer, secret=secret, environment=environment, role=role, max_ttl_s=ttl, endpoints=endpoints
    )


def _rule(place: _Place, role: Role | None) -> Rule:
    host = place.take("host", str, check=canonical_host)
    scheme = place.take("scheme", str, "https", _one_of(("https", "http"), "scheme"))
    port = place.take("port", int, 443 if scheme == "https" else 80, _port)
    place.take("protocol", str, "http", _one_of(("http",), "protocol"))
    methods = place.texts("methods", _method)
    paths = place.texts("paths", check_pattern)
    websocket = place.take("websocket", bool, False)
    git = _git(place.sub("git")) if "git" in place.table else None
    place.seen |= {"git"}
    inject: Inject | None = None
    if role is not None:
        inject = _inject(place.sub("inject"))
        if scheme != "https":
            raise place.error("a credential is never sent without TLS", 'use scheme = "https"', "scheme")
        if role is Role.FETCH and git is None and set(methods or DEFAULT_METHODS) - {"GET", "HEAD"}:
            raise place.error("the fetch role reads only", 'add methods = ["GET", "HEAD"]')
    place.done()
    if git is not None and (methods or paths or websocket):
        raise place.error("git says the methods and paths itself", "leave methods, paths and websocket out", "git")
    if websocket and methods not in ((), ("GET",)):
        raise place.error("a WebSocket begins with GET", "leave methods out", "methods")
    return Rule(
        host=host, port=port, scheme=scheme, methods=methods, paths=paths, git=git, websocket=websocket, inject=inject
    )


def _inject(place: _Place) -> Inject:
    kinds = [k for k in ("header", "basic", "query") if k in place.table]
    if len(kinds) != 1:
        raise place.error("exactly one of header, basic, query", "see docs/configuration.md")
    if kinds[0] == "header":
        inject: Inject = InjectHeader(
            name=place.take("header", str, check=_token), format=place.take("format", str, "{secret}", _format)
        )
    elif kinds[0] == "basic":
        basic = place.sub("basic")
        inject = InjectBasic(username=basic.take("username", str, check=_username))
        basic.done()
    else:
        inject = InjectQuery(name=place.take("query", str, check=_token))
    place.done()
    return inject


def _git(place: _Place) -> GitRule:
    repository = place.take("repository", str, check=lambda v: check_pattern("/" + v)[1:])
    if "*" in repository:
        raise place.error("a repository is named exactly", "write owner/name", "repository")
    access = place.take("access", str, check=_one_of(("read", "write"), "access"))
    place.done()
    return GitRule(repository=repository, access=access)


def _overlaps(root: _Place, credentials: Sequence[Credential]) -> None:
    """Two credentials where one request could match both: injection is never guessed."""
    rules = [(c.name, rule) for c in credentials for rule in c.endpoints]
    for i, (name, rule) in enumerate(rules):
        for other, later in rules[:i]:
            if name != other and (rule.host, rule.port) == (later.host, later.port) and _meet(rule, later):
                raise root.error(
                    f"credentials {other} and {name} both apply at {rule.host}:{rule.port}", "make their paths differ"
                )


def _meet(a: Rule, b: Rule) -> bool:
    if a.git is not None and b.git is not None:
        return a.git.repository == b.git.repository
    if not set(a.methods or DEFAULT_METHODS) & set(b.methods or DEFAULT_METHODS):
        return False
    return not a.paths or not b.paths or any(within(x, y) or within(y, x) for x in a.paths for y in b.paths)


def _read(path: Path, *, follow: bool = True) -> _Place:
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | (0 if follow else os.O_NOFOLLOW)
    try:
        fd = os.open(path, flags)
    except OSError as e:
        reason = e.strerror
    else:
        with os.fdopen(fd, "rb") as file:
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                raise ConfigError(f"{path} is no ordinary file", hint="write the configuration there")
            data = file.read(LIMITS.config_bytes_max + 1)
        return _parse(path, data)
    raise ConfigError(f"{path} cannot be read: {reason}", hint="`leasehold init` writes a first one")


def _parse(path: Path, data: bytes) -> _Place:
    if len(data) > LIMITS.config_bytes_max:
        raise ConfigError(f"{path} is larger than {LIMITS.config_bytes_max} bytes", hint="shorten it")
    try:
        text = data.decode()
        table = tomllib.loads(text)
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as e:
        reason = str(e)
    else:
        return _Place(path, text, table)
    raise ConfigError(f"{path}: {reason}", hint="the file must be TOML 1.0 in UTF-8")


def _line(text: str, path: tuple[str, ...], key: str) -> int:
    """The line of a key as well as a line can be found without a parser that keeps lines: the last word of its path
    below its table's header."""
    wanted = [*path, key] if key else list(path)
    at = 1
    header = re.compile(r"\s*\[\[?\s*" + r"\s*\.\s*".join(map(re.escape, path)) + r"\s*\]")
    lines = text.splitlines()
    for number, line in enumerate(lines, 1):
        if path and header.match(line):
            at = number
    if wanted and key:
        for number, line in enumerate(lines[at - 1 :], at):
            if re.match(rf"\s*\"?{re.escape(key)}\"?\s*[=.]|.*[{{,]\s*\"?{re.escape(key)}\"?\s*=", line):
                return number
    return at


def _kind(kind: type | tuple[type, ...]) -> str:
    names = {str: "a text", int: "a number", list: "a list", dict: "a table", bool: "true or false"}
    return names[kind] if isinstance(kind, type) else " or ".join(names[k] for k in kind)


def _one_of(values: Iterable[str], what: str) -> Callable[[str], str]:
    known = tuple(values)

    def check(value: str) -> str:
        if value not in known:
            raise ValueError(f"{what} {value!a} is not one of {', '.join(known)}")
        return value

    return check


def _method(value: str) -> str:
    return _one_of(DEFAULT_METHODS, "method")(value.upper())


def _port(value: int) -> int:
    if not 0 < value < 65536 or value in (53, 3128):
        raise ValueError(f"port {value} is none that can be used (53 and 3128 are taken)")
    return value


def _token(value: str) -> str:
    if not _TOKEN.match(value):
        raise ValueError(f"{value!a} is no token (RFC 9110)")
    return value


def _format(value: str) -> str:
    if value.count("{secret}") != 1 or re.search(r"[^\x20-\x7e]", value):
        raise ValueError("a format has {secret} exactly once and printable ASCII around it")
    return value


def _username(value: str) -> str:
    if ":" in value or re.search(r"[^\x20-\x7e]", value):
        raise ValueError("a user name has no colon (RFC 7617)")
    return value


def _reference(value: str) -> str:
    if not _REFERENCE.match(value):
        raise ValueError("a secret is a reference: vault:NAME, env:NAME, file:PATH or command:PROGRAM …")
    return value


def _network(value: str) -> str:
    return str(ipaddress.ip_network(value))


def _resolve(values: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    return tuple((canonical_host(name), str(ipaddress.ip_address(value))) for name, value in values.items())


def _pem(value: str) -> str:
    try:
        text = Path(value).read_text(encoding="ascii")
    except (OSError, UnicodeDecodeError):
        text = ""
    if "-----BEGIN CERTIFICATE-----" not in text:
        raise ValueError(f"{value} is no readable file of PEM certificates")
    return value
