"""Durations as people write them."""

from __future__ import annotations

import re

_UNITS_S = {"s": 1, "m": 60, "h": 3600}


def parse_duration(text: str) -> int:
    """Seconds of ``90s``, ``15m``, ``1h``; ``ValueError`` for anything else, zero included."""
    match = re.fullmatch(r"([1-9][0-9]{0,5})([smh])", text)
    if match is None:
        raise ValueError(f"{text!a} is no duration like 90s, 15m or 1h")
    return int(match[1]) * _UNITS_S[match[2]]
