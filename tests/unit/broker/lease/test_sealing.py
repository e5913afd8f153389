"""A recipe opens with its key, for its lease, as it was sealed; and in no other way."""

from __future__ import annotations

import pytest

from leasehold.broker.lease.sealing import Recipes
from leasehold.core.errors import LedgerError
from leasehold.core.secret import Secret

KEY, OTHER = Secret(b"k" * 32), Secret(b"o" * 32)
RECIPE = Secret(b'{"password": "hush-hush"}')


def test_what_is_sealed_for_a_lease_opens_for_it() -> None:
    sealed = Recipes(KEY).seal("1", RECIPE)
    assert Recipes(KEY).open("1", sealed) == RECIPE
    assert b"hush" not in sealed
    assert Recipes(KEY).open("1", Recipes(KEY).seal("1", Secret(b""))) == Secret(b"")


def test_the_same_recipe_is_sealed_anew_each_time() -> None:
    recipes = Recipes(KEY)
    first, second = recipes.seal("1", RECIPE), recipes.seal("1", RECIPE)
    assert first[:12] != second[:12] and first[12:] != second[12:]


def changed(sealed: bytes, at: int) -> bytes:
    return sealed[:at] + bytes([sealed[at] ^ 1]) + sealed[at + 1 :]


@pytest.mark.parametrize("at", [0, 11, 12, -1])
def test_what_was_changed_does_not_open(at: int) -> None:
    sealed = Recipes(KEY).seal("1", RECIPE)
    refused(Recipes(KEY), "1", changed(sealed, at % len(sealed)))


@pytest.mark.parametrize("length", [0, 5, 12, 20])
def test_what_was_cut_does_not_open(length: int) -> None:
    refused(Recipes(KEY), "1", Recipes(KEY).seal("1", RECIPE)[:length])


def test_a_recipe_opens_for_no_other_lease_and_with_no_other_key() -> None:
    sealed = Recipes(KEY).seal("1", RECIPE)
    refused(Recipes(KEY), "2", sealed)
    refused(Recipes(OTHER), "1", sealed)
    assert Recipes(KEY).open("1", sealed) == RECIPE


def refused(recipes: Recipes, entry_id: str, sealed: bytes) -> None:
    with pytest.raises(LedgerError, match=f"the recipe of lease {entry_id} does not open") as raised:
        recipes.open(entry_id, sealed)
    assert "hush" not in str(raised.value) + raised.value.hint
    assert raised.value.__context__ is None
