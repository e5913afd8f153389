"""Rules together: for each request one credential or none, and no rule that is never used."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from leasehold.core.conflicts import Placed, check_paths, check_roles, check_rules, covers, meet
from leasehold.core.errors import ConfigError
from leasehold.core.model import (
    DEFAULT_METHODS,
    Credential,
    Environment,
    GitRule,
    Inject,
    InjectHeader,
    InjectQuery,
    Role,
    Rule,
)
from leasehold.core.paths import matches
from leasehold.core.toml import Table, parse

HEADER, QUERY = InjectHeader(name="a"), InjectQuery(name="a")
WEB, DOCS = GitRule(repository="acme/web", access="read"), GitRule(repository="acme/docs", access="write")


def table(number: int) -> Table:
    """A table that stands on line ``number`` + 1."""
    return parse("f", b"\n" * number + b"[[t]]").tables("t")[0]


def check(*rules: tuple[str | None, Rule]) -> None:
    check_rules(
        [Placed(rule=rule, credential=credential, table=table(n)) for n, (credential, rule) in enumerate(rules)]
    )


def rule(
    *paths: str,
    methods: tuple[str, ...] = (),
    inject: Inject | None = HEADER,
    git: GitRule | None = None,
    websocket: bool = False,
    port: int = 443,
    host: str = "h",
    scheme: str = "https",
) -> Rule:
    return Rule(
        host=host,
        port=port,
        scheme=scheme,
        methods=methods,
        paths=paths,
        git=git,
        websocket=websocket,
        inject=inject,
    )


GET, POST = ("GET",), ("POST",)
FINE = [
    # Two credentials at one host, never for the same request.
    [("a", rule("/a/**")), ("b", rule("/b/**"))],
    [("a", rule("/a/*")), ("b", rule("/a/*/c"))],
    [("a", rule(methods=GET)), ("b", rule(methods=POST))],
    [("a", rule()), ("b", rule(host="other"))],
    [("a", rule()), ("b", rule(port=8443))],
    [("a", rule(git=WEB)), ("b", rule(git=DOCS))],
    [("a", rule(git=WEB)), ("b", rule("/api/**"))],
    [("a", rule(git=WEB)), ("b", rule("/acme/web", "/acme/web/issues"))],
    [("a", rule(git=WEB)), ("b", rule("/acme/web/git-upload-pack", methods=GET))],
    [("a", rule("/a/**")), ("b", rule("/a/x%2fy"))],
    # One credential, delivered in two ways to different requests.
    [("a", rule("/a")), ("a", rule("/b", inject=QUERY))],
    # One credential, rules that partly are the same.
    [("a", rule("/a/**", methods=GET)), ("a", rule("/a/b", methods=("GET", "POST")))],
    [("a", rule("/ws", websocket=True)), ("a", rule("/**"))],
    # A host that a credential's endpoint covers in part.
    [("a", rule("/a/**")), (None, rule(inject=None))],
    [("a", rule(methods=GET)), (None, rule(methods=("GET", "POST"), inject=None))],
    [("a", rule("/**")), (None, rule(inject=None))],
    # Ports.
    [("a", rule(port=8443)), (None, rule(inject=None, port=8080, scheme="http", host="other"))],
    [(None, rule(inject=None, port=80, scheme="http")), ("a", rule())],
]
WRONG = [
    (
        [("a", rule()), ("b", rule())],
        "f:2: t[1]: credential b and credential a at line 1 both fit some request to h:443",
    ),
    ([("a", rule("/a/*/c")), ("b", rule("/a/b/*"))], "credential b and credential a at line 1 both fit"),
    ([("a", rule("/a/**")), ("b", rule("/a"))], "both fit"),
    ([("a", rule("/a/**")), ("b", rule(methods=GET))], "both fit"),
    ([("a", rule(methods=GET)), ("b", rule(websocket=True))], "both fit"),
    ([("a", rule(git=WEB)), ("b", rule(git=WEB))], "both fit"),
    ([("a", rule(git=WEB)), ("b", rule())], "both fit"),
    ([("a", rule(git=WEB)), ("b", rule("/acme/**", methods=POST))], "both fit"),
    ([("a", rule(git=WEB)), ("b", rule("/acme/web.git/info/refs"))], "both fit"),
    (
        [("b", rule()), ("a", rule("/a", inject=QUERY)), ("b", rule("/c"))],
        "t[1]: credential a and credential b at line 1",
    ),
    # One credential in two ways for one request.
    (
        [("a", rule()), ("a", rule("/a", inject=QUERY))],
        "f:2: t[1]: the endpoint at line 1 delivers credential a in another",
    ),
    # Never used.
    ([("a", rule("/a/**")), ("a", rule("/a/b"))], "f:2: t[1]: it is never used: the rule at line 1 covers it"),
    ([("a", rule("/a/b")), ("a", rule("/a/**"))], "f:1: t[1]: it adds nothing: the rule at line 2 covers it"),
    ([("a", rule("/a")), ("a", rule("/a"))], "f:2: t[1]: it is never used"),
    ([("a", rule("/**")), ("a", rule("/ws", websocket=True))], "f:2: t[1]: it is never used"),
    ([("a", rule(git=WEB)), ("a", rule(git=WEB))], "f:2: t[1]: it is never used"),
    ([("a", rule()), ("a", rule(git=WEB))], "f:2: t[1]: it is never used"),
    (
        [("a", rule(git=GitRule(repository="acme/docs", access="read"))), ("a", rule(git=DOCS))],
        "f:1: t[1]: it adds nothing",
    ),
    ([("a", rule()), (None, rule("/x", inject=None))], "f:2: t[1]: it is never used: credential a at line 1 covers it"),
    (
        [("a", rule("/a/**")), (None, rule("/a/b", methods=GET, inject=None))],
        "it is never used: credential a at line 1",
    ),
    ([(None, rule(inject=None)), (None, rule("/a", inject=None))], "f:2: t[1]: it is never used"),
    # A port has one scheme.
    ([("a", rule(port=80))], "f:1: t[1].port: port 80 cannot be used with https: it is the port of http"),
    ([(None, rule(inject=None, scheme="http"))], "f:1: t[1].port: port 443 cannot be used with http"),
    (
        [("a", rule(port=8080)), (None, rule(inject=None, port=8080, scheme="http", host="other"))],
        "f:2: t[1].port: port 8080 cannot be used with http: credential a uses it with https",
    ),
]


@pytest.mark.parametrize("rules", FINE)
def test_what_is_clear_is_accepted(rules: list[tuple[str | None, Rule]]) -> None:
    check(*rules)


@pytest.mark.parametrize(("rules", "said"), WRONG)
def test_what_is_ambiguous_or_never_used_is_refused(rules: list[tuple[str | None, Rule]], said: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(said)) as caught:
        check(*rules)
    assert caught.value.hint


def test_a_websocket_rule_that_comes_too_late_is_told_its_place() -> None:
    with pytest.raises(ConfigError) as caught:
        check(("a", rule("/**")), ("a", rule("/ws", websocket=True)))
    assert caught.value.hint == "put it before that one"


_SEGMENT = st.sampled_from(["a", "b", "*"])
_PATTERN = st.builds(
    lambda s, rest: "/" + "/".join([*s, "**"] if rest else s), st.lists(_SEGMENT, max_size=3), st.booleans()
)
_RULE = st.builds(
    lambda methods, paths, websocket: rule(*paths, methods=methods, websocket=websocket),
    st.sampled_from([(), GET, POST, ("GET", "POST")]),
    st.lists(_PATTERN, max_size=2).map(tuple),
    st.booleans(),
)
_PATH = st.lists(st.sampled_from(["a", "b"]), max_size=4).map(lambda s: "/" + "/".join(s))


def fits(found: Rule, method: str, path: str) -> bool:
    methods = GET if found.websocket else found.methods or DEFAULT_METHODS
    return method in methods and (not found.paths or any(matches(pattern, path) for pattern in found.paths))


@given(_RULE, _RULE, st.sampled_from(["GET", "POST", "PUT"]), _PATH)
def test_rules_that_do_not_meet_have_no_request_in_common(a: Rule, b: Rule, method: str, path: str) -> None:
    if fits(a, method, path) and fits(b, method, path):
        assert meet(a, b)
    assert meet(a, b) == meet(b, a)


@given(_RULE, _RULE, st.sampled_from(["GET", "POST", "PUT"]), _PATH)
def test_what_is_covered_lets_nothing_more_through(wide: Rule, narrow: Rule, method: str, path: str) -> None:
    if covers(wide, narrow) and fits(narrow, method, path):
        assert fits(wide, method, path)
    assert covers(wide, wide)


def credential(name: str, secret: str, role: Role) -> tuple[Credential, Table]:
    found = Credential(
        name=name,
        issuer="static",
        secret=secret,
        environment=Environment.DEVELOPMENT,
        role=role,
        max_ttl_s=60,
        endpoints=(),
    )
    return found, parse("f", b'[t]\nsecret = "x"').table("t")


def test_one_secret_has_one_role() -> None:
    check_roles([credential("a", "vault:x", Role.FETCH), credential("b", "vault:y", Role.EXECUTE)])
    check_roles([credential("a", "vault:x", Role.FETCH), credential("b", "vault:x", Role.FETCH)])
    with pytest.raises(ConfigError) as caught:
        check_roles([credential("a", "vault:x", Role.FETCH), credential("b", "vault:x", Role.EXECUTE)])
    said = "f:2: t.secret: its secret is the one of a, whose role is fetch and not execute"
    assert caught.value.message == said


def test_paths_of_one_list_add_something_each() -> None:
    check_paths(("/a/*", "/b/**", "/a/b/c"), table(0))
    with pytest.raises(ConfigError, match="/a/b adds nothing"):
        check_paths(("/a/*", "/a/b"), table(0))
