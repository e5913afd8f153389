"""What the value of a secret may be."""

from __future__ import annotations

import pytest

from leasehold.broker.vault.values import problem_with


@pytest.mark.parametrize(
    "value", [b"-----BEGIN PRIVATE KEY-----\nAAAA\r\n-----END PRIVATE KEY-----", b'{\n\t"a": "b"\n}', b"token"]
)
def test_a_key_or_a_document_for_an_issuer_has_lines(value: bytes) -> None:
    assert problem_with(value) == ""


@pytest.mark.parametrize("value", [b"-----BEGIN PRIVATE KEY-----\n\0", b'{"a":\x1b}'])
def test_other_control_characters_are_in_neither(value: bytes) -> None:
    assert problem_with(value) == "the value has control characters"


@pytest.mark.parametrize("value", [b"a\nb", b"a\rb", b" -----BEGIN X-----\n"])
def test_what_is_no_document_has_one_line(value: bytes) -> None:
    assert problem_with(value) == "the value has several lines, one is expected"
