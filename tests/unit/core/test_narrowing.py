"""A task's credentials: whatever a project or a command line says, never more than the operator allows."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from leasehold.core.errors import GrantRefused
from leasehold.core.model import (
    DEFAULT_METHODS,
    Credential,
    Environment,
    GitRule,
    GrantRequest,
    InjectHeader,
    Network,
    OperatorConfig,
    ProjectConfig,
    Role,
    Rule,
    SandboxSettings,
)
from leasehold.core.narrowing import narrow
from leasehold.core.paths import matches

INJECT = InjectHeader(name="Authorization")
WEB = GitRule(repository="acme/web", access="read")


def rule(*paths: str, methods: tuple[str, ...] = (), git: GitRule | None = None, websocket: bool = False) -> Rule:
    return Rule(host="h", methods=methods, paths=paths, git=git, websocket=websocket, inject=INJECT)


def credential(name: str, *endpoints: Rule, ttl_s: int = 600) -> Credential:
    return Credential(
        name=name,
        issuer="static",
        secret=f"vault:{name}",
        environment=Environment.DEVELOPMENT,
        role=Role.EXECUTE,
        max_ttl_s=ttl_s,
        endpoints=endpoints,
    )


def operator(*credentials: Credential) -> OperatorConfig:
    return OperatorConfig(
        path="config.toml",
        trust_domain="d",
        network=Network(),
        hosts=(),
        credentials=credentials,
        sandbox=SandboxSettings(),
    )


def project(*grants: GrantRequest) -> ProjectConfig:
    return ProjectConfig(path="leasehold.toml", grants=grants)


def ask(
    name: str = "a",
    methods: tuple[str, ...] | None = None,
    paths: tuple[str, ...] | None = None,
    ttl_s: int | None = None,
) -> GrantRequest:
    return GrantRequest(credential=name, methods=methods, paths=paths, ttl_s=ttl_s)


A, B = credential("a", rule("/a/**")), credential("b", rule("/b/**"))


def test_without_a_project_everything_may_be_had() -> None:
    assert narrow(operator(A, B), None, None) == (A, B)
    assert narrow(operator(A, B), None, ("b",)) == (B,)
    assert narrow(operator(A, B), None, ()) == ()


def test_a_project_gets_what_it_names() -> None:
    assert narrow(operator(A, B), project(ask("b")), None) == (B,)
    assert narrow(operator(A, B), project(ask("b"), ask("a")), ("a",)) == (A,)
    assert narrow(operator(A, B), project(), None) == ()


def left(*endpoints: Rule, **request: object) -> tuple[Rule, ...]:
    """The endpoints that are left of a credential."""
    (found,) = narrow(operator(credential("a", *endpoints)), project(ask("a", **request)), None)  # type: ignore[arg-type]
    return found.endpoints


def test_methods_and_paths_are_those_of_both() -> None:
    rules = rule("/a/*", "/b/**", methods=("GET", "POST"))
    assert left(rules, methods=("GET",)) == (rule("/a/*", "/b/**", methods=("GET",)),)
    assert left(rules, paths=("/b/c", "/**")) == (rule("/b/c", "/a/*", "/b/**", methods=("GET", "POST")),)
    assert left(rules, methods=("POST",), paths=("/*/c",)) == (rule("/a/c", "/b/c", methods=("POST",)),)
    assert left(rule(), paths=("/a/x%2fy",), methods=("PUT",)) == (rule("/a/x%2fy", methods=("PUT",)),)


def test_an_endpoint_of_which_nothing_is_left_is_left_out() -> None:
    assert left(rule("/a"), rule("/b"), paths=("/b",)) == (rule("/b"),)
    assert left(rule(methods=("GET",)), rule("/p", methods=("POST",)), methods=("POST",)) == (
        rule("/p", methods=("POST",)),
    )
    assert left(rule("/a", websocket=True), rule("/p"), methods=("POST",)) == (rule("/p", methods=("POST",)),)
    assert left(rule("/a", websocket=True), methods=("GET",)) == (rule("/a", methods=("GET",), websocket=True),)


def test_git_rules_are_whole_or_nothing() -> None:
    both = (rule(git=WEB), rule("/a"))
    assert left(*both) == both
    assert left(*both, paths=("/a",)) == (rule("/a"),)
    assert left(*both, methods=("GET",)) == (rule("/a", methods=("GET",)),)


@pytest.mark.parametrize(("asked", "granted"), [(None, 600), (60, 60), (600, 600), (3600, 600)])
def test_time_is_the_shorter_one(asked: int | None, granted: int) -> None:
    (found,) = narrow(operator(A), project(ask("a", ttl_s=asked)), None)
    assert found.max_ttl_s == granted


@pytest.mark.parametrize(
    ("grants", "asked", "said"),
    [
        (None, ("c",), "there is no credential 'c'"),
        ((ask("aa"),), None, "there is no credential 'aa'"),
        ((ask("a"),), ("b",), "leasehold.toml does not ask for b"),
        ((ask("a", methods=("PURGE",)),), None, "[grants.a] leaves nothing of a"),
        ((ask("a", paths=("/b",)),), None, "[grants.a] leaves nothing of a"),
        ((ask("a", paths=("/a/..%2f..%2fuser",)),), None, "[grants.a] leaves nothing of a"),
        ((ask("a", methods=("GET", "PURGE")),), None, "[grants.a] methods: no endpoint of a that is left allows PURGE"),
        ((ask("a", paths=("/a/b", "/c")),), None, "[grants.a] paths: no endpoint of a that is left allows /c"),
    ],
)
def test_what_cannot_be_had_is_refused(
    grants: tuple[GrantRequest, ...] | None, asked: tuple[str, ...] | None, said: str
) -> None:
    with pytest.raises(GrantRefused, match=re.escape(said)) as caught:
        narrow(operator(A, B), project(*grants) if grants is not None else None, asked)
    assert caught.value.hint


def test_a_name_that_is_nearly_right_is_told() -> None:
    with pytest.raises(GrantRefused) as caught:
        narrow(operator(credential("forge", rule())), None, ("forgge",))
    assert caught.value.hint == "did you mean forge?"


_LITERALS = ["a", "b", "x%2fy", "..%2f", "..;"]
_PATTERN = st.builds(
    lambda s, rest: "/" + "/".join([*s, "**"] if rest else s),
    st.lists(st.sampled_from([*_LITERALS, "*"]), max_size=3),
    st.booleans(),
)
_PATTERNS = st.lists(_PATTERN, min_size=1, max_size=3, unique=True).map(tuple)
_METHODS = st.lists(st.sampled_from(["GET", "HEAD", "POST"]), min_size=1, unique=True).map(tuple)
_RULE = st.one_of(
    st.builds(
        lambda methods, paths, websocket: rule(*paths, methods=methods, websocket=websocket),
        st.one_of(st.just(()), _METHODS),
        st.one_of(st.just(()), _PATTERNS),
        st.booleans(),
    ),
    st.just(rule(git=WEB)),
)
_CREDENTIALS = st.lists(st.lists(_RULE, min_size=1, max_size=3), min_size=1, max_size=3).map(
    lambda lists: tuple(credential(f"c{n}", *rules, ttl_s=60 * (n + 1)) for n, rules in enumerate(lists))
)
_REQUEST = st.builds(
    ask,
    st.sampled_from(["c0", "c1", "c2", "c3"]),
    st.one_of(st.none(), _METHODS),
    st.one_of(st.none(), _PATTERNS),
    st.one_of(st.none(), st.integers(1, 10_000)),
)
_PROJECT = st.lists(_REQUEST, max_size=3, unique_by=lambda request: request.credential)
_NAMES = st.one_of(st.none(), st.lists(st.sampled_from(["c0", "c1", "c2", "c3"]), max_size=2))
_PATH = st.lists(st.sampled_from(_LITERALS), max_size=4).map(lambda s: "/" + "/".join(s))


def fits(found: Rule, method: str, path: str) -> bool:
    methods = tuple({*(found.methods or DEFAULT_METHODS)} & {"GET"}) if found.websocket else found.methods
    return method in (methods or DEFAULT_METHODS) and (not found.paths or any(matches(p, path) for p in found.paths))


@given(_CREDENTIALS, _PROJECT, _NAMES, st.sampled_from(["GET", "POST", "PUT"]), _PATH)
def test_narrowing_never_widens(
    credentials: tuple[Credential, ...], grants: list[GrantRequest], asked: list[str] | None, method: str, path: str
) -> None:
    try:
        found = narrow(operator(*credentials), project(*grants), asked)
    except GrantRefused:
        return
    of_operator = {c.name: c for c in credentials}
    of_project = {g.credential: g for g in grants}
    for narrowed in found:
        full, request = of_operator[narrowed.name], of_project[narrowed.name]
        assert asked is None or narrowed.name in asked
        assert narrowed.max_ttl_s <= min(full.max_ttl_s, request.ttl_s or full.max_ttl_s)
        assert (narrowed.secret, narrowed.role, narrowed.environment) == (full.secret, full.role, full.environment)
        for rule in narrowed.endpoints:
            assert rule in full.endpoints or rule.git is None
            if rule.git is None and fits(rule, method, path):
                assert request.methods is None or method in request.methods
                assert request.paths is None or any(matches(p, path) for p in request.paths)
                assert any(fits(o, method, path) and o.websocket == rule.websocket for o in full.endpoints if not o.git)


@given(_CREDENTIALS, _PROJECT, st.sampled_from(["GET", "POST", "PUT"]), _PATH)
def test_narrowing_takes_nothing_away_that_both_allow(
    credentials: tuple[Credential, ...], grants: list[GrantRequest], method: str, path: str
) -> None:
    """The twin: an intersection that is always empty would never widen either."""
    try:
        found = {c.name: c for c in narrow(operator(*credentials), project(*grants), None)}
    except GrantRefused:
        return
    for grant in grants:
        asked = (grant.methods is None or method in grant.methods) and (
            grant.paths is None or any(matches(p, path) for p in grant.paths)
        )
        full = next(c for c in credentials if c.name == grant.credential)
        if asked and any(fits(rule, method, path) for rule in full.endpoints if not rule.git):
            assert any(fits(rule, method, path) for rule in found[grant.credential].endpoints if not rule.git)
