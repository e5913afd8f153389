"""Upstreams: what shares a cluster, and what never does."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from leasehold.core.model import Inject, InjectBasic, InjectHeader, InjectQuery, Rule
from leasehold.node.egress.model import Destination, Listen, upstreams

_INJECT: list[Inject | None] = [
    None,
    InjectHeader(name="authorization"),
    InjectHeader(name="x-key"),
    InjectBasic(username="me"),
    InjectQuery(name="key"),
]
_RULES = st.tuples(
    st.sampled_from([None, "forge", "npm"]),
    st.builds(
        Rule,
        host=st.sampled_from(["a.test", "b.test"]),
        port=st.sampled_from([80, 443, 8443]),
        scheme=st.sampled_from(["http", "https"]),
        paths=st.sampled_from([(), ("/a",), ("/b/**",)]),
        websocket=st.booleans(),
        inject=st.sampled_from(_INJECT),
    ),
)


@pytest.mark.parametrize(
    ("scheme", "port", "authority"),
    [
        ("https", 443, "a.test"),
        ("http", 80, "a.test"),
        ("https", 8443, "a.test:8443"),
        ("http", 443, "a.test:443"),
        ("https", 80, "a.test:80"),
    ],
)
def test_the_port_is_named_only_when_it_is_not_the_schemes_own(scheme: str, port: int, authority: str) -> None:
    assert Destination(scheme=scheme, host="a.test", port=port).authority == authority


def test_a_listener_is_in_a_namespace_or_on_sockets_of_its_own() -> None:
    assert (Listen(netns="/n").netns, Listen().netns) == ("/n", None)
    assert Listen(netns="/n").sockets == {}


def test_rules_of_one_credential_at_one_place_share_a_cluster_in_their_order() -> None:
    first, second = Rule(host="a.test", paths=("/a",)), Rule(host="a.test", paths=("/b",))
    (found,) = upstreams("t1", [("forge", first), ("forge", second)])
    assert found.name == "t1/0/forge/a.test:443"
    assert found.rules == (first, second)


def test_a_host_without_a_credential_has_a_name_that_no_credential_can_have() -> None:
    (found,) = upstreams("t1", [(None, Rule(host="a.test"))])
    assert (found.name, found.credential, found.inject) == ("t1/0/-/a.test:443", None, None)


@given(st.lists(_RULES, max_size=8))
def test_no_cluster_is_ever_shared_between_credentials_places_or_ways(rules: list[tuple[str | None, Rule]]) -> None:
    found = upstreams("t1", rules)
    assert len({upstream.name for upstream in found}) == len(found)
    for upstream in found:
        place = (upstream.destination.scheme, upstream.destination.host, upstream.destination.port)
        for rule in upstream.rules:
            assert (upstream.credential, rule) in rules
            assert (rule.scheme, rule.host, rule.port) == place
            assert (rule.inject, rule.websocket) == (upstream.inject, upstream.websocket)
    assert sorted(repr((u.credential, rule)) for u in found for rule in u.rules) == sorted(map(repr, rules))
