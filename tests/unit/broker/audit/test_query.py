"""Finding records again."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from leasehold.broker.audit.log import AuditLog
from leasehold.broker.audit.model import Event, Outcome
from leasehold.broker.audit.query import Filter
from leasehold.core.errors import AuditError, UsageError
from leasehold.core.limits import LIMITS

from .conftest import started

Open = Callable[[], AuditLog]


@pytest.fixture
def log(opened: Open) -> AuditLog:
    """Seven records of two tasks and of none, over several segments; one second between them."""
    log = opened()
    started(log)
    for task in ("one", "two"):
        log.append(
            Event.TASK_OPENED, outcome=Outcome.ALLOWED, task=task, agent_class="local", uid=0, purpose="", profile="",
            workspace="/w", ttl_s=60, credentials=["forge", "npm"],
        )  # fmt: skip
        log.append(
            Event.CREDENTIAL_FIRST_USE, outcome=Outcome.DENIED if task == "two" else Outcome.ALLOWED, task=task,
            credential="forge", role="execute", environment="development", policy="p", reason="",
        )  # fmt: skip
        log.append(Event.NAME_DENIED, outcome=Outcome.DENIED, task=task, host="a", count=1)
    return log


def found(log: AuditLog, **message: Any) -> list[int]:
    return [record.seq for record in log.query(Filter.parse({"op": "audit.query", **message})).records]


FIRST = 1_700_000_001


@pytest.mark.parametrize(
    ("message", "seqs"),
    [
        ({}, [1, 2, 3, 4, 5, 6, 7]),
        ({"task": "one"}, [2, 3, 4]),
        ({"task": "nobody"}, []),
        ({"event": "name:denied"}, [4, 7]),
        ({"outcome": "denied"}, [4, 6, 7]),
        ({"credential": "forge"}, [2, 3, 5, 6]),
        ({"credential": "npm"}, [2, 5]),
        ({"credential": "a"}, []),
        ({"since": FIRST + 5}, [6, 7]),
        ({"until": FIRST + 2}, [1, 2]),
        ({"since": FIRST + 1, "until": FIRST + 3}, [2, 3]),
        ({"before": 3}, [1, 2]),
        ({"limit": 2}, [6, 7]),
        ({"limit": 2, "before": 6}, [4, 5]),
        ({"limit": 0}, []),
        ({"limit": -5}, []),
        ({"task": "two", "outcome": "denied", "limit": 1}, [7]),
        ({"task": None}, [1, 2, 3, 4, 5, 6, 7]),
    ],
)
def test_filters(log: AuditLog, message: dict[str, Any], seqs: list[int]) -> None:
    assert found(log, **message) == seqs


def test_pages_say_whether_there_is_more(log: AuditLog) -> None:
    assert not log.query(Filter()).more
    assert not log.query(Filter(limit=7)).more
    assert log.query(Filter(limit=6)).more
    page = log.query(Filter(task="one", limit=2)).as_dict()
    assert page["more"] is True
    assert [record["event"] for record in page["records"]] == ["credential:first-use", "name:denied"]


def test_a_page_fits_into_a_message(opened: Open) -> None:
    log = opened()
    rows = [
        {"event": Event.HANDBACK_FOUND, "outcome": Outcome.DONE, "task": "one", "found": ["x" * 250] * 100}
        for _ in range(150)
    ]
    log.append_many(rows)
    page = log.query(Filter())
    assert 0 < len(page.records) < 150
    assert page.more
    assert page.records[-1].seq == 150
    assert sum(len(str(record.as_dict())) for record in page.records) < LIMITS.message_bytes_max


@pytest.mark.parametrize(
    ("message", "said"),
    [
        ({"event": "task:paused"}, "task:paused"),
        ({"outcome": "maybe"}, "maybe"),
        ({"since": "yesterday"}, "yesterday"),
        ({"since": 1e30}, "year|range|large"),
        ({"since": {}}, "float"),
        ({"limit": "many"}, "many"),
        ({"limt": 3}, "unknown filter: 'limt'"),
    ],
)
def test_a_filter_that_is_none_is_an_error(message: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said) as caught:
        Filter.parse(message)
    assert caught.value.__context__ is None


def test_a_write_under_way_is_not_seen_yet(log: AuditLog, folder: Path) -> None:
    path = sorted(folder.glob("*.jsonl"))[-1]
    content = path.read_bytes()
    path.write_bytes(content + b'{"event":')
    assert len(found(log)) == 7
    line = content.splitlines(keepends=True)[-1]
    path.write_bytes(content + line.replace(b'"seq":7', b'"seq":8'))
    assert len(found(log)) == 7


def test_a_line_that_is_no_record_is_an_error(log: AuditLog, folder: Path) -> None:
    path = sorted(folder.glob("*.jsonl"))[0]
    path.write_bytes(b"\xff\n" + path.read_bytes())
    with pytest.raises(AuditError, match=r"line 1 of 000000000001\.jsonl is not a record"):
        found(log)


def test_no_page_is_larger_than_the_limit() -> None:
    assert replace(Filter(), limit=10**9).limit > LIMITS.audit_page_records_max
    assert LIMITS.audit_page_bytes_max < LIMITS.message_bytes_max
