"""Following the audit log: each record once and in order, for readers that keep up."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from leasehold.broker.audit.log import AuditLog
from leasehold.broker.audit.model import Event, Outcome
from leasehold.core.errors import BrokerError
from leasehold.core.secret import Secret
from leasehold.wiring.connection import Connection
from leasehold.wiring.following import follow, tail

from .parts import NOON


@pytest.fixture
def audit(tmp_path: Path) -> Iterator[AuditLog]:
    log = AuditLog(tmp_path / "audit", Secret(b"k" * 32), clock=lambda: NOON)
    yield log
    log.close()


class Reader:
    """The other end, and what serves it."""

    def __init__(self, audit: AuditLog, **options: Any) -> None:
        near, far = socket.socketpair()
        near.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        self.connection = Connection(far)
        self._near = Connection(near)
        self.serving = asyncio.create_task(follow(audit, self._near, 1, **options))

    async def next(self) -> int:
        """The number of the next record."""
        received = await self.connection.receive()
        assert received is not None
        number: int = received[0]["record"]["seq"]
        return number

    async def leave(self) -> None:
        self.connection.close()
        await asyncio.wait_for(self.serving, 5)

    def close(self) -> None:
        self.connection.close()
        self._near.close()


@asynccontextmanager
async def following(audit: AuditLog, **options: Any) -> AsyncIterator[Reader]:
    append(audit)
    reader = Reader(audit, **options)
    assert await reader.next() == 1  # from here it follows
    yield reader
    reader.close()


def append(audit: AuditLog, count: int = 1) -> None:
    audit.append_many({"event": Event.DAEMON_STARTED, "outcome": Outcome.DONE, "pid": n} for n in range(count))


def test_the_last_records_and_no_more(audit: AuditLog) -> None:
    async def scenario() -> None:
        near, far = socket.socketpair()
        connection = Connection(far)
        append(audit, 5)
        await tail(audit, Connection(near), 2)
        append(audit)
        near.shutdown(socket.SHUT_WR)
        records = [received[0]["record"]["seq"] for _ in range(2) if (received := await connection.receive())]
        assert records == [4, 5]
        assert await connection.receive() is None
        near.close()
        connection.close()

    asyncio.run(scenario())


def test_each_new_record_comes_until_the_reader_leaves(audit: AuditLog) -> None:
    async def scenario() -> None:
        async with following(audit) as reader:
            append(audit)
            assert await reader.next() == 2
            await asyncio.to_thread(append, audit, 3)  # the log is used from other threads too
            assert [await reader.next() for _ in range(3)] == [3, 4, 5]
            await reader.leave()
            append(audit)

    asyncio.run(scenario())


def test_a_reader_that_leaves_with_records_waiting_gets_none(audit: AuditLog) -> None:
    async def scenario() -> None:
        async with following(audit) as reader:
            append(audit, 500)  # more than the socket takes
            await reader.leave()

    asyncio.run(scenario())


def test_a_reader_that_is_slow_gets_all_that_waits_for_it(audit: AuditLog) -> None:
    async def scenario() -> None:
        async with following(audit, behind_max=500) as reader:
            append(audit, 500)
            assert [await reader.next() for _ in range(500)] == list(range(2, 502))
            append(audit)
            assert await reader.next() == 502
            await reader.leave()

    asyncio.run(scenario())


def test_a_reader_that_is_too_slow_is_cut_off_without_a_gap(audit: AuditLog) -> None:
    async def scenario() -> None:
        async with following(audit, behind_max=500) as reader:
            append(audit, 501)
            assert [await reader.next() for _ in range(400)] == list(range(2, 402))
            append(audit, 50)  # there is room again, and a gap before these
            assert [await reader.next() for _ in range(100)] == list(range(402, 502))
            with pytest.raises(BrokerError, match="more than 500 records behind"):
                await asyncio.wait_for(reader.serving, 5)

    asyncio.run(scenario())


def test_nobody_is_served_when_it_has_ended(audit: AuditLog) -> None:
    """A listener that stayed would keep every later record."""

    async def scenario() -> None:
        async with following(audit, behind_max=1) as reader:
            append(audit, 2)
            with pytest.raises(BrokerError):
                await asyncio.wait_for(reader.serving, 5)

    asyncio.run(scenario())
    append(audit)  # would raise: the loop of its listeners is closed
