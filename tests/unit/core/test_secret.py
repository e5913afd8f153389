"""A secret cannot get out by accident; the one exit gives it whole."""

from __future__ import annotations

import copy
import pickle

import pytest

from leasehold.core.secret import Secret

VALUE = b"tok-4711-secret"


@pytest.mark.parametrize("show", [repr, str, "{}".format, "{!r:>20}".format, lambda s: f"{s}", lambda s: "%s" % s])  # noqa: UP031  # the old form is one of the ways
def test_no_way_of_printing_shows_it(show) -> None:  # type: ignore[no-untyped-def]
    assert "4711" not in show(Secret(VALUE))


def test_it_is_in_no_container_or_exception() -> None:
    assert "4711" not in repr([Secret(VALUE)]) + repr({"a": Secret(VALUE)}) + repr(ValueError(Secret(VALUE)))


@pytest.mark.parametrize("carry", [pickle.dumps, copy.copy, copy.deepcopy, hash])
def test_it_cannot_be_carried_away(carry) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(TypeError):
        carry(Secret(VALUE))


def test_reveal_is_the_one_exit_and_comparison_is_by_value() -> None:
    assert Secret(VALUE).reveal() == VALUE
    assert Secret(VALUE) == Secret(VALUE)
    assert Secret(VALUE) != Secret(b"other")
    assert Secret(VALUE) != VALUE
    assert len(Secret(VALUE)) == len(VALUE)


def test_it_takes_bytes_only() -> None:
    with pytest.raises(TypeError):
        Secret("text")  # type: ignore[arg-type]
