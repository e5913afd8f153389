"""Reads the whole log and says whether it is what was written; names the first record that is not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from leasehold.broker.audit.chain import START, Head, Sealer
from leasehold.broker.audit.model import Record
from leasehold.broker.audit.store import Store, segment_name


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """The first record that is not what was written: where it stands, which it should be, and what is wrong."""

    segment: str
    line: int
    seq: int
    what: str

    def __str__(self) -> str:
        return f"record {self.seq} ({self.segment or 'no segment'}, line {self.line}): {self.what}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """``records`` in ``segments`` that are intact, the times of the first and the last, and what is not intact."""

    records: int
    segments: int
    first: str
    last: str
    problem: Problem | None

    def as_dict(self) -> dict[str, Any]:
        """The reply to ``audit.verify``."""
        return {"ok": self.problem is None, **asdict(self)}


@dataclass(slots=True)
class _Walk:
    """How far the reading has come."""

    last: Record | Head = START
    first_time: str = ""
    last_time: str = ""
    segments: int = 0

    def report(self, problem: Problem | None) -> Report:
        return Report(
            records=self.last.seq,
            segments=self.segments,
            first=self.first_time,
            last=self.last_time,
            problem=problem,
        )


def verify(store: Store, sealer: Sealer, head: Head, segments: Sequence[str], *, foreign: str) -> Report:
    """Check every record from the first one to the one that ``head`` names; what is added meanwhile is not looked at.

    ``foreign``: what else there is that the log's writer did not write, if anything.
    """
    walk = _Walk()
    for segment in segments:
        problem = _segment(store, sealer, head, segment, walk)
        if problem is not None:
            return walk.report(problem)
    seq = walk.last.seq + 1
    if seq <= head.seq:
        what = f"it is missing: the log ends here, and its head names record {head.seq}"
        return walk.report(Problem(segment=head.segment, line=0, seq=seq, what=what))
    return walk.report(Problem(segment=head.segment, line=0, seq=seq, what=foreign) if foreign else None)


def _segment(store: Store, sealer: Sealer, head: Head, segment: str, walk: _Walk) -> Problem | None:
    seq = walk.last.seq + 1
    if segment != segment_name(seq):
        return Problem(segment=segment, line=0, seq=seq, what="the segment that starts with it is missing")
    walk.segments += 1
    for line in store.lines(segment):
        seq = walk.last.seq + 1
        if seq > head.seq:
            break
        found = sealer.read(line.data, walk.last)
        if isinstance(found, str):
            return Problem(segment=segment, line=line.number, seq=seq, what=found)
        if seq == head.seq and (found.hash, segment, line.end) != (head.hash, head.segment, head.offset):
            return Problem(segment=segment, line=line.number, seq=seq, what="it is not the one that the head names")
        walk.last, walk.last_time = found, found.time
        walk.first_time = walk.first_time or found.time
    return None
