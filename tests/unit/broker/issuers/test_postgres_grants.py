"""The language of grants: what it takes, what it refuses, and what becomes of it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from leasehold.broker.issuers import postgres_grants as grants
from leasehold.broker.issuers.postgres_grants import Grant, Right, Target, parse
from leasehold.core.toml import Wrong

RELATIONS = [
    ("TABLE", "shop", "orders", ("SELECT", "INSERT")),
    ("TABLE", "shop", "secrets", ()),
    ("TABLE", "other", "orders", ("SELECT",)),
    ("SEQUENCE", "shop", "orders_id_seq", ("USAGE", "SELECT")),
]
NAMES = st.from_regex(r"[a-z_][a-z0-9_$]{0,20}", fullmatch=True).filter(lambda name: not name.startswith("pg_"))


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("CONNECT", "CONNECT"),
        ("temporary", "TEMPORARY"),
        ("select on shop.orders", "SELECT ON TABLE shop.orders"),
        ("SELECT ON TABLE Shop.Orders", "SELECT ON TABLE shop.orders"),
        ("INSERT ,SELECT,  UPDATE on table shop.orders", "SELECT, INSERT, UPDATE ON TABLE shop.orders"),
        ("DELETE, TRUNCATE ON shop.orders$1", "DELETE, TRUNCATE ON TABLE shop.orders$1"),
        ("SELECT ON ALL TABLES IN SCHEMA shop", "SELECT ON ALL TABLES IN SCHEMA shop"),
        ("USAGE, SELECT ON SEQUENCE shop.s", "USAGE, SELECT ON SEQUENCE shop.s"),
        ("UPDATE ON ALL SEQUENCES IN SCHEMA shop", "UPDATE ON ALL SEQUENCES IN SCHEMA shop"),
        ("CREATE, USAGE ON SCHEMA shop", "USAGE, CREATE ON SCHEMA shop"),
        ("MEMBER OF Reporting", "MEMBER OF reporting"),
        ("MEMBER OF pg_read_all_data", "MEMBER OF pg_read_all_data"),
        ("SELECT ON table.schema", "SELECT ON TABLE table.schema"),
    ],
)
def test_each_form_is_read_and_has_one_way_to_be_written(text: str, canonical: str) -> None:
    assert str(parse(text)) == canonical
    assert parse(canonical) == parse(text)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "nothing"),
        ("SELECT\nON shop.orders", "control"),
        ("SELECT ON shop.\u043erders", "control"),
        ("SELECT", "no grant"),
        ("CREATE", "no grant"),
        ("CONNECT, TEMPORARY", "no grant"),
        ("SELECT ON orders", "no grant"),
        ("SELECT ON a.b.c", "no grant"),
        ("SELECT ON shop.*", "no grant"),
        ('SELECT ON "shop".orders', "no grant"),
        ("SELECT ON shop.orders; DROP TABLE shop.orders", "no grant"),
        ("SELECT ON shop.orders -- x", "no grant"),
        ("SELECT ON shop.orders WITH GRANT OPTION", "no grant"),
        ("SELECT ON shop.orders, shop.customers", "no grant"),
        ("SELECT ON 1shop.orders", "no grant"),
        (f"SELECT ON shop.{'a' * 64}", "no grant"),
        ("ALL PRIVILEGES ON shop.orders", "no grant"),
        ("ALL ON shop.orders", "found ALL"),
        ("TRIGGER ON shop.orders", "found TRIGGER"),
        ("USAGE ON shop.orders", "found USAGE"),
        ("DELETE ON SEQUENCE shop.s", "found DELETE"),
        ("SELECT ON SCHEMA shop", "found SELECT"),
        ("EXECUTE ON ALL TABLES IN SCHEMA shop", "found EXECUTE"),
        ("SELECT, SELECT ON shop.orders", "twice"),
        ("SELECT ON pg_catalog.pg_authid", "own schema"),
        ("SELECT ON ALL TABLES IN SCHEMA information_schema", "own schema"),
        ("CREATE ON SCHEMA pg_temp", "own schema"),
        ("MEMBER OF pg_execute_server_program", "beyond the data"),
        ("MEMBER OF pg_signal_backend", "beyond the data"),
        ("MEMBER OF a, b", "no grant"),
    ],
)
def test_everything_else_is_refused(text: str, said: str) -> None:
    with pytest.raises(Wrong, match=said) as caught:
        parse(text)
    assert caught.value.hint


@given(st.text(max_size=80))
def test_no_text_breaks_the_parser(text: str) -> None:
    try:
        parse(text)
    except Wrong:
        return


@given(NAMES, NAMES)
def test_names_arrive_quoted(schema: str, name: str) -> None:
    """Whatever they are, keywords too."""
    (statement,) = grants.granting(grants.expected(parse(f"SELECT ON TABLE {schema}.{name}"), "d", ()), "lh_one")
    assert statement.as_string() == f'GRANT SELECT ON TABLE "{schema}"."{name}" TO "lh_one"'


def rights(text: str) -> set[str]:
    return set(map(str, grants.expected(parse(text), "orders", RELATIONS)))


def test_a_grant_stands_for_rights() -> None:
    assert rights("CONNECT") == {"CONNECT ON DATABASE orders"}
    assert rights("MEMBER OF reporting") == {"MEMBER ON ROLE reporting"}
    assert rights("USAGE, CREATE ON SCHEMA shop") == {"USAGE ON SCHEMA shop", "CREATE ON SCHEMA shop"}
    assert rights("DELETE ON shop.orders") == {"DELETE ON TABLE shop.orders"}
    assert rights("USAGE ON SEQUENCE shop.s") == {"USAGE ON SEQUENCE shop.s"}


def test_all_are_those_that_the_issuer_may_hand_on() -> None:
    assert rights("SELECT ON ALL TABLES IN SCHEMA shop") == {"SELECT ON TABLE shop.orders"}
    assert rights("SELECT, DELETE ON ALL TABLES IN SCHEMA shop") == {"SELECT ON TABLE shop.orders"}
    assert rights("USAGE ON ALL SEQUENCES IN SCHEMA shop") == {"USAGE ON SEQUENCE shop.orders_id_seq"}
    assert rights("SELECT ON ALL TABLES IN SCHEMA empty") == set()


def test_a_right_that_may_be_handed_on_is_another_right() -> None:
    plain = Right(kind="TABLE", schema="shop", name="orders", privilege="SELECT")
    more = Right(kind="TABLE", schema="shop", name="orders", privilege="SELECT", grantable=True)
    assert plain != more
    assert str(more) == "SELECT ON TABLE shop.orders WITH GRANT OPTION"


def test_statements_are_one_for_each_privilege() -> None:
    texts = ("CONNECT", "SELECT, INSERT ON b.t", "SELECT ON a.t", "USAGE ON SCHEMA a", "MEMBER OF r", "MEMBER OF q")
    wanted = frozenset[Right]().union(*(grants.expected(parse(text), "orders", ()) for text in texts))
    assert [statement.as_string() for statement in grants.granting(wanted, "lh_one")] == [
        'GRANT "q", "r" TO "lh_one"',
        'GRANT CONNECT ON DATABASE "orders" TO "lh_one"',
        'GRANT USAGE ON SCHEMA "a" TO "lh_one"',
        'GRANT SELECT ON TABLE "a"."t", "b"."t" TO "lh_one"',
        'GRANT INSERT ON TABLE "b"."t" TO "lh_one"',
    ]
    assert [statement.as_string() for statement in grants.revoking(wanted, "lh_one")] == [
        'REVOKE CONNECT ON DATABASE "orders" FROM "lh_one"',
        'REVOKE USAGE ON SCHEMA "a" FROM "lh_one"',
        'REVOKE SELECT ON TABLE "a"."t", "b"."t" FROM "lh_one"',
        'REVOKE INSERT ON TABLE "b"."t" FROM "lh_one"',
    ]


def test_what_a_catalogue_has_is_quoted_too() -> None:
    """Names there are anybody's."""
    right = Right(kind="TABLE", schema='a"; --', name="T", privilege="SELECT")
    (statement,) = grants.revoking([right], "lh_one")
    assert statement.as_string() == 'REVOKE SELECT ON TABLE "a""; --"."T" FROM "lh_one"'


@pytest.mark.parametrize(("text", "name"), [("Keepers", "keepers"), ("_a$1", "_a$1")])
def test_a_role_is_named(text: str, name: str) -> None:
    assert grants.role(text) == name


@pytest.mark.parametrize("text", ["", "a b", 'a"', "a; DROP ROLE b", "pg_monitor", "1a", "\u00e9"])
def test_what_is_no_name_of_a_role_is_refused(text: str) -> None:
    with pytest.raises(Wrong):
        grants.role(text)


def test_a_grant_is_a_value() -> None:
    assert parse("CONNECT") == Grant(privileges=("CONNECT",), target=Target.DATABASE)
