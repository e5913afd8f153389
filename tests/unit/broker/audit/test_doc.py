"""``docs/audit.md`` says what there is, all of it and nothing else."""

from __future__ import annotations

import re
from pathlib import Path

from leasehold.broker.audit.model import SHAPES, Event, Outcome, Record

TEXT = (Path(__file__).parents[4] / "docs" / "audit.md").read_text()
ROW = re.compile(r"^\| `([a-z]+:[a-z-]+)` \|[^|]*\|([^|]*)\|$", re.MULTILINE)


def test_every_event_is_documented_with_its_fields() -> None:
    documented = {name: re.findall(r"`([a-z_]+)`", fields) for name, fields in ROW.findall(TEXT)}
    assert documented == {str(event): list(SHAPES[event].fields) for event in SHAPES}
    assert list(documented) == sorted(Event)


def test_every_member_and_outcome_is_documented() -> None:
    assert all(f"| `{name}` |" in TEXT for name in Record.__struct_fields__)
    assert all(f"`{outcome}`" in TEXT for outcome in Outcome)
