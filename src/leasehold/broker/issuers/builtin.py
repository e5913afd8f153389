"""The issuers that come with Leasehold, in one list; each is made from its parameters and an administrative secret.

What is not in the list may come with another package: see :mod:`leasehold.broker.issuers.plugins`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import PurePosixPath
from urllib.parse import unquote, urlsplit

from leasehold.broker.issuers import plugins
from leasehold.broker.issuers.checked import CheckedIssuer
from leasehold.broker.issuers.ports import Issuer
from leasehold.core.endpoints import ISSUERS
from leasehold.core.errors import ConfigError
from leasehold.core.secret import Secret
from leasehold.core.text import printable
from leasehold.core.toml import Table, Wrong

SYSTEM_CA = "/etc/ssl/certs/ca-certificates.crt"


class Parameters(Table):
    """The parameters of one issuer, read as strictly as a file; an error names the issuer and the key."""

    def __init__(self, kind: str, values: Mapping[str, object]) -> None:
        super().__init__("", {}, (), dict(values))
        self._kind = kind

    def error(self, message: str, hint: str, *keys: str | int) -> ConfigError:
        """See :meth:`Table.error`; there is no file and no line."""
        at = "".join(f"[{key + 1}]" if isinstance(key, int) else f": {key}" for key in keys)
        return ConfigError(printable(f"issuer({self._kind}){at}: {message}"), hint=printable(hint))


Factory = Callable[[Parameters, Secret], Issuer]


def make(kind: str, parameters: Mapping[str, object], secret: Secret) -> CheckedIssuer:
    """The issuer of a credential; asks nobody. ``ConfigError`` names the parameter that is wrong or unknown.

    ``secret``: the administrative one; an empty one will do to check parameters.
    """
    factory = BUILTIN.get(kind) or plugins.find(kind, {*BUILTIN, *ISSUERS})
    if factory is None:
        raise ConfigError(printable(f"there is no issuer {kind}"), hint=f"there are: {', '.join(BUILTIN)}")
    table = Parameters(kind, parameters)
    try:
        issuer = factory(table, secret)
    except ModuleNotFoundError as e:
        missing = str(e.name)
    else:
        table.done()
        return CheckedIssuer(issuer)
    raise table.error(f"the package {missing} is not installed", f"pip install {missing.partition('.')[0]}")


def _postgres(parameters: Parameters, secret: Secret) -> Issuer:
    # Here, because the driver takes long to load, and a broker may have no use for it.
    from leasehold.broker.issuers import postgres, postgres_grants

    host, port, user, database = parameters.text("server", lambda text: _url(text, ("postgresql", "postgres"), 5432))
    allowed = _grants(parameters, lambda text: str(postgres_grants.parse(text)))
    return postgres.PostgresIssuer(
        postgres.Server(
            host=host, port=port, user=user, database=database, ca=parameters.text_or(SYSTEM_CA, "ca", _file)
        ),
        secret,
        allowed=[postgres_grants.parse(text) for text in allowed],
        connections=parameters.number("connections", _connections, 10),
        reassign_to=parameters.text_or("", "reassign_to", postgres_grants.role),
    )


def _mysql(parameters: Parameters, secret: Secret) -> Issuer:
    from leasehold.broker.issuers import mysql, mysql_grants

    host, port, user, _ = parameters.text("server", lambda text: _url(text, ("mysql", "mariadb"), 3306, database=False))
    return mysql.MysqlIssuer(
        mysql.Server(host=host, port=port, user=user, ca=parameters.text_or(SYSTEM_CA, "ca", _file)),
        secret,
        allowed=[mysql_grants.parse(text) for text in _grants(parameters, lambda text: str(mysql_grants.parse(text)))],
        connections=parameters.number("connections", _connections, 10),
        client_host=parameters.text_or("%", "client_host", _client_host),
    )


def _redis(parameters: Parameters, secret: Secret) -> Issuer:
    from leasehold.broker.issuers import redis, redis_grants

    host, port, user, _ = parameters.text("server", lambda text: _url(text, ("rediss",), 6379, database=False))
    return redis.RedisIssuer(
        redis.Server(host=host, port=port, user=user, ca=parameters.text_or(SYSTEM_CA, "ca", _file)),
        secret,
        allowed=[redis_grants.parse(text) for text in _grants(parameters, lambda text: str(redis_grants.parse(text)))],
    )


def _rabbitmq(parameters: Parameters, secret: Secret) -> Issuer:
    from leasehold.broker.issuers import rabbitmq, rabbitmq_grants
    from leasehold.broker.issuers.rest import Rest

    host, port, user, _ = parameters.text("server", lambda text: _url(text, ("https",), 15671, database=False))
    allowed = _grants(parameters, lambda text: str(rabbitmq_grants.parse(text)))
    return rabbitmq.RabbitmqIssuer(
        Rest(f"https://{host}:{port}", parameters.text_or(SYSTEM_CA, "ca", _file), rabbitmq.HEADERS),
        user,
        secret,
        allowed=[rabbitmq_grants.parse(text) for text in allowed],
        connections=parameters.number("connections", _connections, 10),
    )


def _github_app(parameters: Parameters, secret: Secret) -> Issuer:
    from leasehold.broker.issuers import github_app
    from leasehold.broker.issuers.rest import Rest

    server = parameters.text_or("https://api.github.com", "server", lambda text: _https(text, ("", "/api/v3")))
    if not parameters.has("installation"):
        raise parameters.error("the key installation is missing", "its settings at GitHub end with its number")
    allowed = [github_app.parse(text) for text in _grants(parameters, lambda text: str(github_app.parse(text)))]
    try:
        github_app.rectangle(allowed)
        return github_app.GithubAppIssuer(
            Rest(server, parameters.text_or(SYSTEM_CA, "ca", _file), github_app.HEADERS),
            secret,
            client=parameters.text("client_id", _client_id),
            installation=parameters.number("installation", _positive, 0),
            allowed=allowed,
        )
    except Wrong as e:
        problem, hint = str(e), e.hint
    raise parameters.error(problem, hint, "grants")


def _vault(parameters: Parameters, secret: Secret) -> Issuer:
    from leasehold.broker.issuers import vault

    pairs = parameters.some("fields", _field) or ("username=username", "password=password")
    fields = dict(pair.split("=") for pair in pairs)
    if len(fields) < len(pairs):
        raise parameters.error("the same stands there twice", "leave one out", "fields")
    return vault.VaultIssuer(
        vault.Api(
            parameters.text("server", _https),
            parameters.text_or(SYSTEM_CA, "ca", _file),
            parameters.text_or("", "namespace", _namespace),
            secret,
        ),
        path=parameters.text("path", _vault_path),
        role=parameters.text_or("leasehold", "token_role", _word),
        fields=fields,
    )


def _kubernetes(parameters: Parameters, secret: Secret) -> Issuer:
    from leasehold.broker.issuers import kubernetes
    from leasehold.broker.issuers.rest import Rest

    if not parameters.has("audiences"):
        raise parameters.error("the key audiences is missing", "name who is to take the tokens")
    return kubernetes.KubernetesIssuer(
        Rest(parameters.text("server", _https), parameters.text_or(SYSTEM_CA, "ca", _file)),
        secret,
        kubernetes.Account(
            namespace=parameters.text("namespace", _dns_label), name=parameters.text("service_account", _dns_label)
        ),
        audiences=parameters.some("audiences", _audience),
    )


def _ssh_ca(parameters: Parameters, secret: Secret) -> Issuer:
    from leasehold.broker.issuers import ssh_ca

    return ssh_ca.SshCaIssuer(
        secret,
        _grants(parameters, ssh_ca.grant),
        command=parameters.text_or("", "command", ssh_ca.command),
        sources=parameters.texts("sources", ssh_ca.source),
        krl=parameters.text_or("", "krl", _file),
    )


def _aws_sts(parameters: Parameters, secret: Secret) -> Issuer:
    from leasehold.broker.issuers import aws_sts

    region = parameters.text("region", aws_sts.region)
    where = aws_sts.partition(region)
    cut = parameters.flag("cut")
    for key in ("server", "iam_server") if cut else ("server",):
        if where is None and not parameters.has(key):
            raise parameters.error(f"the key {key} is missing", f"region {region} is in no public partition of AWS")
    iam = parameters.text_or(where.iam if where else "", "iam_server", _https) if cut else ""
    account = aws_sts.Account(
        server=parameters.text_or(f"https://sts.{region}.{where.suffix}" if where else "", "server", _https),
        region=region,
        role=parameters.text("assume", lambda text: aws_sts.role(text, region)),
        ca=parameters.text_or(SYSTEM_CA, "ca", _file),
        iam=iam,
    )
    return aws_sts.AwsStsIssuer(account, secret, _grants(parameters, aws_sts.grant))


def _oauth2(parameters: Parameters, secret: Secret) -> Issuer:
    from leasehold.broker.issuers import oauth2
    from leasehold.broker.issuers.rest import Rest

    if not parameters.has("scopes"):
        raise parameters.error("the key scopes is missing", "without one, a server gives what it likes")
    about = {"audience": oauth2.audience, "resource": oauth2.resource}
    server = oauth2.Server(
        token_url=parameters.text("token_url", oauth2.endpoint),
        revoke_url=parameters.text_or("", "revoke_url", oauth2.endpoint),
        introspect_url=parameters.text_or("", "introspect_url", oauth2.endpoint),
        client_id=parameters.text("client_id", oauth2.client),
        auth=parameters.text_or("basic", "auth", oauth2.one_of(*oauth2.AUTHS)),
        grant=parameters.text_or("client_credentials", "grant", oauth2.one_of(*oauth2.GRANTS)),
        subject_type=parameters.text_or("access_token", "subject_type", oauth2.one_of(*oauth2.SUBJECT_TYPES)),
        about={key: parameters.text(key, check) for key, check in about.items() if parameters.has(key)},
        lasts_s=parameters.number("token_lasts_s", oauth2.lasts, oauth2.LASTS_S),
    )
    rest = Rest("", parameters.text_or(SYSTEM_CA, "ca", _file))
    return oauth2.Oauth2Issuer(rest, secret, server, parameters.some("scopes", oauth2.scope))


def _oidc(parameters: Parameters, secret: Secret) -> Issuer:
    from leasehold.broker.issuers import oidc

    claims = oidc.Claims(
        issuer=parameters.text("issuer_url", oidc.issuer_url),
        audience=parameters.text("audience", _audience),
        subject=parameters.text("subject", oidc.subject),
    )
    return oidc.OidcIssuer(secret, claims)


BUILTIN: dict[str, Factory] = {
    "aws-sts": _aws_sts,
    "github-app": _github_app,
    "kubernetes": _kubernetes,
    "oauth2": _oauth2,
    "oidc": _oidc,
    "postgres": _postgres,
    "mysql": _mysql,
    "rabbitmq": _rabbitmq,
    "redis": _redis,
    "ssh-ca": _ssh_ca,
    "vault": _vault,
}


def _grants(parameters: Parameters, canonical: Callable[[str], str]) -> tuple[str, ...]:
    """What a task may ask for, in the one way in which each is written."""
    if not parameters.has("grants"):
        raise parameters.error("the key grants is missing", "without a grant an account is of no use")
    return parameters.some("grants", canonical)


_HOST = re.compile(r"[a-z0-9_-]+(?:\.[a-z0-9_-]+)*")
_WORD = re.compile(r"[A-Za-z0-9_.@-]{1,63}")
_CLIENT_HOST = re.compile(
    r"%|(?:\d{1,3}\.){1,3}%|(?:\d{1,3}\.){3}\d{1,3}(?:/(?:\d{1,3}\.){3}\d{1,3})?|(?:%\.)?[a-z0-9-]+(?:\.[a-z0-9-]+)*"
)


def _url(text: str, schemes: tuple[str, ...], port: int, *, database: bool = True) -> tuple[str, int, str, str]:
    """Host, port, user and database of ``scheme://user@host:port/database``; a password in it is an error.

    ``database``: whether one belongs there.
    """
    form = f"{schemes[0]}://USER@HOST:PORT{'/DATABASE' if database else ''}"
    hint = f"write {form}; the password belongs in the key secret"
    try:
        parts = urlsplit(text)
        found = (parts.hostname or "", parts.port or port, unquote(parts.username or ""), unquote(parts.path[1:]))
    except ValueError:
        raise Wrong("expected a URL, found something else", hint) from None
    if parts.password is not None:
        raise Wrong("a password has no place here", hint)
    if parts.scheme not in schemes or parts.query or parts.fragment:
        raise Wrong(f"expected {form}, found something else", hint)
    if not (_HOST.fullmatch(found[0]) and _WORD.fullmatch(found[2])):
        raise Wrong("expected a user and a host, found something else", hint)
    if not (_WORD.fullmatch(found[3]) if database else parts.path in ("", "/")):
        raise Wrong(f"expected {'a' if database else 'no'} database, found something else", hint)
    return found


def _https(text: str, paths: tuple[str, ...] = ("",)) -> str:
    """``https://HOST[:PORT]`` with one of these paths behind it, and nothing else; a slash at its end is taken off."""
    hint = f"write https://HOST:PORT{paths[-1]}"
    try:
        parts = urlsplit(text)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        raise Wrong("expected a URL, found something else", hint) from None
    path = parts.path.removesuffix("/")
    if parts.scheme != "https" or not _HOST.fullmatch(host) or "@" in parts.netloc or path not in paths:
        raise Wrong("expected the https:// address of the API, found something else", hint)
    if parts.query or parts.fragment or not text.isprintable():
        raise Wrong("expected a URL without query and fragment, found something else", hint)
    return f"https://{host}{f':{port}' if port else ''}{path}"


def _client_id(text: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9.]{1,64}", text):
        raise Wrong("expected the client ID of an App, found something else", "such as Iv23liABCDEFGHIJKLMN")
    return text


_PATH = re.compile(r"[A-Za-z0-9_-]+(?:/[A-Za-z0-9_][A-Za-z0-9_.@-]*)+")
_VAULTS_OWN = ("auth/", "sys/", "identity/", "cubbyhole/")
_MATERIAL = (
    "username", "password", "token", "access_key_id", "secret_access_key", "session_token",
)  # fmt: skip


def _vault_path(text: str) -> str:
    if not _PATH.fullmatch(text) or text.startswith(_VAULTS_OWN):
        raise Wrong("expected the path of a dynamic engine, found something else", "such as database/creds/readonly")
    return text


def _dns_label(text: str) -> str:
    if not re.fullmatch(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?", text):
        raise Wrong("expected lower-case letters, digits and -, found something else")
    return text


def _audience(text: str) -> str:
    if not re.fullmatch(r"[\x21-\x7e]{1,256}", text):
        raise Wrong("expected an audience, found something else", "such as https://kubernetes.default.svc")
    return text


def _namespace(text: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9_-]+(?:/[A-Za-z0-9_-]+)*", text):
        raise Wrong("expected a namespace, found something else", "such as teams/orders")
    return text


def _word(text: str) -> str:
    if not _WORD.fullmatch(text):
        raise Wrong("expected a name of letters, digits, _, ., @ and -, found something else")
    return text


def _field(text: str) -> str:
    """``OURS=THEIRS``: which part of an answer is which part of a credential."""
    match = re.fullmatch(r"([a-z_]+)=([A-Za-z0-9_]{1,64})", text)
    if not match or match[1] not in _MATERIAL:
        raise Wrong("expected NAME=FIELD, found something else", f"NAME is one of {', '.join(_MATERIAL)}")
    return text


def _positive(value: int) -> int:
    if not 1 <= value < 1 << 63:
        raise Wrong(f"expected a number from 1 on, found {value}")
    return value


def _connections(value: int) -> int:
    if not 1 <= value <= 100:
        raise Wrong(f"expected 1 to 100, found {value}")
    return value


def _client_host(text: str) -> str:
    if not (_CLIENT_HOST.fullmatch(text) and len(text) <= 60):
        raise Wrong("expected an address or a name, perhaps with % at one end, found something else")
    return text


def _file(text: str) -> str:
    if not PurePosixPath(text).is_absolute() or "\0" in text:
        raise Wrong("expected the absolute path of a PEM file, found something else")
    return text
