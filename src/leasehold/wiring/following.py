"""``audit tail``: the log's last records to one reader, then each new one, for as long as it keeps up."""

from __future__ import annotations

import asyncio

from leasehold.broker.audit.log import AuditLog
from leasehold.broker.audit.model import Record
from leasehold.core.errors import BrokerError
from leasehold.core.limits import LIMITS
from leasehold.wiring.connection import Connection

BEHIND_MAX = 10 * LIMITS.audit_page_records_max
"""How many new records wait for a reader at most. A task that does its worst makes some hundred in one batch."""


async def tail(audit: AuditLog, connection: Connection, count: int) -> None:
    """The last ``count`` records."""
    for record in audit.tail(count):
        await connection.send({"record": record.as_dict()})


async def follow(audit: AuditLog, connection: Connection, count: int, behind_max: int = BEHIND_MAX) -> None:
    """The last ``count`` records and each new one until the reader leaves.

    ``BrokerError`` when more than ``behind_max`` records would wait for it, after those that do: there is no gap.
    """
    waiting = _Waiting(behind_max)
    last = audit.tail(count, waiting.listener)
    leaving = asyncio.create_task(connection.receive())
    try:
        for record in last:
            await connection.send({"record": record.as_dict()})
        while (fresh := await waiting.next(leaving)) is not None:
            await connection.send({"record": fresh.as_dict()})
    finally:
        audit.untail(waiting.listener)
        leaving.cancel()


class _Waiting:
    """New records on their way to one reader."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._loop = asyncio.get_running_loop()
        self._records: asyncio.Queue[Record] = asyncio.Queue()
        self._behind = False

    def listener(self, record: Record) -> None:
        """For :meth:`AuditLog.tail`: called in the thread of whoever appends."""
        self._loop.call_soon_threadsafe(self._put, record)

    async def next(self, leaving: asyncio.Task[object]) -> Record | None:
        """The next record; ``None`` when ``leaving`` is done. ``BrokerError`` at the first that was not kept."""
        if self._records.empty():
            if self._behind:
                raise BrokerError(
                    f"the reader was more than {self._most} records behind and was cut off",
                    hint="read faster, or ask for what is missing with `leasehold audit query`",
                )
            coming = asyncio.create_task(self._records.get())
            await asyncio.wait({coming, leaving}, return_when=asyncio.FIRST_COMPLETED)
            if coming.done():
                return coming.result()
            coming.cancel()
        return None if leaving.done() else self._records.get_nowait()

    def _put(self, record: Record) -> None:
        self._behind = self._behind or self._records.qsize() >= self._most
        if not self._behind:
            self._records.put_nowait(record)
