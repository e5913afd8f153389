"""Filters of a cluster with a credential, and values that may be sent. ``test_scrubber`` tries them in Envoy."""

from __future__ import annotations

import base64
import re

import pytest
from envoy.config.common.mutation_rules.v3.mutation_rules_pb2 import HeaderMutation as Change
from envoy.config.core.v3.base_pb2 import HeaderValueOption
from envoy.config.core.v3.config_source_pb2 import ConfigSource
from envoy.extensions.filters.http.credential_injector.v3.credential_injector_pb2 import CredentialInjector
from envoy.extensions.filters.http.header_mutation.v3.header_mutation_pb2 import HeaderMutation
from envoy.extensions.filters.http.lua.v3.lua_pb2 import Lua
from envoy.extensions.http.injected_credentials.generic.v3.generic_pb2 import Generic

from leasehold.core.errors import SecretUnavailable
from leasehold.core.model import Inject, InjectBasic, InjectHeader, InjectQuery
from leasehold.core.secret import Secret
from leasehold.node.egress.scrub import (
    CREDENTIAL_HEADERS,
    MINTED_HEADERS,
    PRIVATE_HEADER,
    secret_header_value,
    upstream_filters,
)
from unit.node.egress.parts import BEARER, unpacked

_PLAIN = InjectHeader(name="X-Key")
_BASIC = InjectBasic(username="x-access-token")
_QUERY = InjectQuery(name="api_key")
_WAYS = pytest.mark.parametrize("inject", [BEARER, _PLAIN, _BASIC, _QUERY])
_EACH = pytest.mark.parametrize(
    ("inject", "header"),
    [(BEARER, "authorization"), (_PLAIN, "x-key"), (_BASIC, "authorization"), (_QUERY, PRIVATE_HEADER)],
)


@pytest.mark.parametrize(
    ("inject", "value"),
    [
        (BEARER, b"Bearer made-up"),
        (_PLAIN, b"made-up"),
        (InjectHeader(name="X-Key", format="a {secret}\tb"), b"a made-up\tb"),
        (_QUERY, b"made-up"),
        (_BASIC, b"Basic " + base64.b64encode(b"x-access-token:made-up")),
    ],
)
def test_the_value_of_the_header_is_made_by_the_way_of_injection(inject: Inject, value: bytes) -> None:
    assert secret_header_value(inject, Secret(b"made-up")).reveal() == value


@_WAYS
@pytest.mark.parametrize("control", [b"\r\nx-other: 1", b"\n", b"\x00", b"\x1b", b"\x7f"])
def test_a_secret_that_could_end_its_header_is_refused(inject: Inject, control: bytes) -> None:
    for secret in (b"made" + control + b"up", b"made-up" + control):
        with pytest.raises(SecretUnavailable, match="control character"):
            secret_header_value(inject, Secret(secret))


def test_so_is_a_format_or_a_user_name_that_could() -> None:
    for inject in (InjectHeader(name="X-Key", format="a\r\n{secret}"), InjectHeader(name="X-Key", format="{secret}\n")):
        with pytest.raises(SecretUnavailable, match="control character"):
            secret_header_value(inject, Secret(b"made-up"))


@_WAYS
def test_a_secret_too_short_to_be_kept_from_coming_back_is_refused(inject: Inject) -> None:
    with pytest.raises(SecretUnavailable, match="at least 4 bytes"):
        secret_header_value(inject, Secret(b"abc"))
    assert secret_header_value(inject, Secret(b"abcd"))


def test_what_is_not_ascii_goes_only_as_a_password() -> None:
    secret = Secret("pässword".encode())
    for inject in (BEARER, _PLAIN, _QUERY, InjectHeader(name="X-Key", format="ü {secret}")):
        with pytest.raises(SecretUnavailable, match="not ASCII"):
            secret_header_value(inject, secret)
    assert secret_header_value(_BASIC, secret).reveal().isascii()


def test_a_blank_that_http_would_take_off_is_refused_and_one_inside_is_not() -> None:
    for secret in (b" made-up", b"made-up ", b"made-up\t"):
        with pytest.raises(SecretUnavailable, match="blank"):
            secret_header_value(_PLAIN, Secret(secret))
    assert secret_header_value(_PLAIN, Secret(b"made up")).reveal() == b"made up"


def test_a_header_longer_than_servers_take_is_refused() -> None:
    longest = 16_384 - len("Bearer ")
    assert len(secret_header_value(BEARER, Secret(b"x" * longest))) == 16_384
    with pytest.raises(SecretUnavailable, match="longer than 16384 bytes"):
        secret_header_value(BEARER, Secret(b"x" * (longest + 1)))


@pytest.mark.parametrize("form", ["Bearer", "", "{secret}{secret}", "{secret} {secret}"])
def test_a_format_has_the_secret_once(form: str) -> None:
    with pytest.raises(SecretUnavailable, match=r"does not have \{secret\} once"):
        secret_header_value(InjectHeader(name="X-Key", format=form), Secret(b"made-up"))


@pytest.mark.parametrize(
    ("inject", "secret"),
    [
        (BEARER, b"made-up\n"),
        (BEARER, b"pw1"),
        (_PLAIN, "mäde-up".encode()),
        (_PLAIN, b" made-up"),
        (InjectHeader(name="X-Key", format="none"), b"made-up"),
    ],
)
def test_no_refusal_says_the_secret(inject: Inject, secret: bytes) -> None:
    with pytest.raises(SecretUnavailable) as refused:
        secret_header_value(inject, Secret(secret))
    text = f"{refused.value} {refused.value.hint}"
    assert secret.decode().strip() not in text


def _parts(inject: Inject) -> tuple[HeaderMutation, CredentialInjector, str]:
    carriers, injector, scrubber = upstream_filters(inject, "u/secret", ConfigSource(ads={}))
    script = unpacked(scrubber.typed_config, Lua).default_source_code.inline_string
    return unpacked(carriers.typed_config, HeaderMutation), unpacked(injector.typed_config, CredentialInjector), script


def _removed(changes: list[Change]) -> set[str]:
    one_by_one = {change.remove for change in changes if change.WhichOneof("action") == "remove"}
    matched = [change.remove_on_match for change in changes if change.WhichOneof("action") == "remove_on_match"]
    # No name has a character that means something in a pattern, so that each alternative stands for itself.
    return one_by_one | {
        name.replace("\\-", "-") for rule in matched for name in rule.key_matcher.safe_regex.regex.split("|")
    }


def test_a_cluster_without_a_credential_has_no_filter() -> None:
    assert upstream_filters(None, "u/secret", None) == []


@_EACH
def test_every_carrier_of_the_agents_own_goes_before_ours_is_set(inject: Inject, header: str) -> None:
    names = [part.name for part in upstream_filters(inject, "u/secret", None)]
    assert names == ["leasehold.carriers", "leasehold.injector", "leasehold.scrubber"]
    removed = _removed(_parts(inject)[0].mutations.request_mutations)
    assert removed >= {*CREDENTIAL_HEADERS, PRIVATE_HEADER, header, "cookie", "authorization", "x-api-key"}
    assert removed >= {"range", "if-range", "sec-websocket-extensions"}


def test_carriers_are_named_as_envoy_compares_them() -> None:
    assert all(re.fullmatch(r"[a-z0-9-]+", name) for name in (*CREDENTIAL_HEADERS, *MINTED_HEADERS, PRIVATE_HEADER))
    assert list(CREDENTIAL_HEADERS) == sorted(set(CREDENTIAL_HEADERS))


@_WAYS
def test_the_upstream_is_asked_for_what_can_be_searched(inject: Inject) -> None:
    changes = _parts(inject)[0].mutations.request_mutations
    options = [change.append for change in changes if change.WhichOneof("action") == "append"]
    assert [(o.header.key, o.header.value, o.append_action) for o in options] == [
        ("accept-encoding", "identity", HeaderValueOption.OVERWRITE_IF_EXISTS_OR_ADD),
        ("grpc-accept-encoding", "identity", HeaderValueOption.OVERWRITE_IF_EXISTS),
    ]


@_WAYS
def test_what_our_credential_minted_does_not_come_back(inject: Inject) -> None:
    assert _removed(_parts(inject)[0].mutations.response_mutations) == set(MINTED_HEADERS)
    assert "set-cookie" in MINTED_HEADERS


@_EACH
def test_ours_replaces_what_is_there_and_nothing_goes_out_without_it(inject: Inject, header: str) -> None:
    injector = _parts(inject)[1]
    assert injector.overwrite
    assert not injector.allow_request_without_credential
    generic = unpacked(injector.credential.typed_config, Generic)
    assert (generic.header, generic.credential.name) == (header, "u/secret")
    assert generic.credential.sds_config.HasField("ads")


def test_a_secret_of_the_bootstrap_is_named_without_a_source() -> None:
    injector = unpacked(upstream_filters(BEARER, "u/secret", None)[1].typed_config, CredentialInjector)
    assert not unpacked(injector.credential.typed_config, Generic).credential.HasField("sds_config")


@pytest.mark.parametrize(
    ("inject", "settings"),
    [
        (BEARER, {"before": "7", "after": "0", "basic": "false", "query": "nil", "header": "authorization"}),
        (
            InjectHeader(name="X-Key", format="a{secret}bc"),
            {"before": "1", "after": "2", "basic": "false", "query": "nil", "header": "x-key"},
        ),
        (_BASIC, {"before": "6", "after": "0", "basic": "true", "query": "nil", "header": "authorization"}),
        (_QUERY, {"before": "0", "after": "0", "basic": "false", "query": "api_key", "header": PRIVATE_HEADER}),
    ],
)
def test_the_scrubber_is_told_where_in_the_header_the_secret_stands(inject: Inject, settings: dict[str, str]) -> None:
    found = _settings(_parts(inject)[2])
    assert found.pop("folder").endswith("node/egress/")
    assert found == settings


def test_a_name_cannot_leave_its_place_in_the_script() -> None:
    hostile = '"]} os.execute("x") --'
    script = _parts(InjectQuery(name=hostile))[2]
    assert "os.execute" not in script
    assert _settings(script)["query"] == hostile


def test_the_script_answers_for_itself_when_it_fails() -> None:
    script = _parts(BEARER)[2]
    assert "scrubber-failed" in script
    assert 'handle:respond({[":status"] = "502"' in script
    assert "could not be prepared" in _unquoted(script)


def _settings(script: str) -> dict[str, str]:
    """The table that the loader hands to ``scrubber.lua``, as its Lua reads it."""
    match = re.search(r"\)\(\{(.*)\}\)\n", script)
    assert match
    return dict(re.findall(r"(\w+) = (?:\"|)(.*?)(?:\"|)(?:, (?=\w+ = )|$)", _unquoted(match[1])))


def _unquoted(script: str) -> str:
    return re.sub(r"\\(\d{3})", lambda code: chr(int(code[1])), script)
