"""Path patterns: what matches is exactly what is meant, and a narrower pattern never matches more."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from leasehold.core.paths import check_pattern, matches, within


@pytest.mark.parametrize(
    ("pattern", "path"),
    [
        ("/", "/"),
        ("/user", "/user"),
        ("/repos/acme/web/**", "/repos/acme/web"),
        ("/repos/acme/web/**", "/repos/acme/web/"),
        ("/repos/acme/web/**", "/repos/acme/web/issues/1"),
        ("/repos/*/web", "/repos/acme/web"),
        ("/**", "/"),
        ("/**", "/a/.well-known/b"),
        ("/files/*", "/files/a%20b.txt"),
        ("/projects/acme%2Fweb/**", "/projects/acme%2Fweb/issues"),
    ],
)
def test_matches(pattern: str, path: str) -> None:
    assert matches(pattern, path)


@pytest.mark.parametrize(
    ("pattern", "path"),
    [
        ("/user", "/user/"),
        ("/user", "/users"),
        ("/repos/acme/web/**", "/repos/acme/webhooks"),
        ("/repos/acme/web/**", "/repos/acme/web/..;/..;/user"),
        ("/repos/acme/web/**", "/repos/acme/web/.;/user"),
        ("/repos/acme/web/**", "/repos/acme/web/..%2f..%2fuser"),
        ("/repos/acme/web/**", "/repos/acme/web/..%5c..%5cuser"),
        ("/repos/acme/web/**", "/repos/acme/web/..\\user"),
        ("/repos/acme/web/**", "/repos/acme/web/%252e%252e/user"),
        ("/repos/acme/web/**", "/repos/acme/web/a%00b"),
        ("/repos/acme/web/**", "/repos/acme/web/a%0d%0ab"),
        ("/repos/acme/web/**", "/repos/acme/web//x"),
        ("/repos/*/web", "/repos/a/b/web"),
        ("/repos/*/web", "/repos//web"),
        ("/repos/*/web", "/repos/a%2fb/web"),
        ("/a.c", "/abc"),
        ("/a+", "/aa"),
    ],
)
def test_does_not_match(pattern: str, path: str) -> None:
    assert not matches(pattern, path)


@pytest.mark.parametrize(
    "pattern", ["", "user", "/a/**/b", "/a*", "/a//b", "/../a", "/a/./b", "/a b", "/a?b", "/a#b", "/a%2", "/a%zz", "/ä"]
)
def test_refused(pattern: str) -> None:
    with pytest.raises(ValueError, match="path"):
        check_pattern(pattern)


_SEGMENTS = st.lists(st.sampled_from(["a", "b", "*"]), max_size=4)
_PATTERNS = st.builds(lambda s, rest: "/" + "/".join([*s, "**"] if rest else s), _SEGMENTS, st.booleans())
_PATHS = st.lists(st.sampled_from(["a", "b", "c"]), max_size=5).map(lambda s: "/" + "/".join(s))


@given(_PATTERNS, _PATTERNS, _PATHS)
def test_within_means_that_nothing_more_matches(narrow: str, wide: str, path: str) -> None:
    if within(narrow, wide) and matches(narrow, path):
        assert matches(wide, path)


@given(_PATTERNS)
def test_every_pattern_is_within_itself(pattern: str) -> None:
    assert within(pattern, pattern)


@pytest.mark.parametrize(
    ("narrow", "wide", "holds"),
    [
        ("/a/b", "/a/**", True),
        ("/a/**", "/a/*", False),
        ("/a/*", "/a/b", False),
        ("/a/b/c", "/a/*", False),
        ("/", "/*", False),
        ("/a", "/a/b", False),
    ],
)
def test_within(narrow: str, wide: str, holds: bool) -> None:
    assert within(narrow, wide) is holds
