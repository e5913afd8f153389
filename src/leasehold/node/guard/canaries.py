"""Placeholders that look like keys, are worth nothing, and can be recognised again."""

from __future__ import annotations

import secrets

_MARK = "lhcanary"
_BYTES = 18


def new_canary(prefix: str) -> str:
    """A new placeholder that begins with ``prefix``, such as ``sk-ant-api03-``; unique, and of a key's length."""
    return f"{prefix}{_MARK}{secrets.token_hex(_BYTES)}"


def is_canary(text: str) -> bool:
    """Whether a placeholder of ours stands in ``text``."""
    return _MARK in text
