"""After a crash: what was acknowledged is there, what was not is taken or kept aside and said (BOUNDARY J4)."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from leasehold.broker.audit.log import AuditLog
from leasehold.broker.audit.model import Record
from leasehold.broker.audit.query import Filter
from leasehold.core.errors import AuditError
from leasehold.core.secret import Secret

from .conftest import Clock, started

Open = Callable[[], AuditLog]


def fill(opened: Open, count: int) -> None:
    log = opened()
    for pid in range(count):
        started(log, pid)
    log.close()


def records(log: AuditLog) -> list[Record]:
    return log.query(Filter()).records


def recovered(log: AuditLog) -> list[dict[str, object]]:
    """The fields of every ``audit:recovered``."""
    return [dict(record.fields) for record in records(log) if record.event == "audit:recovered"]


def last_segment(folder: Path) -> Path:
    return sorted(folder.glob("*.jsonl"))[-1]


@pytest.mark.parametrize("count", [0, 1, 2, 3, 4, 6])
def test_a_log_that_was_left_whole_goes_on_without_a_word(opened: Open, count: int) -> None:
    fill(opened, count)
    log = opened()
    assert started(log).seq == count + 1
    assert recovered(log) == []


@pytest.mark.parametrize("count", [1, 2, 3, 4])
@pytest.mark.parametrize(
    "torn", [b"{", b'{"event":"daemon:star', b"\0" * 5000, b"not a record\n", b"\n", b"x" * 3_000_000]
)
def test_a_torn_write_is_kept_aside_and_said(opened: Open, folder: Path, count: int, torn: bytes) -> None:
    fill(opened, count)
    with last_segment(folder).open("ab") as file:
        file.write(torn)
    log = opened()
    (fields,) = recovered(log)
    (kept,) = folder.glob("*.kept")
    assert fields == {"ahead": 0, "torn_bytes": len(torn), "kept": [kept.name]}
    assert kept.read_bytes() == torn
    assert [record.seq for record in records(log)] == list(range(1, count + 2))
    assert log.verify().problem is None
    log.close()
    assert len(recovered(opened())) == 1


def ahead(opened: Open, folder: Path, count: int, more: int) -> None:
    """Leave ``more`` records that the head does not name, as a crash before its replacement does."""
    fill(opened, count)
    head = (folder / "head.json").read_bytes()
    fill(opened, more)
    (folder / "head.json").write_bytes(head)


@pytest.mark.parametrize("count", [0, 1, 2, 3, 4])
@pytest.mark.parametrize("more", [1, 2, 5])
def test_records_ahead_of_the_head_are_accepted_and_said(opened: Open, folder: Path, count: int, more: int) -> None:
    ahead(opened, folder, count, more)
    log = opened()
    assert recovered(log) == [{"ahead": more, "torn_bytes": 0, "kept": []}]
    assert len(records(log)) == count + more + 1
    assert log.verify().problem is None


def test_records_ahead_and_a_torn_one_behind_them(opened: Open, folder: Path) -> None:
    ahead(opened, folder, 2, 3)
    with last_segment(folder).open("ab") as file:
        file.write(b"{")
    log = opened()
    assert [(fields["ahead"], fields["torn_bytes"]) for fields in recovered(log)] == [(3, 1)]
    assert log.verify().problem is None


def test_a_segment_that_was_only_begun_is_kept_aside(opened: Open, folder: Path) -> None:
    fill(opened, 3)
    (folder / "000000000004.jsonl").write_bytes(b'{"event":')
    (folder / "000000000009.jsonl").write_bytes(b"")
    log = opened()
    assert [(fields["ahead"], fields["torn_bytes"]) for fields in recovered(log)] == [(0, 9)]
    assert log.verify().problem is None


def test_records_that_were_sealed_with_another_key_are_not_accepted(opened: Open, folder: Path, clock: Clock) -> None:
    fill(opened, 2)
    content = last_segment(folder).read_bytes()
    head = (folder / "head.json").read_bytes()
    fill(opened, 1)
    forged = last_segment(folder).read_bytes()[len(content) :].replace(b'"mac":"', b'"mac":"0')
    last_segment(folder).write_bytes(content + forged)
    (folder / "head.json").write_bytes(head)
    log = opened()
    assert [(fields["ahead"], fields["torn_bytes"]) for fields in recovered(log)] == [(0, len(forged))]


@pytest.mark.parametrize("call", ["ftruncate", "rename"])
def test_a_crash_while_putting_right_hides_nothing(
    opened: Open, folder: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    """A failed call stands for the crash: the torn bytes are already copied, or already reported."""
    fill(opened, 2)
    with last_segment(folder).open("ab") as file:
        file.write(b"{torn")

    def fail(*_a: object, **_k: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as patch:
        patch.setattr(os, call, fail)
        with pytest.raises(AuditError, match="Input/output error"):
            opened()
    log = opened()
    said = [name for fields in recovered(log) for name in fields["kept"]]  # type: ignore[attr-defined]  # a list
    kept = sorted(path.name for path in folder.glob("*.kept"))
    assert sorted(set(said)) == kept
    assert {(folder / name).read_bytes() for name in kept} == {b"{torn"}
    assert list(folder.glob("*.pending")) == []


def test_a_log_cut_at_its_end_is_an_alarm(opened: Open, folder: Path) -> None:
    fill(opened, 2)
    path = last_segment(folder)
    content = path.read_bytes()
    path.write_bytes(content[: content.index(b"\n") + 1])
    with pytest.raises(AuditError, match="it ends before record 2, which its head names"):
        opened()
    path.write_bytes(content)
    started(opened())


def test_a_last_segment_that_is_gone_is_an_alarm(opened: Open, folder: Path) -> None:
    fill(opened, 4)
    last_segment(folder).unlink()
    with pytest.raises(AuditError, match="it ends before record 4"):
        opened()


def test_a_last_record_that_was_changed_is_an_alarm(opened: Open, folder: Path) -> None:
    fill(opened, 2)
    path = last_segment(folder)
    content = path.read_bytes()
    for changed in (
        content.replace(b'"hash":"', b'"hash":"0')[: len(content)],
        content.replace(b'"pid":1', b'"pid":2'),
        b"\0" + content,
        b"x" * len(content),
    ):
        path.write_bytes(changed)
        with pytest.raises(AuditError, match="record 2 is not the one that its head names"):
            opened()


def test_a_log_without_its_head_is_an_alarm(opened: Open, folder: Path) -> None:
    fill(opened, 1)
    (folder / "head.json").unlink()
    with pytest.raises(AuditError, match="its head is gone"):
        opened()


def test_a_head_of_another_key_is_an_alarm(opened: Open, folder: Path, clock: Clock) -> None:
    fill(opened, 1)
    with pytest.raises(AuditError, match="not sealed with this log's key"):
        AuditLog(folder, Secret(b"another"), clock=clock)
    started(opened())


def test_an_alarm_changes_nothing(opened: Open, folder: Path) -> None:
    """The folder is evidence then."""
    fill(opened, 4)
    (folder / "000000000004.jsonl").write_bytes(b"")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(AuditError):
        opened()
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
