"""The language of grants for Redis, and what a server's own words for them mean."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from leasehold.broker.issuers.redis_grants import BY_NAME, CATEGORIES, NOTHING, Right, described, parse, right, rules
from leasehold.core.toml import Wrong

SERVER = {
    **dict.fromkeys(CATEGORIES, ()),
    "read": ("get", "keys", "scan", "function|dump", "xinfo|stream"),
    "write": ("set", "flushall", "function|load"),
    "connection": ("ping", "client|kill", "client|setname", "client|tracking", "command", "command|docs"),
    "fast": ("get", "ping", "set"),
    "slow": ("keys", "scan", "flushall", "client", "xinfo", "function", "script|load", "script|flush"),
    "dangerous": ("keys", "flushall", "client|kill"),
    "admin": ("acl|setuser", "client|kill"),
}


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("~orders:* +@read", "~orders:* +@read"),
        ("+@READ ~b ~a &n +GET +@list", "~a ~b &n +@list +@read +get"),
        ("%RW~a %R~b %W~c +get", "%R~b %W~c ~a +get"),
        ("+client|setname", "+client|setname"),
        ("~* &* +json.get", "~* &* +json.get"),
        ("~{u1}:[a-f]? +get", "~{u1}:[a-f]? +get"),
    ],
)
def test_each_has_one_way_to_be_written(text: str, canonical: str) -> None:
    assert str(parse(text)) == canonical
    assert parse(canonical) == parse(text)


@given(st.text(alphabet="~&%RW+-@()>#* \"'\\\n|abcdgetr:", max_size=24))
def test_what_is_read_can_be_written_and_read_again(text: str) -> None:
    try:
        grant = parse(text)
    except Wrong as e:
        assert e.hint
        return
    assert parse(str(grant)) == grant
    assert not set(str(grant)) & set("()>#\"'\\\n")


@pytest.mark.parametrize(
    ("text", "keys", "commands"),
    [
        ("~a +@read", {"~a"}, {"get", "xinfo|stream"}),
        ("~a +@read +scan", {"~a"}, {"get", "xinfo|stream", "scan"}),
        ("~a +@read +@write", {"~a"}, {"get", "xinfo|stream", "set"}),
        ("+@connection", set(), {"ping", "client|setname", "command|docs"}),
        ("+@geo +script|load", set(), {"script|load"}),
    ],
)
def test_a_category_brings_what_is_harmless(text: str, keys: set[str], commands: set[str]) -> None:
    assert right(parse(text), SERVER) == Right(keys=frozenset(keys), channels=frozenset(), commands=frozenset(commands))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("+keys", "dangerous"),
        ("+client|kill", "dangerous"),
        ("+nothing", "no command"),
        ("+client", "no command"),
        ("+command", "no command"),
    ],
)
def test_a_command_that_cannot_be_is_named(text: str, said: str) -> None:
    with pytest.raises(Wrong, match=said) as caught:
        right(parse(text), SERVER)
    assert text in str(caught.value)


CHOICES = st.fixed_dictionaries(
    {
        "keys": st.sets(st.sampled_from(["~a", "%R~b:*", "%W~c"])),
        "channels": st.sets(st.sampled_from(["&n", "&m.*"])),
        "categories": st.sets(st.sampled_from(["+@read", "+@write", "+@connection", "+@geo"])),
        "commands": st.sets(st.sampled_from(["+scan", "+get", "+client|setname", "+client|tracking"]), min_size=1),
    }
)


@given(CHOICES)
def test_rules_mean_what_the_grant_means(chosen: dict[str, set[str]]) -> None:
    grant = parse(" ".join(word for words in chosen.values() for word in sorted(words)))
    wanted = right(grant, SERVER)
    words = rules(grant, SERVER).removeprefix("(").removesuffix(")").split()
    fields = {
        "commands": " ".join(word for word in words if word[0] in "+-"),
        "keys": " ".join(grant.keys),
        "channels": " ".join(grant.channels),
    }
    assert described(fields, SERVER) == wanted
    assert wanted.commands & BY_NAME <= {word[1:] for word in chosen["commands"]}
    assert not wanted.commands & {*SERVER["dangerous"], *SERVER["admin"], "function|load", "function|dump"}


@pytest.mark.parametrize(
    ("commands", "expected"),
    [
        ("-@all", set()),
        ("-@all +@fast -set", {"get", "ping"}),
        ("+@all -@all +client|kill", {"client|kill"}),
        ("-@all +client -client|kill", {"client|setname", "client|tracking"}),
        ("-@all +@read -@dangerous", {"get", "scan", "function|dump", "xinfo|stream"}),
    ],
)
def test_a_servers_words_are_understood_in_their_order(commands: str, expected: set[str]) -> None:
    found = described({"commands": commands, "keys": "~a ~b", "channels": ""}, SERVER)
    assert found == Right(keys=frozenset({"~a", "~b"}), channels=frozenset(), commands=frozenset(expected))


def test_a_right_is_shown_with_its_first_commands() -> None:
    assert str(NOTHING) == "nothing"
    assert str(described({"commands": "+get +set", "keys": "~a", "channels": "&n"}, SERVER)) == "&n ~a +get +set"
    assert str(described({"commands": "+@all", "keys": "~*", "channels": ""}, SERVER)).startswith("~* +acl|setuser ")
    assert str(described({"commands": "+@all", "keys": "", "channels": ""}, SERVER)).endswith(" commands")
