"""Fixtures of the sandbox's tests: everything as root and as an ordinary user."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

from fakes.jail import Jail

if TYPE_CHECKING:
    from servers.people import Person


@pytest.fixture(scope="module", params=["root", "ordinary"])
def person(request: pytest.FixtureRequest) -> Person | None:
    """``None`` for root."""
    return None if request.param == "root" else request.getfixturevalue("ordinary_user")


@pytest.fixture
def jail(person: Person | None) -> Iterator[Jail]:
    """Folders of this person's in which ``leasehold run`` is tried with fakes around it."""
    with Jail(person) as made:
        yield made
