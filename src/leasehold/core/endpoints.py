"""One rule of a configuration file: a host, what may be asked of it, and how its credential is delivered."""

from __future__ import annotations

import binascii
import re
from collections.abc import Callable, Sequence

from leasehold.core.model import (
    DEFAULT_METHODS,
    STREAM_PORTS,
    GitRule,
    Inject,
    InjectAws,
    InjectBasic,
    InjectHeader,
    InjectQuery,
    Role,
    Rule,
)
from leasehold.core.names import canonical_host
from leasehold.core.paths import check_pattern
from leasehold.core.toml import Table, Wrong

METHODS = (
    *DEFAULT_METHODS, "PROPFIND", "PROPPATCH", "MKCOL", "COPY", "MOVE", "LOCK", "UNLOCK", "REPORT", "SEARCH", "QUERY",
)  # fmt: skip
"""What can be named: RFC 9110 without CONNECT and TRACE, RFC 5789, WebDAV (RFC 4918, 3253, 5323), QUERY."""
FETCH_METHODS = ("GET", "HEAD")
PROTOCOLS = ("http", *STREAM_PORTS)
ISSUERS = (
    "static", "postgres", "mysql", "redis", "rabbitmq", "ssh-ca", "aws-sts", "oidc", "oauth2", "github-app",
    "kubernetes", "vault",
)  # fmt: skip
"""Those that come with Leasehold; others come with packages, and may make accounts of any kind."""
SCHEMES = ("https", "http")
_HOST_KEYS = ("ssh-ed25519", "ecdsa-sha2-nistp256", "ecdsa-sha2-nistp384", "ecdsa-sha2-nistp521", "ssh-rsa")
RESERVED_PORTS = {53: "names are answered there", 3128: "the explicit proxy is there"}
# They frame or route the message, choose its encoding, or are the proxy's own.
_NOT_INJECTED = re.compile(
    r"host|connection|content-(?:length|encoding|type)|transfer-encoding|te|trailer|upgrade|expect|keep-alive"
    r"|accept-encoding|proxy-.*|x-envoy-.*|x-leasehold-.*|x-http-method(?:-override)?|x-method-override"
    r"|x-original-url|x-rewrite-url"
)
_TOKEN = re.compile(r"[!#$%&'*+.^`|~0-9A-Za-z-]+\Z")
_PARAMETER = re.compile(r"[A-Za-z0-9._~-]+\Z")
_UNPRINTABLE = re.compile(r"[^\x20-\x7e]")
_NEEDLESSLY_ENCODED = re.compile(r"%(?:2[dDeE]|3\d|[46][1-9a-fA-F]|[57][\daA]|5[fF]|7[eE])")


def read_rule(table: Table, role: Role | None, issuer: str = "") -> Rule:
    """The rule of an endpoint whose credential has ``role`` and comes from ``issuer``.

    ``None``: a host without a credential.
    """
    host = table.text("host", host_name)
    protocol = table.text_or("http", "protocol", one_of(PROTOCOLS, "this version speaks no other"))
    if protocol != "http":
        return _stream(table, host, protocol, issuer)
    if issuer == "ssh-ca":
        raise table.error("a certificate of the issuer ssh-ca is of no use in HTTP", 'write protocol = "ssh"')
    scheme = table.text_or("https", "scheme", one_of(SCHEMES))
    if role is not None and scheme != "https":
        raise table.error("a credential is never sent without TLS", 'leave scheme out, or write "https"', "scheme")
    port = table.number("port", _port, 443 if scheme == "https" else 80)
    git = _git(table, role)
    websocket = _websocket(table, role)
    methods = _methods(table, role, websocket=websocket, git=git is not None)
    paths = table.some("paths", path_pattern)
    if git is not None and (paths or methods or websocket):
        raise table.error("git itself says which methods and paths there are", "leave them and websocket out", "git")
    inject = None
    if role is not None:
        inject = _inject(table, issuer)
    elif table.has("inject"):
        raise table.error("a host without a credential has nothing to inject", "define a credential", "inject")
    table.done()
    return Rule(
        host=host, port=port, scheme=scheme, methods=methods, paths=paths, git=git, websocket=websocket, inject=inject
    )


def _stream(table: Table, host: str, protocol: str, issuer: str) -> Rule:
    """A host of another protocol: what may be done there is what the credential's issuer grants."""
    fitting = {"ssh": ("ssh-ca",)}.get(protocol, (protocol, "vault"))
    if not issuer or (issuer in ISSUERS and issuer not in fitting):
        raise table.error(
            f"{protocol} is for a credential of the issuer {fitting[0]}",
            f'issuer = "{fitting[0]}" makes one for each task',
            "protocol",
        )
    port = table.number("port", _port, STREAM_PORTS[protocol])
    host_keys = table.some("host_keys", _host_key) if protocol == "ssh" else ()
    if protocol == "ssh" and not host_keys:
        raise table.error(
            "the key host_keys is missing", f"ssh-keyscan {host} shows them; compare them with the host's"
        )
    table.done()
    return Rule(host=host, port=port, scheme=protocol, host_keys=host_keys)


def _host_key(value: str) -> str:
    kind, _, rest = value.partition(" ")
    try:
        blob = binascii.a2b_base64(rest.partition(" ")[0], strict_mode=True)
    except binascii.Error:
        blob = b""
    if kind not in _HOST_KEYS or blob[4 : 4 + len(kind)] != kind.encode() or blob[:4] != len(kind).to_bytes(4, "big"):
        raise Wrong(
            "expected a host key such as ssh-ed25519 AAAA…, found something else", f"of {', '.join(_HOST_KEYS)}"
        )
    return f"{kind} {binascii.b2a_base64(blob, newline=False).decode()}"


def host_name(value: str) -> str:
    """The canonical name. What is no name is not repeated: URLs have been seen with a password in them."""
    if re.search(r"[/@:\\]", value):
        raise Wrong("expected a name without scheme, user, port and path", "give the port as port = 8443")
    return canonical_host(value)


def method(value: str) -> str:
    if value in ("CONNECT", "TRACE"):
        raise Wrong(f"{value} is never allowed", "TRACE echoes what was injected, CONNECT hides what is asked")
    return one_of(METHODS)(value)


def path_pattern(value: str) -> str:
    """A pattern of :mod:`leasehold.core.paths` that a canonical path can match."""
    check_pattern(value)
    needless = _NEEDLESSLY_ENCODED.search(value)
    if needless:
        plain = chr(int(needless[0][1:], 16))
        raise Wrong(f"no canonical path has {needless[0]}, so nothing matches", f"write {plain} instead")
    return value


def one_of(known: Sequence[str], why: str = "") -> Callable[[str], str]:
    """A check for one of these words. ``why`` follows in the hint."""

    def check(value: str) -> str:
        if value not in known:
            listed = f"it is one of {', '.join(known)}" + (f"; {why}" if why else "")
            nearly = value.upper() if value.upper() in known else value.lower() if value.lower() in known else ""
            raise Wrong(
                f"expected one of {', '.join(known)}, found {value!a}", f"did you mean {nearly}?" if nearly else listed
            )
        return value

    return check


def _port(value: int) -> int:
    if not 0 < value < 65536:
        raise Wrong(f"expected a port from 1 to 65535, found {value}")
    if value in RESERVED_PORTS:
        raise Wrong(f"port {value} is taken in a compartment: {RESERVED_PORTS[value]}", "no upstream can be there")
    return value


def _methods(table: Table, role: Role | None, *, websocket: bool, git: bool) -> tuple[str, ...]:
    found = table.some("methods", method)
    if websocket and found not in ((), ("GET",)):
        raise table.error("a WebSocket begins with GET, and nothing else", "leave methods out", "methods")
    if role is not Role.FETCH or git:
        return found
    for at, name in enumerate(found):
        if name not in FETCH_METHODS:
            raise table.error(
                f"the fetch role only reads: expected GET or HEAD, found {name}", "use another role", "methods", at
            )
    return found or FETCH_METHODS


def _websocket(table: Table, role: Role | None) -> bool:
    websocket = table.flag("websocket")
    if websocket and role is Role.FETCH:
        raise table.error("the fetch role only reads, and a WebSocket also writes", "use another role", "websocket")
    return websocket


def _git(endpoint: Table, role: Role | None) -> GitRule | None:
    if not endpoint.has("git"):
        return None
    table = endpoint.table("git")
    repository = table.text("repository", _repository)
    access = table.text("access", one_of(("read", "write")))
    if access == "write" and role is Role.FETCH:
        raise table.error("the fetch role only reads", 'use another role, or access = "read"', "access")
    table.done()
    return GitRule(repository=repository, access=access)


def _repository(value: str) -> str:
    path_pattern(f"/{value}")
    name = value.removesuffix(".git")
    if "*" in name or not name or name.endswith("/"):
        raise Wrong(f"expected the exact path of a repository, found {value!a}", "write it like owner/name")
    return name


def _inject(endpoint: Table, issuer: str) -> Inject:
    if not endpoint.has("inject"):
        raise endpoint.error("the key inject is missing", 'such as inject = { header = "Authorization", format = … }')
    table = endpoint.table("inject")
    ways = [way for way in ("header", "basic", "query", "aws") if table.has(way)]
    if len(ways) != 1:
        raise table.error(f"expected one of header, basic, query and aws, found {len(ways)}", "say how it is delivered")
    if (ways == ["aws"]) != (issuer == "aws-sts"):
        raise table.error(
            "aws signs with a session of the issuer aws-sts, and with nothing else", "use both or none", ways[0]
        )
    if ways == ["header"]:
        inject: Inject = InjectHeader(
            name=table.text("header", _header_name), format=table.text_or("{secret}", "format", _format)
        )
    elif ways == ["basic"]:
        basic = table.table("basic")
        inject = InjectBasic(username=basic.text("username", _username))
        basic.done()
    elif ways == ["aws"]:
        aws = table.table("aws")
        inject = InjectAws(service=aws.text("service", _aws_name), region=aws.text("region", _aws_name))
        aws.done()
    else:
        inject = InjectQuery(name=table.text("query", _parameter))
    table.done()
    return inject


def _aws_name(value: str) -> str:
    if not re.fullmatch(r"[a-z0-9][a-z0-9-]{0,62}", value):
        raise Wrong(
            f"expected a name such as s3 or eu-central-1, found {value!a}", "as they stand in the scope of a signature"
        )
    return value


def _token(value: str) -> str:
    if not _TOKEN.match(value):
        raise Wrong("expected a token (RFC 9110, without _), found something else", "give the name alone")
    return value


def _parameter(value: str) -> str:
    if not _PARAMETER.match(value):
        raise Wrong("expected the name of a query parameter, found something else", "letters, digits, - . _ and ~")
    return value


def _header_name(value: str) -> str:
    if "_" in value and _TOKEN.match(value.replace("_", "-")):
        raise Wrong(f"header {value} has an underscore", "servers confuse it with -, and agents may not send it either")
    if _NOT_INJECTED.fullmatch(_token(value).lower()):
        raise Wrong(f"header {value} frames or routes a request and cannot carry a credential", "use another header")
    return value


def _format(value: str) -> str:
    if value.count("{secret}") != 1:
        raise Wrong(f"expected {{secret}} exactly once, found it {value.count('{secret}')} times")
    if _UNPRINTABLE.search(value) or value != value.strip():
        raise Wrong("expected printable ASCII without blanks at the ends, found something else")
    return value


def _username(value: str) -> str:
    if ":" in value or _UNPRINTABLE.search(value):
        raise Wrong(
            "expected printable ASCII without a colon (RFC 7617)", "the password is the secret, not a part of it"
        )
    return value
