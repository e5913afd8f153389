"""Tables, colours and JSON: for people on a terminal, plain in a pipe, exact for machines."""

from __future__ import annotations

import json
import os
import sys

from leasehold.core.text import printable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any, TextIO


def colour(stream: TextIO) -> bool:
    """Whether to colour (no-color.org)."""
    return stream.isatty() and not os.environ.get("NO_COLOR")


def paint(text: str, code: str, stream: TextIO) -> str:
    """``text`` in a colour (SGR ``code``) where that is wanted."""
    return f"\033[{code}m{text}\033[0m" if colour(stream) else text


def table(headings: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print rows under headings; nothing that others wrote can move the cursor."""
    cells = [[printable(str(cell)) for cell in row] for row in rows]
    widths = [max(len(row[i]) for row in [headings, *cells]) for i in range(len(headings))]
    head = "  ".join(f"{text:{width}}" for text, width in zip(headings, widths, strict=True)).rstrip()
    print(paint(head, "1", sys.stdout))
    for row in cells:
        print("  ".join(f"{text:{width}}" for text, width in zip(row, widths, strict=True)).rstrip())


def dump(value: Any) -> None:
    """Print JSON."""
    print(json.dumps(value, ensure_ascii=False))
