"""Appending: durable, all or nothing, one writer; and no record when it is not possible (BOUNDARY J1, J4, J7)."""

from __future__ import annotations

import errno
import os
import stat
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from leasehold.broker.audit.log import AuditLog
from leasehold.broker.audit.model import Event, Outcome, Record
from leasehold.broker.audit.query import Filter
from leasehold.core.errors import AuditError
from leasehold.core.limits import Limits
from leasehold.core.secret import Secret

from .conftest import KEY, Clock, started

Open = Callable[[], AuditLog]


def lines(folder: Path) -> list[bytes]:
    """All lines of all segments."""
    return [line for path in sorted(folder.glob("*.jsonl")) for line in path.read_bytes().splitlines()]


def test_a_record_says_what_happened_when_and_how_it_ended(opened: Open, folder: Path) -> None:
    record = opened().append(Event.SECRET_SET, outcome=Outcome.DONE, name="forge")
    assert (record.seq, record.event, record.outcome, record.task) == (1, "secret:set", "done", None)
    assert record.time == "2023-11-14T22:13:21.000000Z"
    assert record.fields == {"name": "forge"}
    assert len(lines(folder)) == 1


def test_a_batch_is_written_in_order_and_an_empty_one_is_nothing(opened: Open, folder: Path) -> None:
    log = opened()
    rows = [
        {"event": Event.NAME_DENIED, "outcome": Outcome.DENIED, "task": "7f3k", "host": h, "count": 1} for h in "abc"
    ]
    assert [record.fields["host"] for record in log.append_many(rows)] == ["a", "b", "c"]
    assert log.append_many([]) == []
    assert len(lines(folder)) == 3


def test_one_bad_row_refuses_the_batch(opened: Open, folder: Path) -> None:
    log = opened()
    good = {"event": Event.DAEMON_STARTED, "outcome": Outcome.DONE, "pid": 1}
    with pytest.raises(AuditError, match="pid takes a count"):
        log.append_many([good, {**good, "pid": Secret(b"x")}])
    with pytest.raises(AuditError, match="not an event"):
        log.append_many([{}])
    assert lines(folder) == []
    assert started(log).seq == 1


def test_a_task_that_is_not_known_is_recorded_as_none(opened: Open) -> None:
    record = opened().append(Event.NAME_DENIED, outcome=Outcome.DENIED, task="", host="a", count=1)
    assert record.task is None


def test_outcome_has_no_default(opened: Open) -> None:
    with pytest.raises(TypeError, match="outcome"):
        opened().append(Event.DAEMON_STARTED, pid=1)  # type: ignore[call-arg]  # what is tested


def test_segments_follow_each_other_and_the_chain_goes_on(opened: Open, folder: Path) -> None:
    log = opened()
    for pid in range(20):
        started(log, pid)
    names = [path.name for path in sorted(folder.glob("*.jsonl"))]
    assert len(names) > 3
    assert names[0] == "000000000001.jsonl"
    assert all(path.stat().st_size <= 1200 for path in folder.glob("*.jsonl"))
    report = log.verify()
    assert (report.problem, report.records, report.segments) == (None, 20, len(names))
    log.close()
    again = opened()
    assert started(again).seq == 21
    assert again.verify().problem is None


def test_a_batch_larger_than_a_segment_stays_whole(opened: Open, folder: Path) -> None:
    log = opened()
    log.append_many([{"event": Event.DAEMON_STARTED, "outcome": Outcome.DONE, "pid": n} for n in range(10)])
    started(log)
    assert [len(path.read_bytes().splitlines()) for path in sorted(folder.glob("*.jsonl"))] == [10, 1]


def test_only_one_writes_at_a_time(opened: Open) -> None:
    log = opened()
    with pytest.raises(AuditError, match="another process writes"):
        opened()
    log.close()
    started(opened())


def test_folder_and_files_are_for_this_user_alone(opened: Open, folder: Path) -> None:
    os.umask(os.umask(0))
    started(opened())
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()} == {0o600}


@pytest.mark.parametrize("mode", [0o750, 0o707, 0o720])
def test_a_folder_open_to_others_is_refused(opened: Open, folder: Path, mode: int) -> None:
    folder.mkdir()
    folder.chmod(mode)
    with pytest.raises(AuditError, match=f"mode {mode:04o}"):
        opened()


def test_a_folder_that_is_a_link_is_refused(opened: Open, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir(mode=0o700)
    folder.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(AuditError, match="cannot be opened"):
        opened()
    assert list((tmp_path / "elsewhere").iterdir()) == []


@pytest.mark.parametrize("name", ["head.json.new", "lock", "000000000001.jsonl"])
def test_a_file_that_is_a_link_is_not_followed(opened: Open, folder: Path, tmp_path: Path, name: str) -> None:
    target = tmp_path / "elsewhere"
    target.write_bytes(b"mine")
    folder.mkdir(mode=0o700)
    (folder / name).symlink_to(target)
    with pytest.raises(AuditError):
        started(opened())
    assert target.read_bytes() == b"mine"


def test_a_file_that_is_none_is_refused(opened: Open, folder: Path) -> None:
    folder.mkdir(mode=0o700)
    os.mkfifo(folder / "head.json", 0o600)
    with pytest.raises(AuditError, match="not a regular file"):
        opened()


def test_j1_the_cap_refuses_and_names_itself(folder: Path, clock: Clock) -> None:
    log = AuditLog(folder, KEY, clock=clock, limits=Limits(audit_bytes_max=1000))
    started(log)
    started(log)
    with pytest.raises(AuditError, match="has reached 1000 bytes"):
        started(log)
    assert len(lines(folder)) == 2
    assert log.verify().problem is None
    log.close()
    again = AuditLog(folder, KEY, clock=clock, limits=Limits(audit_bytes_max=1000))
    with pytest.raises(AuditError, match="has reached 1000 bytes"):
        started(again)
    again.close()


def failing(number: int, *, writes: int = 0) -> Callable[..., int]:
    """A system call that fails, or that writes a few bytes first."""
    real = os.write
    left = [writes]

    def call(fd: int, data: bytes = b"") -> int:
        if left[0]:
            taken, left[0] = real(fd, data[: left[0]]), 0
            return taken
        raise OSError(number, os.strerror(number))

    return call


@pytest.mark.parametrize("before", [0, 1, 2, 3])
def test_j1_a_full_disk_refuses_leaves_nothing_and_goes_on_later(
    opened: Open, folder: Path, monkeypatch: pytest.MonkeyPatch, before: int
) -> None:
    """Also when the write would have begun a segment: the first and the fourth record do."""
    log = opened()
    for _ in range(before):
        started(log)
    there = {path.name: path.read_bytes() for path in folder.iterdir()}
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", failing(errno.ENOSPC, writes=100))
        with pytest.raises(AuditError, match="No space left"):
            started(log)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == there
    assert started(log).seq == before + 1
    assert log.verify().problem is None


def test_j1_a_head_that_cannot_be_replaced_takes_the_record_back(
    opened: Open, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = opened()
    started(log)
    with monkeypatch.context() as patch:
        patch.setattr(os, "rename", lambda *_a, **_k: failing(errno.EIO)(0))
        with pytest.raises(AuditError, match="Input/output error"):
            started(log)
    assert len(lines(folder)) == 1
    assert started(log).seq == 2
    assert log.verify().problem is None


def test_j4_after_a_failed_sync_nothing_is_taken_until_a_new_start(
    opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = opened()
    started(log)
    with monkeypatch.context() as patch:
        patch.setattr(os, "fdatasync", failing(errno.EIO))
        with pytest.raises(AuditError, match="Input/output error"):
            started(log)
    with pytest.raises(AuditError, match="its last sync failed"):
        started(log)
    log.close()
    assert started(opened()).seq >= 2


def test_j1_what_cannot_be_taken_back_ends_the_log(opened: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    log = opened()
    started(log)
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", failing(errno.ENOSPC, writes=9))
        patch.setattr(os, "ftruncate", failing(errno.EIO))
        with pytest.raises(AuditError, match="No space left"):
            started(log)
    with pytest.raises(AuditError, match=r"takes no more.*Input/output error"):
        started(log)


def test_a_segment_that_cannot_be_made_refuses(opened: Open, folder: Path) -> None:
    log = opened()
    for _ in range(3):
        started(log)
    (folder / "000000000004.jsonl").write_bytes(b"here first")
    with pytest.raises(AuditError, match="File exists"):
        started(log)
    assert len((folder / "000000000001.jsonl").read_bytes().splitlines()) == 3


@pytest.mark.parametrize("change", ["append", "truncate", "replace", "remove"])
def test_j4_a_segment_changed_under_the_writer_takes_no_more(opened: Open, folder: Path, change: str) -> None:
    log = opened()
    started(log)
    path = folder / "000000000001.jsonl"
    content = path.read_bytes()
    if change == "append":
        path.write_bytes(content + b"{}\n")
    elif change == "truncate":
        path.write_bytes(content[:-1])
    else:
        path.unlink()
        if change == "replace":
            path.write_bytes(content)
    with pytest.raises(AuditError, match="cannot be written"):
        started(log)
    assert (log.verify().problem is None) == (change == "replace")


def test_a_closed_log_takes_nothing_and_can_be_closed_again(opened: Open) -> None:
    log = opened()
    started(log)
    log.close()
    log.close()
    with pytest.raises(AuditError, match="it is closed"):
        started(log)
    with pytest.raises(AuditError, match="cannot be read"):
        log.query(Filter())


def test_an_opening_that_fails_gives_the_log_free(opened: Open, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", failing(errno.ENOSPC))
        with pytest.raises(AuditError, match="cannot be opened: No space left"):
            opened()
    assert started(opened()).seq == 1


def test_threads_share_the_log(opened: Open) -> None:
    log = opened()

    def work() -> None:
        for pid in range(10):
            started(log, pid)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    report = log.verify()
    assert (report.problem, report.records) == (None, 40)


def test_tail_gives_the_last_and_then_each_new_one(opened: Open) -> None:
    log = opened()
    for pid in range(5):
        started(log, pid)
    heard: list[Record] = []
    last = log.tail(2, heard.append)
    new = started(log, 9)
    log.untail(heard.append)
    started(log, 10)
    assert [record.fields["pid"] for record in last] == [3, 4]
    assert heard == [new]
    assert [record.fields["pid"] for record in log.tail(1)] == [10]


def test_a_tail_that_cannot_be_read_is_not_followed(opened: Open, folder: Path) -> None:
    log = opened()
    started(log)
    path = folder / "000000000001.jsonl"
    content = path.read_bytes()
    path.write_bytes(b"x" * (len(content) - 1) + b"\n")
    heard: list[Record] = []
    with pytest.raises(AuditError, match="is not a record"):
        log.tail(2, heard.append)
    with pytest.raises(AuditError, match="is not a record"):
        log.tail(2)
    path.write_bytes(content)
    started(log)
    assert heard == []


def test_a_record_that_was_not_written_is_not_told(opened: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    log = opened()
    heard: list[Record] = []
    log.tail(0, heard.append)
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", failing(errno.ENOSPC))
        with pytest.raises(AuditError):
            started(log)
    assert heard == []


def test_the_key_is_nowhere(opened: Open, folder: Path) -> None:
    log = opened()
    started(log)
    assert "k" * 32 not in repr(vars(log))
    assert all(b"k" * 32 not in path.read_bytes() for path in folder.iterdir())
