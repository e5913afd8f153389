"""Tables, colours and JSON: for people on a terminal, plain in a pipe, exact for machines."""

from __future__ import annotations

import os
import sys

from leasehold.core.text import printable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any, TextIO

    from leasehold.core.errors import LeaseholdError

BOLD, RED, GREEN, YELLOW = "1", "31", "32", "33"


def colour(stream: TextIO) -> bool:
    """Whether to colour: on a terminal that can, unless ``NO_COLOR`` is set (no-color.org)."""
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def paint(text: str, code: str, stream: TextIO) -> str:
    """``text`` in a colour (SGR ``code``) where that is wanted."""
    return f"\033[{code}m{text}\033[0m" if colour(stream) else text


def table(headings: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print rows: in columns under headings on a terminal, with tabs and nothing else in a pipe.

    Nothing that others wrote can move the cursor or add a column.
    """
    cells = [[printable(str(cell)) for cell in row] for row in rows]
    if not sys.stdout.isatty():
        print("".join("\t".join(row) + "\n" for row in cells), end="")
        return
    widths = [max(len(row[i]) for row in [headings, *cells]) for i in range(len(headings))]
    for number, row in enumerate([headings, *cells]):
        line = "  ".join(f"{text:{width}}" for text, width in zip(row, widths, strict=True)).rstrip()
        print(line if number else paint(line, BOLD, sys.stdout))


def note(text: str) -> None:
    """Say something beside the result."""
    sys.stderr.write(f"note: {printable(text)}\n")


def dump(value: Any, stream: TextIO | None = None) -> None:
    """Print JSON in one line."""
    import json

    print(json.dumps(value, ensure_ascii=False), file=stream or sys.stdout)


def error(found: LeaseholdError, *, as_json: bool) -> None:
    """Say what went wrong, and what to do next, on standard error."""
    if as_json:
        dump({"error": found.as_dict()}, sys.stderr)
        return
    word = paint("error:", RED, sys.stderr)
    sys.stderr.write(f"{word} {found.code}: {printable(found.message)}\nhint: {printable(found.hint)}\n")
