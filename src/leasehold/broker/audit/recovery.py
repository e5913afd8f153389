"""Puts right what a crash left behind the last acknowledged record, and refuses a log that was cut or changed there."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NoReturn

from leasehold.broker.audit.chain import START, Head, Sealer
from leasehold.broker.audit.query import read
from leasehold.broker.audit.store import Store, segment_name
from leasehold.core.errors import AuditError


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """``head``: where the log goes on. ``ahead``: records that the stored head did not name, now accepted.

    ``kept``: files that hold what was torn, ``torn_bytes`` in all since the last start.
    """

    head: Head
    ahead: int
    torn_bytes: int
    kept: list[str]


def recover(store: Store, sealer: Sealer) -> Found:
    """Find the end of the log. What is behind the head was never acknowledged: intact records are taken, the rest is
    kept aside. What the head names must be there, else ``AuditError``. Cost does not grow with the log.
    """
    head = _head(store, sealer)
    found, torn = head, 0
    for segment in [name for name in store.segments() if name >= head.segment]:
        start = head.offset if segment == head.segment else 0
        found, good = _intact(store, sealer, segment, start, found)
        if store.size(segment) > good:
            torn += store.keep_aside(segment, good)
        store.remove_empty(segment)
    if found != head:
        store.put_head(sealer.head(found))
    return Found(head=found, ahead=found.seq - head.seq, torn_bytes=torn, kept=store.pending())


def _head(store: Store, sealer: Sealer) -> Head:
    data = store.head()
    if data is None:
        if store.segments():
            _alarm(store, "its head is gone")
        store.put_head(sealer.head(START))
        store.sync()
        return START
    head = sealer.read_head(data)
    if head is None:
        _alarm(store, "its head was not sealed with this log's key")
    if head.seq == START.seq:
        return START
    if head.segment not in store.segments() or store.size(head.segment) < head.offset:
        _alarm(store, f"it ends before record {head.seq}, which its head names")
    line = store.line_ending_at(head.segment, head.offset)
    record = read(line)
    before = Head(seq=head.seq - 1, hash=record.previous if record else "", segment="", offset=0)
    if record is None or record.hash != head.hash or sealer.read(line, before) != record:
        _alarm(store, f"record {head.seq} is not the one that its head names")
    return head


def _intact(store: Store, sealer: Sealer, segment: str, start: int, after: Head) -> tuple[Head, int]:
    """The last of the records from byte ``start`` on that follow ``after``, and where the intact part ends."""
    head, end = after, start
    if start == 0 and segment != segment_name(after.seq + 1):
        return head, 0
    for line in store.lines(segment, start):
        record = sealer.read(line.data, head)
        if isinstance(record, str):
            break
        end = line.end
        head = Head(seq=record.seq, hash=record.hash, segment=segment, offset=end)
    return head, end


def _alarm(store: Store, what: str) -> NoReturn:
    raise AuditError(
        f"the audit log was changed: {what}",
        hint=f"find out by whom; keep {store.path} as evidence elsewhere, then a new log starts",
    )
