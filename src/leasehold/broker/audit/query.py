"""Looking for records."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

import msgspec

from leasehold.broker.audit.model import Event, Outcome, Record
from leasehold.broker.audit.rules import rfc3339
from leasehold.broker.audit.store import Store
from leasehold.core.errors import AuditError, UsageError
from leasehold.core.limits import LIMITS


@dataclass(frozen=True, slots=True, kw_only=True)
class Filter:
    """What a record must be like; ``None`` asks for nothing. Times are RFC 3339 as in the log.

    ``before``: only records with a lower number, to go on where a page ended. ``limit``: the newest so many.
    """

    task: str | None = None
    event: Event | None = None
    outcome: Outcome | None = None
    credential: str | None = None
    since: str | None = None
    until: str | None = None
    before: int | None = None
    limit: int = LIMITS.audit_page_records_max

    @classmethod
    def parse(cls, message: Mapping[str, Any]) -> Filter:
        """From a message ``audit.query``, whose times are Unix seconds. ``UsageError`` says what is wrong with it."""
        given = {name: value for name, value in message.items() if name != "op" and value is not None}
        wrong = sorted(given.keys() - set(cls.__slots__))
        if wrong:
            _usage(f"unknown filter: {', '.join(map(ascii, wrong))}", f"filters are {', '.join(cls.__slots__)}")
        try:
            return cls(**{name: _PARSE[name](value) for name, value in given.items()})
        except (ValueError, TypeError, OverflowError, OSError) as e:
            reason = str(e)
        return _usage(reason, f"events are {', '.join(Event)}; outcomes are {', '.join(Outcome)}")

    def takes(self, record: Record) -> bool:
        """Whether the record is one that was asked for."""
        return (
            (self.task is None or record.task == self.task)
            and (self.event is None or record.event == self.event)
            and (self.outcome is None or record.outcome == self.outcome)
            and (self.credential is None or _names(record, self.credential))
            and (self.since is None or record.time >= self.since)
            and (self.until is None or record.time < self.until)
            and (self.before is None or record.seq < self.before)
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """Records in their order. ``more``: older ones were left off."""

    records: list[Record]
    more: bool

    def as_dict(self) -> dict[str, Any]:
        """The reply to ``audit.query``."""
        return {"records": [record.as_dict() for record in self.records], "more": self.more}


def query(store: Store, wanted: Filter, last: int) -> Page:
    """The newest records up to number ``last`` that ``wanted`` takes, as many as a page holds."""
    left, room = max(0, min(wanted.limit, LIMITS.audit_page_records_max)), LIMITS.audit_page_bytes_max
    found: list[Record] = []
    segments = store.segments()
    while segments:
        taken: deque[tuple[Record, int]] = deque()
        size, more = 0, False
        for record, length in _records(store, segments.pop(), last):
            if not wanted.takes(record):
                continue
            taken.append((record, length))
            size += length
            while len(taken) > left or size > room:
                size -= taken.popleft()[1]
                more = True
        found = [record for record, _ in taken] + found
        left, room = left - len(taken), room - size
        if more or not left:
            return Page(records=found, more=more or bool(segments))
    return Page(records=found, more=False)


def _records(store: Store, segment: str, last: int) -> Iterator[tuple[Record, int]]:
    """The records of a segment up to number ``last``, with their size in bytes."""
    for line in store.lines(segment):
        record = read(line.data)
        if record is not None and record.seq <= last:
            yield record, len(line.data)
        elif record is not None or not line.data.endswith(b"\n"):
            return  # a write that is under way
        else:
            raise AuditError(
                f"line {line.number} of {segment} is not a record",
                hint="run `leasehold audit verify`: the log was changed",
            )


def read(line: bytes) -> Record | None:
    """The record of a line, unchecked; ``None`` when it is none."""
    try:
        return msgspec.json.decode(line, type=Record)
    except (msgspec.DecodeError, UnicodeError):
        return None


def _names(record: Record, credential: str) -> bool:
    fields = record.fields
    listed = fields.get("credentials")
    return fields.get("credential") == credential or (isinstance(listed, list) and credential in listed)


_PARSE: Mapping[str, Callable[[Any], Any]] = {
    "task": str,
    "event": Event,
    "outcome": Outcome,
    "credential": str,
    "since": lambda value: rfc3339(float(value)),
    "until": lambda value: rfc3339(float(value)),
    "before": int,
    "limit": int,
}


def _usage(message: str, hint: str) -> NoReturn:
    raise UsageError(message, hint=hint)
