"""Any edited, removed, swapped, inserted or truncated line is found, and the first is named (BOUNDARY J4)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from leasehold.broker.audit.chain import Sealer, line_of
from leasehold.broker.audit.log import AuditLog
from leasehold.broker.audit.model import Record
from leasehold.broker.audit.query import read
from leasehold.core.errors import AuditError
from leasehold.core.secret import Secret

from .conftest import KEY, SMALL, Clock, started

RECORDS = 11


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """A log that is open, and what its files held."""

    log: AuditLog
    folder: Path
    files: dict[Path, bytes]

    def lines(self) -> list[tuple[Path, bytes]]:
        return [(path, line) for path in self.segments() for line in self.files[path].splitlines(keepends=True)]

    def segments(self) -> list[Path]:
        return sorted(path for path in self.files if path.suffix == ".jsonl")

    def record(self, seq: int) -> Record:
        found = read(self.lines()[seq - 1][1])
        assert found is not None
        return found

    def put(self, lines: list[tuple[Path, bytes]]) -> None:
        """Write the segments anew, in place."""
        for path in self.segments():
            path.write_bytes(b"".join(line for at, line in lines if at == path))


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Written]:
    folder = tmp_path_factory.mktemp("log") / "audit"
    log = AuditLog(folder, KEY, clock=Clock(), limits=SMALL)
    for pid in range(RECORDS):
        started(log, pid)
    yield Written(log=log, folder=folder, files={path: path.read_bytes() for path in folder.iterdir()})
    log.close()


@contextmanager
def changed(written: Written) -> Iterator[Written]:
    """The log is as it was before and after, so that what is found is what was changed between."""
    assert written.log.verify().problem is None
    try:
        yield written
    finally:
        for path in set(written.folder.iterdir()) - set(written.files):
            path.unlink()
        for path, content in written.files.items():
            path.write_bytes(content)
    assert written.log.verify().problem is None


def first_broken(written: Written) -> int:
    """The number of the first record that is not what was written; also that a new writer would not go on."""
    report = written.log.verify()
    assert report.problem is not None
    assert report.as_dict()["ok"] is False
    assert f"record {report.problem.seq} " in str(report.problem)
    return report.problem.seq


numbers = st.integers(1, RECORDS)


@given(numbers, st.data())
def test_an_edited_line_is_found(written: Written, seq: int, data: st.DataObject) -> None:
    with changed(written) as w:
        lines = w.lines()
        path, line = lines[seq - 1]
        at = data.draw(st.integers(0, len(line) - 1))
        edited = line[:at] + bytes([line[at] ^ data.draw(st.integers(1, 255))]) + line[at + 1 :]
        lines[seq - 1] = (path, edited)
        w.put(lines)
        assert first_broken(w) == seq


@given(numbers)
def test_a_removed_line_is_found(written: Written, seq: int) -> None:
    with changed(written) as w:
        lines = w.lines()
        del lines[seq - 1]
        w.put(lines)
        assert first_broken(w) == seq


@given(numbers, numbers)
def test_swapped_lines_are_found(written: Written, a: int, b: int) -> None:
    with changed(written) as w:
        lines = w.lines()
        (path_a, line_a), (path_b, line_b) = lines[a - 1], lines[b - 1]
        lines[a - 1], lines[b - 1] = (path_a, line_b), (path_b, line_a)
        w.put(lines)
        if a != b:
            assert first_broken(w) == min(a, b)


@given(st.integers(1, RECORDS + 1), numbers)
def test_an_inserted_copy_is_found(written: Written, where: int, which: int) -> None:
    with changed(written) as w:
        lines = w.lines()
        path = lines[min(where, RECORDS) - 1][0]
        lines.insert(where - 1, (path, lines[which - 1][1]))
        w.put(lines)
        assert first_broken(w) == where + (where == which)


@given(numbers, st.sampled_from([KEY, Secret(b"guess")]))
def test_an_inserted_record_that_fits_is_found(written: Written, after: int, key: Secret) -> None:
    """Even with the key: its place in the chain is taken."""
    with changed(written) as w:
        lines = w.lines()
        path, _ = lines[after - 1]
        old = w.record(after)
        forged = Sealer(key).record(
            after=old, time=old.time, event=old.event, outcome=old.outcome, task=None, fields={"pid": 99}
        )
        lines.insert(after, (path, line_of(forged)))
        w.put(lines)
        assert first_broken(w) in (after + 1, after + 2)


def test_a_last_record_written_anew_is_found(written: Written) -> None:
    """Even with the key: the writer knows what it wrote."""
    with changed(written) as w:
        lines = w.lines()
        last, before = w.record(RECORDS), w.record(RECORDS - 1)
        forged = Sealer(KEY).record(
            after=before, time=last.time, event=last.event, outcome=last.outcome, task=None, fields={"pid": 99}
        )
        lines[-1] = (lines[-1][0], line_of(forged))
        w.put(lines)
        assert first_broken(w) == RECORDS


@given(st.data())
def test_a_truncated_log_is_found(written: Written, data: st.DataObject) -> None:
    with changed(written) as w:
        path = data.draw(st.sampled_from(w.segments()))
        keep = data.draw(st.integers(0, len(w.files[path]) - 1))
        path.write_bytes(w.files[path][:keep])
        before = sum(len(w.files[at].splitlines()) for at in w.segments() if at < path)
        assert first_broken(w) == before + w.files[path][:keep].count(b"\n") + 1


@given(st.data())
def test_a_removed_segment_is_found(written: Written, data: st.DataObject) -> None:
    with changed(written) as w:
        first = data.draw(st.integers(0, len(w.segments()) - 1))
        last = data.draw(st.integers(first, len(w.segments()) - 1))
        for path in w.segments()[first : last + 1]:
            path.unlink()
        assert first_broken(w) == 1 + sum(len(w.files[path].splitlines()) for path in w.segments()[:first])
        assert "missing" in str(w.log.verify().problem)


@given(st.binary(min_size=1, max_size=50))
def test_what_stands_behind_the_last_record_is_found(written: Written, junk: bytes) -> None:
    with changed(written) as w:
        with w.segments()[-1].open("ab") as file:
            file.write(junk)
        assert first_broken(w) == RECORDS + 1


def test_a_segment_too_many_is_found(written: Written) -> None:
    with changed(written) as w:
        (w.folder / f"{RECORDS + 1:012}.jsonl").write_bytes(b"")
        assert first_broken(w) == RECORDS + 1
    with changed(written) as w:
        (w.folder / "000000000099.jsonl").write_bytes(b"")
        assert first_broken(w) == RECORDS + 1


def test_an_older_head_or_none_is_found(written: Written, tmp_path: Path) -> None:
    clock = Clock()
    shorter = AuditLog(tmp_path / "audit", KEY, clock=clock, limits=SMALL)
    for pid in range(3):
        started(shorter, pid)
    shorter.close()
    with changed(written) as w:
        (w.folder / "head.json").write_bytes((tmp_path / "audit" / "head.json").read_bytes())
        assert first_broken(w) == RECORDS + 1
    with changed(written) as w:
        (w.folder / "head.json").unlink()
        assert first_broken(w) == RECORDS + 1


def test_a_whole_log_made_anew_is_found_without_its_key(written: Written, tmp_path: Path) -> None:
    """Same numbers, every hash right, another story: only the key tells."""
    forged = AuditLog(tmp_path / "audit", Secret(b"guess"), clock=Clock(), limits=SMALL)
    for pid in range(RECORDS):
        started(forged, pid + 100)
    forged.close()
    with changed(written) as w:
        for path in w.files:
            path.write_bytes((tmp_path / "audit" / path.name).read_bytes())
        assert first_broken(w) == 1


@given(st.data())
def test_a_writer_that_starts_later_finds_it_too_or_says_what_it_kept(written: Written, data: st.DataObject) -> None:
    """Any change to the end of the log, made while nobody had it open."""
    w = written
    folder = w.folder.parent / "copy"
    folder.mkdir(mode=0o700, exist_ok=True)
    for path in folder.iterdir():
        path.unlink()
    content = dict(w.files)
    last = w.segments()[-1]
    at = data.draw(st.integers(0, len(content[last])))
    insert = data.draw(st.binary(max_size=8))
    cut = data.draw(st.integers(0, 8))
    content[last] = content[last][:at] + insert + content[last][at + cut :]
    for path, held in content.items():
        (folder / path.name).write_bytes(held)
    try:
        log = AuditLog(folder, KEY, clock=Clock(), limits=SMALL)
    except AuditError:
        return
    try:
        intact = content == w.files
        kept = [path for path in folder.iterdir() if path.suffix == ".kept"]
        assert intact or kept or log.verify().problem is not None
        assert not (intact and kept)
        if kept:
            said = log.tail(1)[0].fields["kept"]
            assert said == [path.name for path in kept]
    except AuditError:
        assert log.verify().problem is not None
    finally:
        log.close()


def test_an_empty_log_is_in_order(tmp_path: Path) -> None:
    log = AuditLog(tmp_path / "audit", KEY, clock=Clock())
    report = log.verify()
    assert report.as_dict() == {"ok": True, "records": 0, "segments": 0, "first": "", "last": "", "problem": None}
    log.close()
    (tmp_path / "audit" / "head.json").unlink()
    again = AuditLog(tmp_path / "audit", KEY, clock=Clock())
    (tmp_path / "audit" / "000000000001.jsonl").write_bytes(b"")
    problem = again.verify().problem
    assert problem is not None
    assert problem.seq == 1
    again.close()


def test_a_report_says_how_far_it_reaches(written: Written) -> None:
    report = written.log.verify()
    assert (report.records, report.segments) == (RECORDS, len(written.segments()))
    assert (report.first, report.last) == (written.record(1).time, written.record(RECORDS).time)
