"""Placeholders that are recognised again."""

from __future__ import annotations

import re

from hypothesis import given
from hypothesis import strategies as st

from leasehold.node.guard.canaries import find_canaries, is_canary, new_canary


def test_looks_like_a_key_of_its_kind() -> None:
    assert re.fullmatch(r"sk-ant-api03-[0-9A-Za-z]{40}", new_canary("sk-ant-api03-"))
    assert re.fullmatch(r"[0-9A-Za-z]{40}", new_canary(""))


def test_none_is_made_twice() -> None:
    assert len({new_canary("") for _ in range(1000)}) == 1000


@given(st.text(max_size=20), st.text(alphabet=" \"'\n:,/", min_size=1, max_size=5))
def test_is_found_again_in_any_text(prefix: str, other: str) -> None:
    canary = new_canary(prefix)
    assert is_canary(canary)
    assert find_canaries(f"{other}{canary}{other}{canary}") == [canary[-40:]]


def test_what_only_looks_like_one_is_not() -> None:
    canary = new_canary("")
    changed = canary[:-1] + ("a" if canary[-1] != "a" else "b")
    assert not is_canary(changed) and not is_canary("x" * 40) and not is_canary(canary + "x") and not is_canary("")
    assert find_canaries(changed) == []
