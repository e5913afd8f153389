"""Records and heads as lines: what is sealed can be read back, whatever else cannot."""

from __future__ import annotations

import hashlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from leasehold.broker.audit.chain import GENESIS, START, Head, Sealer, canonical, line_of
from leasehold.broker.audit.model import Record
from leasehold.core.secret import Secret

SEALER = Sealer(Secret(b"k" * 32))
OTHER = Sealer(Secret(b"o" * 32))


def record(sealer: Sealer = SEALER, after: Head | Record = START) -> Record:
    fields: dict[str, str | int | list[str] | None] = {"name": "forge", "b": 1, "a": None, "l": ["x", "é"]}
    return sealer.record(
        after=after, time="2026-01-01T00:00:00.000000Z", event="e", outcome="o", task=None, fields=fields
    )


def test_a_record_reads_back_and_names_the_one_before() -> None:
    first = record()
    second = record(after=first)
    assert SEALER.read(line_of(first), START) == first
    assert SEALER.read(line_of(second), first) == second
    assert (first.seq, first.previous, second.seq, second.previous) == (1, GENESIS, 2, first.hash)


def test_anyone_can_check_the_hash_with_any_json_library() -> None:
    stored = json.loads(line_of(record()))
    del stored["mac"]
    given_hash = stored.pop("hash")
    text = json.dumps(stored, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    assert hashlib.sha256(text.encode()).hexdigest() == given_hash


def test_what_is_wrong_with_a_line_is_said() -> None:
    first = record()
    line = line_of(first)
    changed = line.replace(b'"forge"', b'"gitea"')
    body = {name: value for name, value in json.loads(changed).items() if name not in ("hash", "mac")}
    rehashed = canonical({**json.loads(changed), "hash": hashlib.sha256(canonical(body)).hexdigest()}) + b"\n"
    assert SEALER.read(b"{}\n", START) == "it is not a record"
    assert SEALER.read(b"\xff\n", START) == "it is not a record"
    assert SEALER.read(line.replace(b'"seq":1', b'"seq": 1'), START) == "it is not in the form that it was written in"
    assert SEALER.read(line[:-1], START) == "it is not in the form that it was written in"
    assert SEALER.read(changed, START) == "its content does not have its hash"
    assert SEALER.read(rehashed, START) == "it was not sealed with this log's key"
    assert SEALER.read(line_of(record(OTHER)), START) == "it was not sealed with this log's key"
    assert SEALER.read(line.replace(first.mac.encode(), "é".encode()), START) == "it was not sealed with this log's key"
    assert SEALER.read(line, first) == "it does not follow record 1"
    assert SEALER.read(line_of(record(after=first)), START) == "it does not follow record 0"


HEAD = Head(seq=7, hash="a" * 64, segment="000000000001.jsonl", offset=99)


def test_a_head_reads_back_and_only_with_its_key() -> None:
    stored = SEALER.head(HEAD)
    assert SEALER.read_head(stored) == HEAD
    assert OTHER.read_head(stored) is None
    assert SEALER.read_head(stored.replace(b'"seq":7', b'"seq":6')) is None
    assert SEALER.read_head(stored + b" ") is None
    assert SEALER.read_head(b"") is None
    assert SEALER.read_head(b'{"mac":"\xff"}') is None


def test_the_mac_of_a_record_is_not_one_of_a_head() -> None:
    """The same key seals both, so what is sealed says which it is."""
    head = Head(seq=1, hash=record().hash, segment="", offset=0, mac=record().mac)
    assert SEALER.read_head(canonical(head)) is None


@given(st.binary(max_size=400))
def test_no_bytes_make_the_reader_fail(data: bytes) -> None:
    assert isinstance(SEALER.read(data, START), str)
    assert SEALER.read_head(data) is None


@given(st.data())
def test_no_bit_can_be_changed(data: st.DataObject) -> None:
    line = bytearray(line_of(record()))
    at = data.draw(st.integers(0, len(line) - 1))
    line[at] ^= 1 << data.draw(st.integers(0, 7))
    assert isinstance(SEALER.read(bytes(line), START), str)


@pytest.mark.parametrize("depth", [100, 100_000])
def test_deep_nesting_is_no_record(depth: int) -> None:
    assert SEALER.read(b'{"fields":{"a":' + b"[" * depth, START) == "it is not a record"
