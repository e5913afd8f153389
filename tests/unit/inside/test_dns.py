"""What the compartment's names are answered, byte for byte as RFC 1035, section 4, has it."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from leasehold.inside.dns import answer_query

NAMES = {"api.forge.test": "198.18.0.2"}
A, AAAA, IN = 1, 28, 1


def query(name: str = "api.forge.test", *, kind: int = A, flags: int = 0x0100, questions: int = 1) -> bytes:
    labels = b"".join(bytes([len(label)]) + label.encode("latin-1") for label in name.split(".") if label)
    return struct.pack("!HHHHHH", 0xBEEF, flags, questions, 0, 0, 0) + labels + b"\0" + struct.pack("!HH", kind, IN)


def ask(data: bytes) -> tuple[bytes, list[str]]:
    """The reply, and the names that were noted as denied."""
    denied: list[str] = []
    return answer_query(data, NAMES, denied.append), denied


def head(reply: bytes) -> tuple[int, ...]:
    """Number, flags without the code, code, questions, answers."""
    number, flags, questions, answers, _, _ = struct.unpack_from("!HHHHHH", reply)
    return number, flags & 0xFFF0, flags & 15, questions, answers


def test_a_name_of_the_compartment_has_its_address() -> None:
    reply, denied = ask(query())
    assert head(reply) == (0xBEEF, 0x8580, 0, 1, 1)
    # The question again, then a record whose name is a pointer to it: A, IN, 60 s, 4 bytes.
    assert reply[12:] == query()[12:] + b"\xc0\x0c\0\1\0\1\0\0\0\x3c\0\4\xc6\x12\0\2"
    assert denied == []


def test_letter_case_is_kept_in_the_question_and_does_not_count() -> None:
    reply, _ = ask(query("API.Forge.tesT"))
    assert head(reply)[2:] == (0, 1, 1) and b"\3API\5Forge\4tesT" in reply


def test_recursion_desired_is_repeated_as_asked() -> None:
    assert head(ask(query(flags=0))[0])[1] == 0x8480
    assert head(ask(query(flags=0x0100))[0])[1] == 0x8580


def test_another_type_of_a_known_name_is_an_empty_answer() -> None:
    reply, denied = ask(query(kind=AAAA))
    assert head(reply)[2:] == (0, 1, 0) and reply[12:] == query(kind=AAAA)[12:]
    assert denied == []


@pytest.mark.parametrize("name", ["evil.test", "x.api.forge.test", "forge.test", "api.forge.test2", ""])
def test_any_other_name_does_not_exist_and_is_noted(name: str) -> None:
    reply, denied = ask(query(name))
    assert head(reply)[2:] == (3, 1, 0) and reply[12:] == query(name)[12:]
    assert denied == [name]


def test_what_follows_the_question_is_ignored() -> None:
    """A resolver adds a record about itself (EDNS, RFC 6891)."""
    data = bytearray(query() + b"\0\0\x29\x10\0\0\0\0\0\0\0")
    data[11] = 1
    reply, _ = ask(bytes(data))
    assert head(reply)[2:] == (0, 1, 1) and len(reply) == len(query()) + 16


def test_answers_and_fragments_get_no_reply() -> None:
    """Or two servers would go on answering each other."""
    assert ask(query(flags=0x8180)) == (b"", [])
    for length in range(12):
        assert ask(query()[:length]) == (b"", [])


@pytest.mark.parametrize("opcode", [1, 2, 4, 5, 15])
def test_other_operations_are_not_implemented(opcode: int) -> None:
    reply, denied = ask(query(flags=opcode << 11))
    assert head(reply)[2:] == (4, 0, 0) and len(reply) == 12 and denied == []


LABEL = b"\x3f" + b"a" * 63


@pytest.mark.parametrize(
    "data",
    [
        query(questions=0),
        query(questions=2),
        query()[:12],
        query()[:20],
        query()[:-1],
        query()[:12] + b"\x40" + b"a" * 64 + b"\0\0\1\0\1",
        query()[:12] + b"\xc0\x0c\0\1\0\1",
        query()[:12] + LABEL * 5 + b"\0\0\1\0\1",
    ],
    ids=["no question", "two", "no name", "cut label", "cut type", "label of 64", "pointer", "name of 320"],
)
def test_malformed_questions_are_format_errors(data: bytes) -> None:
    reply, denied = ask(data)
    assert head(reply)[2:] == (1, 0, 0) and len(reply) == 12 and denied == []


def test_the_longest_labels_are_well_formed() -> None:
    reply, denied = ask(query()[:12] + LABEL * 3 + b"\0\0\1\0\1")
    assert head(reply)[2:] == (3, 1, 0) and denied == [".".join(["a" * 63] * 3)]


@given(st.binary(max_size=600), st.integers(0, 2))
def test_no_bytes_make_it_fail(data: bytes, questions: int) -> None:
    for packet in (data, struct.pack("!HHHHHH", 1, 0, questions, 0, 0, 0) + data):
        reply, denied = ask(packet)
        assert not reply or (len(reply) >= 12 and reply[:2] == packet[:2] and reply[2] & 0x80)
        assert not (denied and head(reply)[2] != 3)
