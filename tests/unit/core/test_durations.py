"""Durations as people write them, and nothing else."""

from __future__ import annotations

import pytest

from leasehold.core.durations import parse_duration


@pytest.mark.parametrize(
    ("text", "seconds"), [("1s", 1), ("90s", 90), ("15m", 900), ("1h", 3600), ("999999h", 3599996400)]
)
def test_durations(text: str, seconds: int) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize(
    "text", ["", "0s", "01s", "-1s", "+1s", "1", "s", "1 h", "1H", "1d", "1.5h", "1h30m", "1h\n", "\u0661h", "1000000h"]
)
def test_what_is_none_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is no duration like 90s, 15m or 1h"):
        parse_duration(text)
