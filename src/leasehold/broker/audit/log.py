"""The audit log: appended before the effect, durable before the answer, and one writer.

Order of one write: lines to the segment, ``fdatasync``, the head replaced, the caller answered. So what was answered
is named by the head; a crash can leave records ahead of the head, which were never acknowledged, but never a head
ahead of its records. The disk being full, the cap being reached or anything unexpected is an ``AuditError``, and
nothing of the batch remains.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from leasehold.broker.audit.chain import Head, Sealer, line_of
from leasehold.broker.audit.model import Event, Outcome, Record, Value
from leasehold.broker.audit.query import Filter, Page, query
from leasehold.broker.audit.recovery import Found, recover
from leasehold.broker.audit.rules import check, rfc3339
from leasehold.broker.audit.store import Store, segment_name
from leasehold.broker.audit.verify import Report, verify
from leasehold.core.errors import AuditError
from leasehold.core.limits import LIMITS, Limits
from leasehold.core.secret import Secret

T = TypeVar("T")
Listener = Callable[[Record], None]


class AuditLog:
    """The one writer of a log, over all processes. Safe to call from several threads."""

    def __init__(self, directory: Path, key: Secret, *, clock: Callable[[], float], limits: Limits = LIMITS) -> None:
        """Open or make the log in ``directory`` (0700). ``clock``: Unix seconds.

        ``AuditError`` when it is written by another process, cannot be written, or was cut or changed at its end;
        what a crash left there is put right and recorded as ``audit:recovered``.
        """
        self._clock = clock
        self._limits = limits
        self._sealer = Sealer(key)
        self._mutex = threading.RLock()
        self._listeners: list[Listener] = []
        self._segment = self._locked = -1
        self._name = ""
        self._failure = ""
        try:
            self._store = Store(directory)
            try:
                self._open()
            except BaseException:
                self.close()
                raise
        except OSError as e:
            reason = e.strerror
        else:
            return
        raise AuditError(
            f"the audit log in {directory} cannot be opened: {reason}",
            hint="nothing starts without it; make room, or repair the disk or the folder",
        )

    def append(self, event: Event, *, outcome: Outcome, task: str | None = None, **fields: object) -> Record:
        """Record one event durably; ``AuditError`` when that is not possible: the caller must not go on."""
        return self.append_many([{"event": event, "outcome": outcome, "task": task, **fields}])[0]

    def append_many(self, rows: Iterable[Mapping[str, Any]]) -> list[Record]:
        """Record a batch with one sync: all of it or nothing. A row has ``event``, ``outcome``, ``task`` and fields."""
        checked = [_checked(row) for row in rows]
        with self._mutex:
            last: Head | Record = self._head
            records: list[Record] = []
            for event, outcome, task, fields in checked:
                last = self._sealer.record(
                    after=last,
                    time=rfc3339(self._clock()),
                    event=event,
                    outcome=outcome,
                    task=task,
                    fields=fields,
                )
                records.append(last)
            if records:
                self._write(records)
            for record in records:
                for listener in self._listeners:
                    listener(record)
        return records

    def query(self, wanted: Filter) -> Page:
        """The newest records that ``wanted`` takes. Reads the files: call it from a thread of its own."""
        return self._reading(lambda: query(self._store, wanted, self._head.seq))

    def tail(self, count: int, listener: Listener | None = None) -> list[Record]:
        """The last ``count`` records; ``listener`` gets every later one, none lost between, until :meth:`untail`.

        The listener is called with the log locked, in the thread of whoever appends: it may only pass the record on,
        and must not raise.
        """
        with self._mutex:
            last = self._head.seq
            if listener is not None:
                self._listeners.append(listener)
        try:
            return self._reading(lambda: query(self._store, Filter(limit=count), last)).records
        except AuditError:
            if listener is not None:
                self.untail(listener)
            raise

    def untail(self, listener: Listener) -> None:
        """End what :meth:`tail` began."""
        with self._mutex:
            self._listeners.remove(listener)

    def verify(self) -> Report:
        """Check the whole log. Reads all of it: call it from a thread of its own."""
        return self._reading(self._verify)

    def close(self) -> None:
        """Give the log free for another writer."""
        with self._mutex:
            self._fail("it is closed")
            self._shut()
            if self._locked >= 0:
                os.close(self._locked)
                self._locked = -1
            self._store.close()

    def _open(self) -> None:
        self._locked = self._store.lock()
        found = recover(self._store, self._sealer)
        self._head = found.head
        self._size = sum(map(self._store.size, self._store.segments()))
        self._say(found)

    def _say(self, found: Found) -> None:
        if found.ahead or found.kept:
            self.append(
                Event.AUDIT_RECOVERED,
                outcome=Outcome.DONE,
                ahead=found.ahead,
                torn_bytes=found.torn_bytes,
                kept=found.kept,
            )
            self._store.kept(found.kept)

    def _write(self, records: list[Record]) -> None:
        lines = b"".join(map(line_of, records))
        if self._failure:
            raise AuditError(
                f"the audit log takes no more: {self._failure}", hint="end the broker and look at the disk"
            )
        if self._size + len(lines) > self._limits.audit_bytes_max:
            raise AuditError(
                f"the audit log has reached {self._limits.audit_bytes_max} bytes",
                hint=f"end the broker and move the folder {self._store.path} to where you keep such logs",
            )
        before = self._head
        try:
            name, start = self._place(records[0].seq, len(lines))
            self._put(lines)
            self._head = Head(seq=records[-1].seq, hash=records[-1].hash, segment=name, offset=start + len(lines))
            self._store.put_head(self._sealer.head(self._head))
        except OSError as e:
            reason = e.strerror or "it is not as it was left"
        else:
            self._size += len(lines)
            return
        self._head = before
        self._undo(before)
        raise AuditError(f"the audit log cannot be written: {reason}", hint="make room or repair the disk")

    def _place(self, seq: int, length: int) -> tuple[str, int]:
        """The segment to write to, open, and its length. A full one is followed by a new one."""
        name, size = self._head.segment, self._head.offset
        if not name or size + length > self._limits.audit_segment_bytes_max:
            return self._new_segment(segment_name(seq)), 0
        if self._segment < 0:
            self._segment, self._name = self._store.open(name, os.O_WRONLY | os.O_APPEND), name
        if not self._store.is_open_at(self._segment, name, size):
            self._fail("somebody else changed it")
            raise OSError
        return name, size

    def _new_segment(self, name: str) -> str:
        fd = self._store.open(name, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL)
        self._shut()
        self._segment, self._name = fd, name
        self._store.sync()
        return name

    def _put(self, lines: bytes) -> None:
        view = memoryview(lines)
        while view:
            view = view[os.write(self._segment, view) :]
        try:
            os.fdatasync(self._segment)
        except OSError as e:
            # Linux drops the pages of a failed sync: what is on the disk is known only after a new start.
            self._fail(f"its last sync failed ({e.strerror})")
            raise

    def _undo(self, head: Head) -> None:
        """Take back what a failed write left. If that fails too, nobody knows what is on the disk: the end."""
        if self._failure or self._segment < 0:
            return
        try:
            os.ftruncate(self._segment, head.offset if self._name == head.segment else 0)
            os.fsync(self._segment)
            if self._name != head.segment:
                self._store.remove_empty(self._name)
                self._shut()
        except OSError as e:
            self._fail(str(e))

    def _shut(self) -> None:
        if self._segment >= 0:
            os.close(self._segment)
            self._segment = -1

    def _fail(self, reason: str) -> None:
        self._failure = self._failure or reason

    def _verify(self) -> Report:
        with self._mutex:
            head, segments = self._head, self._store.segments()
            foreign = self._foreign(segments)
        return verify(self._store, self._sealer, head, segments, foreign=foreign)

    def _foreign(self, segments: list[str]) -> str:
        """What the folder holds that was not written here; empty when there is nothing."""
        if self._sealer.read_head(self._store.head() or b"") != self._head:
            return "the head is gone, or is not the one that was sealed last"
        name = self._head.segment
        if segments[-1:] != [name] * bool(name) or (name and self._store.size(name) > self._head.offset):
            return "what stands there was not written by this log's writer"
        return ""

    def _reading(self, work: Callable[[], T]) -> T:
        try:
            return work()
        except OSError as e:
            reason = e.strerror
        raise AuditError(f"the audit log cannot be read: {reason}", hint=f"look at {self._store.path}")


def _checked(row: Mapping[str, Any]) -> tuple[Event, Outcome, str | None, dict[str, Value]]:
    given = dict(row)
    event, outcome, task = (given.pop(name, None) for name in ("event", "outcome", "task"))
    return event, outcome, task or None, check(event, outcome, task, given)
