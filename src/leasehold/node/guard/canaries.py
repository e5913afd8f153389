"""Placeholders that look like keys, are worth nothing, and can be recognised again, without keeping a list of them."""

from __future__ import annotations

import os
import re
from binascii import crc32

_DIGITS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_MARK = "lhcanary"
_RANDOM = 26
_CHECK = 6
_SHAPE = re.compile(rf"{_MARK}([0-9A-Za-z]{{{_RANDOM}}})([0-9A-Za-z]{{{_CHECK}}})")


def new_canary(prefix: str) -> str:
    """A new placeholder that begins with ``prefix``, such as ``sk-ant-api03-``: unique (over 150 random bits), then 40
    letters and digits as keys have them, the last of which are a checksum."""
    number = int.from_bytes(os.urandom(24), "big")
    body = _base62(number, _RANDOM)
    return f"{prefix}{_MARK}{body}{_checksum(body)}"


def is_canary(text: str) -> bool:
    """Whether ``text`` is a placeholder of ours, with any prefix."""
    match = _SHAPE.search(text)
    return match is not None and match.end() == len(text) and match[2] == _checksum(match[1])


def find_canaries(text: str) -> list[str]:
    """Every placeholder of ours in ``text``, without its prefix, each once, in order."""
    return list(dict.fromkeys(match[0] for match in _SHAPE.finditer(text) if match[2] == _checksum(match[1])))


def _checksum(body: str) -> str:
    return _base62(crc32(f"leasehold canary {body}".encode()), _CHECK)


def _base62(number: int, length: int) -> str:
    digits = []
    for _ in range(length):
        number, digit = divmod(number, 62)
        digits.append(_DIGITS[digit])
    return "".join(digits)
