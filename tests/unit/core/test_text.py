"""Text of others cannot move a cursor, end a line or reorder what is read (BOUNDARY J3)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from leasehold.core.text import printable


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("api.forge.example /a b", "api.forge.example /a b"),
        ("Grüße, 世界", "Grüße, 世界"),
        ("a\nb\tc\r\0", r"a\nb\tc\r\x00"),
        ("\x1b[31mred\x9b0m", r"\x1b[31mred\x9b0m"),
        ("\u202egnp.exe\u2066", r"\u202egnp.exe\u2066"),
        ("zero\u200bwidth\u00ad\ufeff", r"zero\u200bwidth\xad\ufeff"),
        ("line\u2028end\u2029\u00a0", r"line\u2028end\u2029\xa0"),
        ("\udc80\ue000", r"\udc80\ue000"),
        ("\U000e0041", r"\U000e0041"),
    ],
)
def test_what_is_harmless_stays_and_the_rest_is_shown_as_escapes(text: str, kept: str) -> None:
    assert printable(text) == kept


@given(st.text())
def test_the_result_is_printable_and_final(text: str) -> None:
    assert printable(text).isprintable()
    assert printable(printable(text)) == printable(text)
    assert printable(text, ascii_only=True).isascii()
    assert printable(text, ascii_only=True).isprintable()


def test_look_alikes_are_shown_where_only_ascii_belongs() -> None:
    assert printable("\u0430pi.example", ascii_only=True) == r"\u0430pi.example"
    assert printable("api.example", ascii_only=True) == "api.example"
