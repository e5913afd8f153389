"""Text that was written by others, made safe for a terminal and a log."""

from __future__ import annotations


def printable(text: str, *, ascii_only: bool = False) -> str:
    """``text`` with every character escaped that could move a cursor, end a line or reorder what is read.

    That is what Unicode calls control, format (bidirectional overrides, zero width), surrogate, private,
    unassigned and separator, except the space; with ``ascii_only`` also whatever is not ASCII.
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(
        c if c.isprintable() and (c.isascii() or not ascii_only) else c.encode("unicode_escape").decode() for c in text
    )
