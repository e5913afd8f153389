"""What the clauses work with."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

pytest.register_assert_rewrite("contract.clauses")

EXAMPLE = Path(__file__).parents[2] / "examples" / "issuer"

if TYPE_CHECKING:
    from contract.desk import Desk, Run
    from contract.subject import Subject


@pytest.fixture
def run() -> Iterator[Run]:
    """Runs a coroutine, all of one test in the same loop."""
    with asyncio.Runner() as runner:

        async def awaited(call: Awaitable[Any]) -> Any:
            return await call

        yield lambda call: runner.run(awaited(call))


@pytest.fixture
def desk(subject: Subject, run: Run) -> Iterator[Desk]:
    from contract.desk import Desk

    made = Desk(subject, run)
    yield made
    made.close()


@pytest.fixture(scope="module")
def example_issuer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The package of the example is installed."""
    from fakes.packages import installed_from

    with installed_from(tmp_path_factory.mktemp("installed"), EXAMPLE):
        yield


@pytest.fixture
def nobody() -> Iterator[tuple[str, int]]:
    """An address where nothing listens."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        yield held.getsockname()


@pytest.fixture
def silence() -> Iterator[tuple[str, int]]:
    """An address where connections are taken and nothing is ever said."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield listener.getsockname()
