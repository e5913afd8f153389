"""The language of grants for MariaDB and MySQL, and what a server's own words for them mean."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from leasehold.broker.issuers.mysql_grants import OWN_DATABASES, Right, account, at, expected, parse, quoted, said
from leasehold.core.toml import Wrong

USER = "`lh_a`@`%`"


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("SELECT ON shop.orders", "SELECT ON shop.orders"),
        (" update ,select  on Shop.Orders ", "SELECT, UPDATE ON Shop.Orders"),
        ("select on shop.*", "SELECT ON shop.*"),
        ("lock tables, create temporary tables ON a_b.*", "CREATE TEMPORARY TABLES, LOCK TABLES ON a_b.*"),
        ("show view, index, drop, alter, create on a.b", "CREATE, ALTER, DROP, INDEX, SHOW VIEW ON a.b"),
        ("execute on procedure a.p", "EXECUTE ON PROCEDURE a.p"),
        ("execute on function a.f$1", "EXECUTE ON FUNCTION a.f$1"),
    ],
)
def test_each_has_one_way_to_be_written(text: str, canonical: str) -> None:
    assert str(parse(text)) == canonical
    assert parse(canonical) == parse(text)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "nothing or control"),
        ("SELECT ON a.b\n", "nothing or control"),
        ("SELECT ON *.*", "no grant"),
        ("SELECT ON `a`.b", "no grant"),
        ("SELECT (x) ON a.b", "no grant"),
        (f"SELECT ON a.{'b' * 65}", "no grant"),
        ("SELECT ON 1.b", "no grant"),
        ("ALL ON a.*", "found ALL"),
        ("ALL PRIVILEGES ON a.*", "found ALL PRIVILEGES"),
        ("SELECT, GRANT OPTION ON a.b", "found GRANT OPTION"),
        ("SUPER ON a.*", "found SUPER"),
        ("TRIGGER ON a.b", "found TRIGGER"),
        ("LOCK TABLES ON a.b", "found LOCK TABLES"),
        ("SELECT ON FUNCTION a.b", "found SELECT"),
        ("SELECT, select ON a.b", "twice"),
        *((f"SELECT ON {name.upper()}.t", "own database") for name in sorted(OWN_DATABASES)),
        *((f"EXECUTE ON FUNCTION {name}.t", "own database") for name in sorted(OWN_DATABASES)),
    ],
)
def test_what_is_none_is_refused(text: str, why: str) -> None:
    with pytest.raises(Wrong, match=why) as caught:
        parse(text)
    assert caught.value.hint


@given(st.text(alphabet="SELECTonprcdufi *.,`'\"\\;()%_-$a1\n", max_size=32))
def test_what_is_read_can_be_written_and_read_again(text: str) -> None:
    try:
        grant = parse(text)
    except Wrong as e:
        assert e.hint
        return
    assert parse(str(grant)) == grant
    assert not {*str(grant)} & {*"`'\"\\;()%-\n"}


@pytest.mark.parametrize(
    ("text", "patterns", "literal"),
    [
        ("SELECT ON a_b.*", r"`a\_b`.*", "`a_b`.*"),
        ("SELECT ON a_b.c_d", "`a_b`.`c_d`", "`a_b`.`c_d`"),
        ("EXECUTE ON PROCEDURE a_b.c", "PROCEDURE `a_b`.`c`", "PROCEDURE `a_b`.`c`"),
        ("EXECUTE ON FUNCTION a.c", "FUNCTION `a`.`c`", "FUNCTION `a`.`c`"),
    ],
)
def test_an_underscore_stands_for_itself(text: str, patterns: str, literal: str) -> None:
    grant = parse(text)
    assert (at(grant, patterns=True), at(grant, patterns=False)) == (patterns, literal)
    [right] = expected(grant, patterns=True)
    assert right == Right(privilege=text.split()[0], at=patterns)


def test_a_quote_in_a_name_is_no_end_of_it() -> None:
    assert quoted("a`b") == "`a``b`"
    assert account("a`", "%`") == "`a```@`%```"


def test_what_a_server_says_is_read() -> None:
    lines = [
        f"GRANT USAGE ON *.* TO {USER} IDENTIFIED BY PASSWORD '*AB' REQUIRE SSL WITH MAX_USER_CONNECTIONS 2",
        f"GRANT SELECT, LOCK TABLES ON `a\\_b`.* TO {USER}",
        f"GRANT EXECUTE ON PROCEDURE `a`.`p` TO {USER}",
    ]
    assert {str(right) for right in said(lines, USER)} == {
        r"SELECT ON `a\_b`.*",
        r"LOCK TABLES ON `a\_b`.*",
        "EXECUTE ON PROCEDURE `a`.`p`",
    }


@pytest.mark.parametrize(
    ("line", "more"),
    [
        (f"GRANT USAGE ON *.* TO {USER} WITH GRANT OPTION", "USAGE ON *.* WITH GRANT OPTION"),
        (f"GRANT SELECT ON `a`.`b` TO {USER} WITH GRANT OPTION", "SELECT ON `a`.`b` WITH GRANT OPTION"),
        (f"GRANT ALL PRIVILEGES ON `a`.* TO {USER}", "ALL PRIVILEGES ON `a`.*"),
        (f"GRANT BACKUP_ADMIN ON *.* TO {USER}", "BACKUP_ADMIN ON *.*"),
        (f"GRANT SELECT (`x`) ON `a`.`b` TO {USER}", "SOMETHING ON what no grant names"),
        (f"GRANT `helpers`@`%` TO {USER}", "SOMETHING ON what no grant names"),
        (f"GRANT PROXY ON `root`@`%` TO {USER}", "PROXY ON `root`@`%`"),
        ("GRANT SELECT ON `a`.`b` TO `lh_b`@`%`", "SOMETHING ON what no grant names"),
        ("SET DEFAULT ROLE `x` FOR `lh_a`@`%` USING '*AB'", "SOMETHING ON what no grant names"),
    ],
)
def test_what_no_grant_is_counts_as_more(line: str, more: str) -> None:
    assert [str(right) for right in said([line], USER)] == [more]
