"""Path patterns of rules, and what they compile to.

A pattern starts with ``/``. ``*`` stands for one whole segment, ``**`` as the last segment for any rest (also
none). Nothing else is special: metacharacters of other matchers are literal. Matching is over the canonical path,
without its query. What a wildcard stands for never holds an encoded slash, backslash, percent sign, NUL or line end,
nor a segment like ``..;x``, because servers differ in what they make of them; a pattern that needs one spells it.
"""

from __future__ import annotations

import re

_SEGMENT = re.compile(r"(?:[A-Za-z0-9._~!$&'()+,;=:@-]|%[0-9A-Fa-f]{2})*\Z")

_ENCODED = r"%(?:0[1-9bcefBCEF]|[1346-9a-fA-F][0-9a-fA-F]|2[0-46-9a-eA-E]|5[0-9abd-fABD-F])"
_ANY_SEGMENT = rf"\.{{0,2}}(?:[^/%\\.;]|{_ENCODED})(?:[^/%\\]|{_ENCODED})*"


def check_pattern(pattern: str) -> str:
    """Return ``pattern`` or raise ``ValueError`` that says what is wrong with it."""
    if not pattern.startswith("/"):
        raise ValueError(f"path {pattern!a} must start with /")
    segments = pattern[1:].split("/")
    for i, segment in enumerate(segments):
        last = i == len(segments) - 1
        if segment == "**":
            if not last:
                raise ValueError(f"path {pattern!a}: ** may only be the last segment")
        elif segment == "*":
            continue
        elif "*" in segment:
            raise ValueError(f"path {pattern!a}: * stands for one whole segment")
        elif segment in (".", ".."):
            raise ValueError(f"path {pattern!a} is not canonical")
        elif segment == "" and not last:
            raise ValueError(f"path {pattern!a} has an empty segment")
        elif not _SEGMENT.match(segment):
            raise ValueError(f"path {pattern!a} has a character that a canonical path cannot have")
    return pattern


def to_regex(pattern: str) -> str:
    """The RE2 expression that matches exactly the canonical paths of ``pattern`` (no query)."""
    out = ""
    for segment in check_pattern(pattern)[1:].split("/"):
        if segment == "**":
            return f"{out}(?:/{_ANY_SEGMENT})*/?" if out else f"/(?:{_ANY_SEGMENT}(?:/{_ANY_SEGMENT})*/?)?"
        out += "/" + (_ANY_SEGMENT if segment == "*" else re.escape(segment))
    return out


def matches(pattern: str, path: str) -> bool:
    """Whether the canonical ``path`` (no query) matches."""
    return re.fullmatch(to_regex(pattern), path, re.DOTALL) is not None


def intersection(a: str, b: str) -> str | None:
    """The pattern of exactly those paths that both match; ``None`` when there are none."""
    x, y = a[1:].split("/"), b[1:].split("/")
    both: list[str] = []
    for i, (p, q) in enumerate(zip(x, y, strict=False)):
        if p == "**":
            return _joined(both, y[i:])
        if q == "**":
            return _joined(both, x[i:])
        if p == q or (q == "*" and _is_any(p)):
            both.append(p)
        elif p == "*" and _is_any(q):
            both.append(q)
        else:
            return None
    return _joined(both, []) if (x[len(y) :] or y[len(x) :]) in ([], ["**"]) else None


def within(narrow: str, wide: str) -> bool:
    """Whether every path that ``narrow`` matches, ``wide`` matches too."""
    return intersection(narrow, wide) == narrow


def _joined(both: list[str], rest: list[str]) -> str | None:
    """``both`` and what ``**`` stands for; ``None`` when that is something for which it does not stand."""
    inner = rest[:-1] if rest[-1:] in ([""], ["**"]) else rest
    return "/" + "/".join(both + rest) if all(s == "*" or _is_any(s) for s in inner) else None


def _is_any(segment: str) -> bool:
    return re.fullmatch(_ANY_SEGMENT, segment) is not None
