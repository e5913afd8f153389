"""What the value of a secret may be: it goes into a header, a password, a query parameter, or to an issuer."""

from __future__ import annotations

from leasehold.core.limits import LIMITS

_CONTROL = frozenset(range(0x20)) | {0x7F}
_DOCUMENTS = (b"-----BEGIN ", b"{")


def without_line_end(value: bytes) -> bytes:
    """``value`` without one line end, as files and commands end in one."""
    return value.removesuffix(b"\n").removesuffix(b"\r")


def problem_with(value: bytes) -> str:
    """What is wrong with ``value``, without repeating any of it; empty when nothing is.

    CR, LF and NUL would end a header or begin another one (RFC 9110, 5.5); no credential has other control bytes. What
    begins as a key (PEM) or as JSON is for an issuer, and has lines; in a header it is refused where it is delivered.
    """
    if not value:
        return "the value is empty"
    if len(value) > LIMITS.secret_bytes_max:
        return f"the value has {len(value)} bytes, at most {LIMITS.secret_bytes_max} are expected"
    if value.startswith(_DOCUMENTS):
        return "the value has control characters" if (_CONTROL - {0x09, 0x0A, 0x0D}) & set(value) else ""
    if b"\n" in value or b"\r" in value:
        return "the value has several lines, one is expected"
    return "the value has control characters" if _CONTROL & set(value) else ""
