"""The operator's file: what it may say is read exactly, and everything else is an error that names its place."""

from __future__ import annotations

from pathlib import Path

import pytest

from leasehold.core.config import read_operator
from leasehold.core.errors import ConfigError
from leasehold.core.model import (
    Credential,
    Environment,
    GitRule,
    InjectAws,
    InjectBasic,
    InjectHeader,
    InjectQuery,
    Network,
    OperatorConfig,
    Role,
    Rule,
    SandboxSettings,
)

CERTIFICATE = "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n"
HEAD = '[trust]\ndomain = "dev.example"\nupstream_ca = "@ca@"\n'
CREDENTIAL = """[credentials.forge]
issuer = "static"
secret = "vault:forge-token"
environment = "development"
role = "execute"
max_ttl = "1h"
"""
ENDPOINT = """[[credentials.forge.endpoints]]
host = "api.forge.example"
methods = ["GET", "POST"]
paths = ["/repos/acme/web/**"]
inject = { header = "Authorization", format = "Bearer {secret}" }
"""
FULL = (
    HEAD
    + """
[network]
resolve = { "API.forge.example." = "10.1.2.3", "v6.example" = "2001:4860:4860::8888" }
allow_private = ["10.1.2.0/24", "fd00::/8", "10.9.9.9"]

[hosts]
allow = [
  { host = "docs.example", methods = ["GET", "HEAD"] },
  { host = "plain.example", scheme = "http" },
  { host = "chat.example", websocket = true },
  { host = "code.example", git = { repository = "acme/docs.git", access = "read" } },
]

[sandbox]
hide = ["deploy/keys"]
read_only = ["docs/**"]
tools = ["/opt/tools", "~/tools"]
env = ["EDITOR_THEME"]

"""
    + CREDENTIAL
    + ENDPOINT
    + """
[[credentials.forge.endpoints]]
host = "forge.example"
port = 8443
scheme = "https"
protocol = "http"
git = { repository = "acme/web", access = "write" }
inject = { basic = { username = "x-access-token" } }

[[credentials.forge.endpoints]]
host = "old.forge.example"
inject = { query = "access_token" }

[[credentials.forge.endpoints]]
host = "old.forge.example"
port = 8443
inject = { header = "x-api-key" }

[credentials.registry]
issuer = "static"
secret = "env:REGISTRY_TOKEN"
environment = "production"
role = "fetch"
max_ttl = "90s"

[[credentials.registry.endpoints]]
host = "registry.example"
inject = { basic = { username = "" } }

[[credentials.registry.endpoints]]
host = "forge.example"
git = { repository = "acme/lib", access = "read" }
inject = { basic = { username = "reader" } }
"""
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    ca = tmp_path / "ca.pem"
    ca.write_text(CERTIFICATE)
    ca.chmod(0o600)
    return tmp_path


def write(folder: Path, text: str) -> Path:
    path = folder / "config.toml"
    path.write_text(text.replace("@ca@", str(folder / "ca.pem")))
    path.chmod(0o600)
    return path


def operator(folder: Path, text: str) -> OperatorConfig:
    return read_operator(write(folder, text))


def refused(folder: Path, text: str) -> ConfigError:
    """The error; its message without the path of the file."""
    path = write(folder, text)
    with pytest.raises(ConfigError) as caught:
        read_operator(path)
    error = caught.value
    assert error.hint
    assert error.__context__ is None
    return ConfigError(error.message.removeprefix(f"{path}:"), hint=error.hint)


def test_everything_that_may_stand_there_is_read(folder: Path) -> None:
    execute = Role.EXECUTE
    home = str(Path.home())
    assert operator(folder, FULL) == OperatorConfig(
        path=str(folder / "config.toml"),
        trust_domain="dev.example",
        network=Network(
            resolve=(("api.forge.example", "10.1.2.3"), ("v6.example", "2001:4860:4860::8888")),
            allow_private=("10.1.2.0/24", "fd00::/8", "10.9.9.9/32"),
            upstream_ca=str(folder / "ca.pem"),
        ),
        hosts=(
            Rule(host="docs.example", methods=("GET", "HEAD")),
            Rule(host="plain.example", port=80, scheme="http"),
            Rule(host="chat.example", websocket=True),
            Rule(host="code.example", git=GitRule(repository="acme/docs", access="read")),
        ),
        credentials=(
            Credential(
                name="forge",
                issuer="static",
                secret="vault:forge-token",
                environment=Environment.DEVELOPMENT,
                role=execute,
                max_ttl_s=3600,
                endpoints=(
                    Rule(
                        host="api.forge.example",
                        methods=("GET", "POST"),
                        paths=("/repos/acme/web/**",),
                        inject=InjectHeader(name="Authorization", format="Bearer {secret}"),
                    ),
                    Rule(
                        host="forge.example",
                        port=8443,
                        git=GitRule(repository="acme/web", access="write"),
                        inject=InjectBasic(username="x-access-token"),
                    ),
                    Rule(host="old.forge.example", inject=InjectQuery(name="access_token")),
                    Rule(host="old.forge.example", port=8443, inject=InjectHeader(name="x-api-key")),
                ),
            ),
            Credential(
                name="registry",
                issuer="static",
                secret="env:REGISTRY_TOKEN",
                environment=Environment.PRODUCTION,
                role=Role.FETCH,
                max_ttl_s=90,
                endpoints=(
                    Rule(host="registry.example", methods=("GET", "HEAD"), inject=InjectBasic(username="")),
                    Rule(
                        host="forge.example",
                        git=GitRule(repository="acme/lib", access="read"),
                        inject=InjectBasic(username="reader"),
                    ),
                ),
            ),
        ),
        sandbox=SandboxSettings(
            hide=("deploy/keys",),
            read_only=("docs/**",),
            tools=("/opt/tools", f"{home}/tools"),
            env=("EDITOR_THEME",),
        ),
    )


def test_the_least_that_has_to_stand_there(folder: Path) -> None:
    found = operator(folder, HEAD)
    assert (found.hosts, found.credentials, found.network.resolve) == ((), (), ())
    assert found.sandbox == SandboxSettings()


def test_a_changed_file_is_read_anew(folder: Path) -> None:
    assert operator(folder, HEAD).trust_domain == "dev.example"
    assert operator(folder, HEAD.replace("dev", "new")).trust_domain == "new.example"


def replaced(old: str, new: str) -> str:
    text = HEAD + CREDENTIAL + ENDPOINT
    assert text.count(old) == 1, old
    return text.replace(old, new)


WRONG_KEYS = [
    # Names.
    ('max_ttl = "1h"', 'max_tll = "1h"', "4: credentials.forge: the key max_ttl is missing"),
    ('max_ttl = "1h"', 'max_ttl = "1h"\nmax_tll = 1', "10: credentials.forge.max_tll: unknown key"),
    ("methods =", "methodes =", "12: credentials.forge.endpoints[1].methodes: unknown key"),
    ("[credentials.forge]", "[credential.forge]", "10: credentials.forge: the key issuer is missing"),
    ("[trust]", "version = 1\n[trust]", "1: version: unknown key"),
    ('domain = "dev', 'domains = "dev', "1: trust: the key domain is missing"),
    # The credential.
    ('"static"', '"magic"', "5: credentials.forge.issuer: expected one of static, postgres, "),
    ('"static"', '"ssh-ca"', "a certificate of the issuer ssh-ca is of no use in HTTP"),
    ('"static"', "1", "5: credentials.forge.issuer: expected a text, found a number"),
    ('"development"', '"prod"', "expected one of development, staging, production, found 'prod'"),
    ('"execute"', '"admin"', "8: credentials.forge.role: expected one of execute, fetch, deploy, found 'admin'"),
    ('"1h"', '"2h"', "9: credentials.forge.max_ttl: expected at most 3600 s, found 2h"),
    ('"1h"', '"1 hour"', "max_ttl: '1 hour' is no duration like 90s, 15m or 1h"),
    ('"1h"', '"0s"', "max_ttl: '0s' is no duration"),
    ('"1h"', "3600", "max_ttl: expected a text, found a number"),
    ('"vault:forge-token"', '"ghp_x"', "secret: expected a reference to a secret"),
    # Where it is used.
    (
        '"api.forge.example"',
        '"*.forge.example"',
        "11: credentials.forge.endpoints[1].host: host '*.forge.example' has a w",
    ),
    ('"api.forge.example"', '"10.1.2.3"', "is an address"),
    ('"api.forge.example"', '"0x7f.1"', "is an address"),
    ('"api.forge.example"', '"\\uff46orge.example"', "is not ASCII"),
    ('"api.forge.example"', '"a..b"', "is not an exact DNS name"),
    ('"api.forge.example"', '"127.0.0.1.."', "is not an exact DNS name"),
    ('"api.forge.example"', '"https://u:hidden@forge"', "host: expected a name without scheme, user, port and path"),
    ('"api.forge.example"', '"forge.example:443"', "host: expected a name without scheme, user, port and path"),
    ('"api.forge.example"', '"forge.example@evil.test"', "host: expected a name without scheme, user, port and path"),
    ('"api.forge.example"', '"a.example"\nport = 0', "12: credentials.forge.endpoints[1].port: expected a port from 1"),
    ('"api.forge.example"', '"a.example"\nport = 65536', "expected a port from 1 to 65535, found 65536"),
    ('"api.forge.example"', '"a.example"\nport = 53', "port 53 is taken in a compartment"),
    ('"api.forge.example"', '"a.example"\nport = 3128', "port 3128 is taken in a compartment"),
    ('"api.forge.example"', '"a.example"\nport = "443"', "port: expected a number, found a text"),
    ('"api.forge.example"', '"a.example"\nport = 80', "port 80 cannot be used with https: it is the port of http"),
    ('"api.forge.example"', '"a.example"\nscheme = "http"', "scheme: a credential is never sent without TLS"),
    ('"api.forge.example"', '"a.example"\nscheme = "ftp"', "expected one of https, http, found 'ftp'"),
    ('"api.forge.example"', '"a.example"\nprotocol = "smtp"', "protocol: expected one of http, postgres, mysql"),
    ('"api.forge.example"', '"a.example"\nprotocol = "postgres"', "is for a credential of the issuer postgres"),
    ('"api.forge.example"', '"a.example"\nprotocol = "ssh"', "is for a credential of the issuer ssh-ca"),
    ('["GET", "POST"]', "[]", "12: credentials.forge.endpoints[1].methods: expected at least one, found none"),
    ('["GET", "POST"]', '["GET", "PSOT"]', "methods[2]: expected one of GET, HEAD, POST"),
    ('["GET", "POST"]', '["get"]', "methods[1]: expected one of GET, HEAD, POST"),
    ('["GET", "POST"]', '["TRACE"]', "methods[1]: TRACE is never allowed"),
    ('["GET", "POST"]', '["CONNECT"]', "methods[1]: CONNECT is never allowed"),
    ('["GET", "POST"]', '["GET", "GET"]', "methods[2]: 'GET' stands there twice"),
    ('["GET", "POST"]', '["GET"]\nwebsocket = 1', "websocket: expected true or false, found a number"),
    ('["GET", "POST"]', '["GET", "POST"]\nwebsocket = true', "methods: a WebSocket begins with GET, and nothing else"),
    ('["/repos/acme/web/**"]', "[]", "13: credentials.forge.endpoints[1].paths: expected at least one, found none"),
    ('["/repos/acme/web/**"]', '["repos"]', "paths[1]: path 'repos' must start with /"),
    ('["/repos/acme/web/**"]', '["/a/../b"]', "is not canonical"),
    ('["/repos/acme/web/**"]', '["/%61"]', "paths[1]: no canonical path has %61, so nothing matches"),
    ('["/repos/acme/web/**"]', '["/a/**", "/a/b"]', "paths[2]: /a/b adds nothing, /a/** covers it"),
    ('["/repos/acme/web/**"]', '["/a/b", "/a/*"]', "paths[1]: /a/b adds nothing, /a/* covers it"),
    # How it is delivered.
    ("inject = {", "# inject = {", "10: credentials.forge.endpoints[1]: the key inject is missing"),
    (
        'header = "Authorization", ',
        "",
        "14: credentials.forge.endpoints[1].inject: expected one of header, basic, query",
    ),
    (
        'header = "Authorization", ',
        'header = "a", query = "b", ',
        "header, basic, query and aws, found 2",
    ),
    ('"Authorization"', '"Authorization: Bearer hidden"', "inject.header: expected a token"),
    ('"Authorization"', '"x_api_key"', "header x_api_key has an underscore"),
    ('"Authorization"', '"Host"', "header Host frames or routes a request"),
    ('"Authorization"', '"Content-Length"', "header Content-Length frames or routes a request"),
    ('"Authorization"', '"x-envoy-original-path"', "frames or routes a request"),
    ('"Authorization"', '""', "inject.header: expected a token"),
    ('"Bearer {secret}"', '"Bearer hidden"', "inject.format: expected {secret} exactly once, found it 0 times"),
    ('"Bearer {secret}"', '"{secret}{secret}"', "inject.format: expected {secret} exactly once, found it 2 times"),
    ('"Bearer {secret}"', '"a\\r\\nb: {secret}"', "inject.format: expected printable ASCII"),
    ('"Bearer {secret}"', '" {secret}"', "inject.format: expected printable ASCII without blanks at the ends"),
    ('header = "Authorization", format', "query = 1, x", "inject.query: expected a text, found a number"),
    ('header = "Authorization", format', 'query = "a b", x', "inject.query: expected the name of a query parameter"),
    ('header = "Authorization", format', 'query = "a", format', "inject.format: unknown key"),
    ('header = "Authorization", format = "Bearer {secret}"', 'basic = { username = "u:hidden" }', "without a colon"),
    ('header = "Authorization", format = "Bearer {secret}"', 'basic = { username = "\\u0000" }', "printable ASCII"),
    ('header = "Authorization", format = "Bearer {secret}"', "basic = {}", "basic: the key username is missing"),
    (
        'header = "Authorization", format = "Bearer {secret}"',
        'basic = { username = "u", x = 1 }',
        "basic.x: unknown key",
    ),
]


@pytest.mark.parametrize(("old", "new", "said"), WRONG_KEYS, ids=[f"{new}-{said[:20]}" for _, new, said in WRONG_KEYS])
def test_what_is_wrong_is_refused(folder: Path, old: str, new: str, said: str) -> None:
    error = refused(folder, replaced(old, new))
    assert said in error.message
    assert "hidden" not in error.message + error.hint


def test_the_whole_of_them_is_right_but_for_that(folder: Path) -> None:
    """The twin of the test above."""
    assert operator(folder, HEAD + CREDENTIAL + ENDPOINT).credentials[0].name == "forge"


WRONG_ELSEWHERE = [
    ("[network]\nresolve = { a = 1 }", "5: network.resolve.a: expected a text, found a number"),
    ('[network]\nresolve = { a = "1.2.3" }', "network.resolve.a: expected an IPv4 or IPv6 address, found '1.2.3'"),
    ('[network]\nresolve = { "*.a" = "8.8.8.8" }', "network.resolve.*.a: host '*.a' has a wildcard"),
    ('[network]\nresolve = { a = "8.8.8.8", "A." = "8.8.4.4" }', "network.resolve.A.: a stands there twice"),
    (
        '[network]\nresolve = { a = "10.0.0.1" }',
        "10.0.0.1 is not public and not in allow_private, so it is never dialled",
    ),
    ('[network]\nresolve = { a = "169.254.169.254" }', "169.254.169.254 is not public"),
    ('[network]\nresolve = { a = "::ffff:10.0.0.1" }', "is not public"),
    ('[network]\nallow_private = ["10.0.0.1/8"]', "allow_private[1]: expected a network such as 10.1.2.0/24"),
    ('[network]\nallow_private = ["all"]', "allow_private[1]: expected a network such as 10.1.2.0/24"),
    ('[network]\nallow_private = ["0.0.0.0/0"]', "allow_private[1]: 0.0.0.0/0 is wider than any private network"),
    ('[network]\nallow_private = ["::/0"]', "allow_private[1]: ::/0 is wider than any private network"),
    ('[network]\nallow_private = ["8.8.8.8"]', "allow_private[1]: 8.8.8.8/32 is public and needs no permission"),
    ('[network]\nallow_private = ["10.0.0.0/8", "10.0.0.0/8"]', "allow_private[2]: '10.0.0.0/8' stands there twice"),
    ("[network]\nproxy = 1", "5: network.proxy: unknown key"),
    ('[hosts]\nallow = ["a.example"]', "5: hosts.allow[1]: expected a table, found a text"),
    ('[hosts]\nallow = [{ host = "*" }]', "hosts.allow[1].host: host '*' has a wildcard"),
    (
        '[hosts]\nallow = [{ host = "a", inject = {} }]',
        "hosts.allow[1].inject: a host without a credential has nothing",
    ),
    (
        '[hosts]\nallow = [{ host = "a" }, { host = "a" }]',
        "hosts.allow[2]: it is never used: the rule at line 5 covers it",
    ),
    ('[hosts]\nallow = [{ host = "a", port = 443, scheme = "http" }]', "port 443 cannot be used with http"),
    ('[hosts]\ndeny = ["a"]', "5: hosts.deny: unknown key"),
    ('[sandbox]\nhide = ["/etc"]', "5: sandbox.hide[1]: expected a path below the workspace, found '/etc'"),
    ('[sandbox]\nread_only = ["../x"]', "sandbox.read_only[1]: expected a path below the workspace"),
    ('[sandbox]\nhide = [""]', "sandbox.hide[1]: expected a path below the workspace"),
    ('[sandbox]\ntools = ["bin"]', "sandbox.tools[1]: expected the absolute path of a folder, found 'bin'"),
    ('[sandbox]\ntools = ["/"]', "sandbox.tools[1]: expected the absolute path of a folder, found '/'"),
    ('[sandbox]\ntools = ["/a/../b"]', "sandbox.tools[1]: expected the absolute path of a folder"),
    ('[sandbox]\nenv = ["A B"]', "sandbox.env[1]: 'A B' is not the name of a variable"),
    ("[sandbox]\nnet = true", "5: sandbox.net: unknown key"),
    ("[credentials.FORGE]", "4: credentials.FORGE: expected lower-case letters, digits and -"),
    ("credentials = 1", "4: trust.credentials: unknown key"),
    ("[[credentials]]", "4: credentials: expected a table, found a list"),
    (CREDENTIAL, "4: credentials.forge: expected an endpoint, found none"),
    (CREDENTIAL + "endpoints = []", "4: credentials.forge: expected an endpoint, found none"),
    (CREDENTIAL + ENDPOINT + CREDENTIAL, "15: Cannot declare ('credentials', 'forge') twice"),
]


@pytest.mark.parametrize(("text", "said"), WRONG_ELSEWHERE, ids=[text[:60] for text, _ in WRONG_ELSEWHERE])
def test_what_is_wrong_elsewhere_is_refused(folder: Path, text: str, said: str) -> None:
    assert said in refused(folder, HEAD + text).message


def test_an_unknown_issuer_is_told_which_there_are(folder: Path) -> None:
    assert "it is one of static, postgres, mysql" in refused(folder, replaced('"static"', '"magic"')).hint


def test_a_method_in_the_wrong_case_is_told_the_right_one(folder: Path) -> None:
    assert refused(folder, replaced('["GET", "POST"]', '["post"]')).hint == "did you mean POST?"
    assert refused(folder, replaced('"execute"', '"EXECUTE"')).hint == "did you mean execute?"


BUNDLES = {
    "": "holds no PEM certificates",
    "text": "holds no PEM certificates",
    CERTIFICATE.replace("MIIB", "AAAA"): "holds no PEM certificates",
    CERTIFICATE + CERTIFICATE.replace("MIIB", "M"): "holds no PEM certificates",
}


@pytest.mark.parametrize("content", BUNDLES)
def test_a_ca_bundle_that_is_none_is_refused(folder: Path, content: str) -> None:
    (folder / "ca.pem").write_text(content)
    error = refused(folder, HEAD)
    assert error.message == f"3: trust.upstream_ca: {folder}/ca.pem {BUNDLES[content]}"


def test_a_ca_bundle_that_cannot_be_read_is_refused(folder: Path) -> None:
    (folder / "ca.pem").unlink()
    assert refused(folder, HEAD).message == f"3: trust.upstream_ca: {folder}/ca.pem: there is no such file"
    assert "expected an absolute path" in refused(folder, HEAD.replace("@ca@", "ca.pem")).message


def test_a_ca_bundle_that_anybody_may_change_is_refused(folder: Path) -> None:
    (folder / "ca.pem").chmod(0o666)
    assert "others may write to it" in refused(folder, HEAD).message


def test_the_systems_ca_bundle_is_the_default(folder: Path) -> None:
    without = HEAD.replace('upstream_ca = "@ca@"\n', "")
    assert Path(operator(folder, without).network.upstream_ca).exists()


def test_a_system_without_a_ca_bundle_needs_one_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "exists", lambda _: False)
    without = HEAD.replace('upstream_ca = "@ca@"\n', "")
    assert refused(folder, without).message.startswith("1: trust: the key upstream_ca is missing")


FETCH = CREDENTIAL.replace("execute", "fetch")


@pytest.mark.parametrize(
    ("rest", "said"),
    [
        ('methods = ["GET", "POST"]', "methods[2]: the fetch role only reads: expected GET or HEAD, found POST"),
        ("websocket = true", "websocket: the fetch role only reads"),
        ('git = { repository = "acme/web", access = "write" }', "git.access: the fetch role only reads"),
    ],
)
def test_the_fetch_role_only_reads(folder: Path, rest: str, said: str) -> None:
    text = HEAD + FETCH + f'[[credentials.forge.endpoints]]\nhost = "a.example"\n{rest}\ninject = {{ query = "k" }}\n'
    assert said in refused(folder, text).message


@pytest.mark.parametrize(
    ("git", "said"),
    [
        ('{ access = "read" }', "git: the key repository is missing"),
        ('{ repository = "acme/web" }', "git: the key access is missing"),
        ('{ repository = "acme/web", access = "admin" }', "git.access: expected one of read, write, found 'admin'"),
        ('{ repository = "acme/*", access = "read" }', "git.repository: expected the exact path of a repository"),
        ('{ repository = "**", access = "read" }', "git.repository: expected the exact path of a repository"),
        ('{ repository = "", access = "read" }', "git.repository: expected the exact path of a repository"),
        ('{ repository = ".git", access = "read" }', "git.repository: expected the exact path of a repository"),
        ('{ repository = "acme/web/", access = "read" }', "git.repository: expected the exact path of a repository"),
        ('{ repository = "/acme/web", access = "read" }', "has an empty segment"),
        ('{ repository = "acme/../web", access = "read" }', "is not canonical"),
        ('{ repository = "acme/web", access = "read", branch = "x" }', "git.branch: unknown key"),
        ('{ repository = "acme/web", access = "read" }\npaths = ["/a"]', "git itself says which methods and paths"),
        ('{ repository = "acme/web", access = "read" }\nmethods = ["GET"]', "git itself says which methods and paths"),
        ('{ repository = "acme/web", access = "read" }\nwebsocket = true', "git itself says which methods and paths"),
    ],
)
def test_a_git_rule_names_one_repository_and_a_direction(folder: Path, git: str, said: str) -> None:
    rest = f'[[credentials.forge.endpoints]]\nhost = "a.example"\ngit = {git}\ninject = {{ query = "k" }}\n'
    assert said in refused(folder, HEAD + CREDENTIAL + rest).message


ORDERS = """
[credentials.orders]
issuer = "postgres"
server = "postgresql://issuer@db.example/orders"
secret = "vault:orders-admin"
grants = ["SELECT ON ALL TABLES IN SCHEMA public"]
environment = "staging"
role = "execute"
max_ttl = "15m"
[[credentials.orders.endpoints]]
host = "db.example"
protocol = "postgres"
"""


def test_what_an_issuer_wants_besides_is_kept_for_it(folder: Path) -> None:
    [*_, orders] = read_operator(write(folder, HEAD + CREDENTIAL + ENDPOINT + ORDERS)).credentials
    assert orders.parameters == (
        ("server", "postgresql://issuer@db.example/orders"),
        ("grants", ["SELECT ON ALL TABLES IN SCHEMA public"]),
    )
    assert orders.endpoints == (Rule(host="db.example", port=5432, scheme="postgres"),)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('protocol = "postgres"\n', 'protocol = "postgres"\nmethods = ["GET"]\n', "methods: unknown key"),
        ('issuer = "postgres"', 'issuer = "redis"', "postgres is for a credential of the issuer postgres"),
        ('protocol = "postgres"\n', 'protocol = "postgres"\nport = 443\n', "port 443 cannot be used with postgres"),
    ],
)
def test_a_database_is_one_endpoint_of_its_own_issuer(folder: Path, old: str, new: str, said: str) -> None:
    assert said in refused(folder, HEAD + CREDENTIAL + ENDPOINT + ORDERS.replace(old, new)).message


def test_a_database_has_one_credential(folder: Path) -> None:
    twice = ORDERS + ORDERS.replace("orders", "others")
    assert "both fit some request to db.example:5432" in refused(folder, HEAD + CREDENTIAL + ENDPOINT + twice).message
    vault = ORDERS.replace('issuer = "postgres"', 'issuer = "vault"')
    assert read_operator(write(folder, HEAD + CREDENTIAL + ENDPOINT + vault)).credentials[-1].issuer == "vault"


SSH_KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJD0kO9nDQYoTpTNM8Ixeo0wz3OHBBk5OSQmmA4IgaNx"
SSH = f"""
[credentials.code]
issuer = "ssh-ca"
secret = "vault:ssh-ca"
environment = "staging"
role = "execute"
max_ttl = "15m"
[[credentials.code.endpoints]]
host = "code.example"
protocol = "ssh"
host_keys = ["{SSH_KEY} a comment"]
"""


def test_an_ssh_host_has_its_keys_pinned(folder: Path) -> None:
    [*_, code] = read_operator(write(folder, HEAD + CREDENTIAL + ENDPOINT + SSH)).credentials
    assert code.endpoints == (Rule(host="code.example", port=22, scheme="ssh", host_keys=(SSH_KEY,)),)
    without = SSH.replace("host_keys", "# host_keys")
    assert "the key host_keys is missing" in refused(folder, HEAD + CREDENTIAL + ENDPOINT + without).message


@pytest.mark.parametrize(
    "key", ["", "ssh-ed25519", "ssh-ed25519 AAAA", SSH_KEY.replace("ed25519", "rsa"), f"{SSH_KEY[:-4]}!", "x" + SSH_KEY]
)
def test_what_is_no_host_key_is_refused(folder: Path, key: str) -> None:
    wrong = SSH.replace(SSH_KEY, key)
    assert "expected a host key" in refused(folder, HEAD + CREDENTIAL + ENDPOINT + wrong).message


def test_one_of_its_own_may_enter_a_compartment_where_the_operator_says_so(folder: Path) -> None:
    exposing = ORDERS.replace("max_ttl", 'expose = { PGPASSWORD = "password", PGUSER = "username" }\nmax_ttl')
    orders = read_operator(write(folder, HEAD + CREDENTIAL + ENDPOINT + exposing)).credentials[-1]
    assert orders.expose == (("PGPASSWORD", "password"), ("PGUSER", "username"))
    exposing = ORDERS.replace("max_ttl", 'expose = { TOKEN_FILE = "file:token" }\nmax_ttl')
    orders = read_operator(write(folder, HEAD + CREDENTIAL + ENDPOINT + exposing)).credentials[-1]
    assert orders.expose == (("TOKEN_FILE", "file:token"),)
    assert all(key != "expose" for key, _ in orders.parameters)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('"staging"', '"production"', "nothing of production enters a compartment"),
        ("PGPASSWORD =", '"PG PASSWORD" =', "it is not the name of a variable"),
        ('"password"', '"Password"', "expected a part such as username"),
        ('"password"', '"file:/etc/passwd"', "expected a part such as username"),
        ('"password"', "5", "expected a text, found a number"),
    ],
)
def test_what_may_not_enter_is_refused(folder: Path, old: str, new: str, said: str) -> None:
    exposing = ORDERS.replace("max_ttl", 'expose = { PGPASSWORD = "password" }\nmax_ttl').replace(old, new)
    assert said in refused(folder, HEAD + CREDENTIAL + ENDPOINT + exposing).message


def test_a_static_secret_never_enters(folder: Path) -> None:
    exposing = CREDENTIAL.replace("max_ttl", 'expose = { TOKEN = "token" }\nmax_ttl')
    assert "a static secret never enters a compartment" in refused(folder, HEAD + exposing + ENDPOINT).message


AWS = """
[credentials.builds]
issuer = "aws-sts"
secret = "vault:aws"
environment = "staging"
role = "execute"
max_ttl = "15m"
[[credentials.builds.endpoints]]
host = "s3.example"
inject = { aws = { service = "s3", region = "eu-central-1" } }
"""


def test_requests_to_aws_are_signed_with_a_session(folder: Path) -> None:
    builds = read_operator(write(folder, HEAD + CREDENTIAL + ENDPOINT + AWS)).credentials[-1]
    assert builds.endpoints[0].inject == InjectAws(service="s3", region="eu-central-1")


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('"aws-sts"', '"static"', "aws signs with a session of the issuer aws-sts"),
        ('{ aws = { service = "s3", region = "eu-central-1" } }', '{ query = "k" }', "aws signs with a session"),
        ('"s3"', '"S3/../"', "expected a name such as s3 or eu-central-1"),
        ('service = "s3", ', "", "the key service is missing"),
    ],
)
def test_what_cannot_be_signed_with_is_refused(folder: Path, old: str, new: str, said: str) -> None:
    assert said in refused(folder, HEAD + CREDENTIAL + ENDPOINT + AWS.replace(old, new)).message
