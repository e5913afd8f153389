"""Patterns as sets of paths: an intersection is exactly what both match, whatever is spelled in them."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from leasehold.core.paths import check_pattern, intersection, matches, within

# Literals that a wildcard does not stand for are what makes the difference.
_LITERALS = ["a", "b", ".a", "%2F", "..%2fx", "..;", "a;b", "%41", "a%5Cb"]
_SEGMENTS = st.lists(st.sampled_from([*_LITERALS, "*"]), max_size=3)
_ENDS = st.sampled_from([[], ["**"], [""]])
PATTERNS = st.builds(lambda s, end: "/" + "/".join(s + end), _SEGMENTS, _ENDS)
PATHS = st.builds(
    lambda s, end: "/" + "/".join(s) + (end if s else ""),
    st.lists(st.sampled_from(_LITERALS), max_size=4),
    st.sampled_from(["", "/"]),
)


@given(PATTERNS, PATTERNS, PATHS)
@example("/a/**", "/a/..%2fx", "/a/..%2fx")
@example("/a/**", "/a", "/a/")
@example("/**", "/", "/")
def test_an_intersection_is_exactly_what_both_match(a: str, b: str, path: str) -> None:
    both = intersection(a, b)
    if both is not None:
        check_pattern(both)
    assert (both is not None and matches(both, path)) == (matches(a, path) and matches(b, path))


@given(PATTERNS, PATTERNS)
def test_an_intersection_does_not_depend_on_the_order(a: str, b: str) -> None:
    assert intersection(a, b) == intersection(b, a)


@given(PATTERNS, PATTERNS, PATHS)
def test_within_means_that_nothing_more_matches(narrow: str, wide: str, path: str) -> None:
    if within(narrow, wide) and matches(narrow, path):
        assert matches(wide, path)


@pytest.mark.parametrize(
    ("a", "b", "both"),
    [
        ("/a/*/c", "/a/b/*", "/a/b/c"),
        ("/a/**", "/a/*/c", "/a/*/c"),
        ("/a/**", "/a/b/**", "/a/b/**"),
        ("/a/*", "/a/**", "/a/*"),
        ("/**", "/a", "/a"),
        ("/a/", "/a/**", "/a/"),
        ("/a", "/a/", None),
        ("/a/*", "/a", None),
        ("/a/b", "/a/c", None),
        ("/a/**", "/a/..%2f..%2fuser", None),
        ("/a/*", "/a/b%5cc", None),
        ("/a/**", "/a/..;/b", None),
    ],
)
def test_intersections(a: str, b: str, both: str | None) -> None:
    assert intersection(a, b) == both


def test_a_spelled_separator_is_not_within_a_wildcard() -> None:
    """What a wildcard leaves out on purpose cannot be asked for by spelling it."""
    assert not within("/repos/acme/web/..%2f..%2fuser", "/repos/acme/web/**")
    assert within("/repos/acme/web/issues", "/repos/acme/web/**")
