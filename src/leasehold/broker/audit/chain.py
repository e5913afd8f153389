"""How records are bound together: each names the hash of the one before, the head names the last one. Pure.

A record's ``hash`` is SHA-256 over its canonical JSON (RFC 8785) without ``hash`` and ``mac``, so that anyone can check
the chain. Its ``mac`` is HMAC-SHA256 over that hash with the audit key, so that nobody without the key can add to it.
The head carries such a MAC too; it is what tells a log that was cut from one that ends.
"""

from __future__ import annotations

import hashlib
import hmac

import msgspec

from leasehold.broker.audit.model import Record, Value
from leasehold.core.secret import Secret

GENESIS = "0" * 64
_RECORD = b"leasehold audit record 1\0"
_HEAD = b"leasehold audit head 1\0"


class Head(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The last record that was acknowledged: its number and hash, and where its line ends (``offset``, bytes)."""

    seq: int
    hash: str
    segment: str
    offset: int
    mac: str = ""


START = Head(seq=0, hash=GENESIS, segment="", offset=0)


class Sealer:
    """Makes and checks hashes and MACs with one key."""

    def __init__(self, key: Secret) -> None:
        self._keyed = hmac.new(key.reveal(), digestmod="sha256")

    def record(
        self,
        *,
        after: Head | Record,
        time: str,
        event: str,
        outcome: str,
        task: str | None,
        fields: dict[str, Value],
    ) -> Record:
        """The record that follows ``after``."""
        body = {
            "seq": after.seq + 1,
            "time": time,
            "event": event,
            "outcome": outcome,
            "task": task,
            "fields": fields,
            "previous": after.hash,
        }
        digest = hashlib.sha256(canonical(body)).hexdigest()
        return msgspec.convert({**body, "hash": digest, "mac": self._mac(_RECORD, digest.encode())}, Record)

    def head(self, head: Head) -> bytes:
        """The head as it is stored."""
        return canonical(msgspec.structs.replace(head, mac=self._head_mac(head)))

    def read_head(self, data: bytes) -> Head | None:
        """The stored head; ``None`` when it is not one that was sealed with this key."""
        try:
            head = msgspec.json.decode(data, type=Head)
        except (msgspec.DecodeError, UnicodeError):
            return None
        if not _same(head.mac, self._head_mac(head)) or canonical(head) != data:
            return None
        return msgspec.structs.replace(head, mac="")

    def read(self, line: bytes, after: Head | Record) -> Record | str:
        """The record of ``line`` (with its line end) when it is intact and follows ``after``; else what is wrong."""
        try:
            record = msgspec.json.decode(line, type=Record)
        except (msgspec.DecodeError, UnicodeError):
            return "it is not a record"
        if canonical(record) + b"\n" != line:
            return "it is not in the form that it was written in"
        body = {name: value for name, value in record.as_dict().items() if name not in ("hash", "mac")}
        if hashlib.sha256(canonical(body)).hexdigest() != record.hash:
            return "its content does not have its hash"
        if not _same(record.mac, self._mac(_RECORD, record.hash.encode())):
            return "it was not sealed with this log's key"
        if (record.seq, record.previous) != (after.seq + 1, after.hash):
            return f"it does not follow record {after.seq}"
        return record

    def _head_mac(self, head: Head) -> str:
        return self._mac(_HEAD, canonical(msgspec.structs.replace(head, mac="")))

    def _mac(self, purpose: bytes, data: bytes) -> str:
        keyed = self._keyed.copy()
        keyed.update(purpose + data)
        return keyed.hexdigest()


def _same(given: str, made: str) -> bool:
    return hmac.compare_digest(given.encode(), made.encode())


def line_of(record: Record) -> bytes:
    """The record as a line of a segment."""
    return canonical(record) + b"\n"


def canonical(value: object) -> bytes:
    """RFC 8785 for what a record holds: text, integers, null, lists and objects with ASCII names."""
    return msgspec.json.encode(value, order="sorted")
