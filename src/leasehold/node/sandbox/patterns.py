"""The patterns of ``hide`` and ``read_only`` in the configuration. Pure.

A pattern without a slash, but at its end, is a name at any depth; with one it is a path from the workspace. ``*`` and
``?`` stand for characters of one name, ``**`` as a whole component for any number of folders, a slash at the end for
"folders only". Nothing else is special.
"""

from __future__ import annotations

import re

from leasehold.core.errors import ConfigError
from leasehold.core.record import record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence


@record
class Pattern:
    """``literal``: the path, when there is no wildcard. ``regex``: matches a whole path."""

    regex: re.Pattern[str]
    literal: str | None
    folders_only: bool


def compile_pattern(text: str) -> Pattern:
    """``ConfigError`` for a pattern that can never apply."""
    parts = text.removesuffix("/").split("/")
    if parts[-1] == "**" and len(parts) > 1:
        parts.pop()
    bad = text.startswith(("/", "!")) or any(part in ("", ".", "..") for part in parts) or "\0" in text
    if bad or parts == ["**"]:
        raise ConfigError(
            f"sandbox: {text!a} is no pattern of a path in a workspace",
            hint="write a name, such as *.sqlite, or a path from the workspace, such as deploy/prod or **/fixtures",
        )
    wild = "*" in text or "?" in text
    if len(parts) == 1:
        parts.insert(0, "**")
    regex = "".join(_component(part, last=i == len(parts) - 1) for i, part in enumerate(parts))
    literal = None if wild else "/".join(part for part in parts if part != "**")
    return Pattern(regex=re.compile(regex, re.DOTALL), literal=literal, folders_only=text.endswith("/"))


def _component(part: str, *, last: bool) -> str:
    if part == "**":
        return "(?:[^/]+/)*"
    translated = "".join({"*": "[^/]*", "?": "[^/]"}.get(char, re.escape(char)) for char in part)
    return translated + ("" if last else "/")


def any_match(patterns: Sequence[Pattern], path: str, *, is_folder: bool) -> bool:
    """Whether one of them matches the path of a thing in the workspace."""
    return any((is_folder or not p.folders_only) and p.regex.fullmatch(path) for p in patterns)
