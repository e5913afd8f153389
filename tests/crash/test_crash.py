"""The promise, with real kills at each point: nothing lives that the ledger does not know, and the next ends it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from contract.postgres_subject import DatabaseSubject
from crash.matrix import cases
from crash.worker import POINTS
from servers.postgres import PostgresServer


@pytest.fixture(scope="module")
def subject(postgres_server: PostgresServer) -> Iterator[DatabaseSubject]:
    found = DatabaseSubject(postgres_server)
    yield found
    found.close()


@pytest.mark.parametrize("point", POINTS)
def test_nothing_lives_that_the_ledger_does_not_know(subject: DatabaseSubject, point: str) -> None:
    [case] = cases("postgres", subject, "", (point,))
    assert case.unknown == 0
    assert case.left == 0


def test_there_was_something_to_lose(subject: DatabaseSubject) -> None:
    [case] = cases("postgres", subject, "", ("create-after",))
    assert case.alive == 1
