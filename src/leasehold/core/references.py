"""References to secrets: where a value is to be had, never the value itself."""

from __future__ import annotations

import re
import shlex

from leasehold.core.record import record
from leasehold.core.toml import Wrong

KINDS = ("vault", "env", "file", "command")
_SECRET_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}\Z")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")


@record
class Reference:
    """``kind``: one of ``KINDS``. ``rest``: the name, variable, absolute or ``~/`` path, or command line."""

    kind: str
    rest: str

    def words(self) -> list[str]:
        """The command's words, as a shell would read them without expanding anything."""
        return shlex.split(self.rest)


def parse_reference(text: str) -> Reference:
    """Read ``vault:NAME``, ``env:NAME``, ``file:PATH`` or ``command:PROGRAM ARGUMENTS``.

    ``ValueError`` for anything else; it does not repeat the text, which may be a secret that was put there by mistake.
    """
    kind, colon, rest = text.partition(":")
    if not colon or kind not in KINDS:
        raise Wrong(
            "expected a reference to a secret (vault:, env:, file: or command:), found something else",
            "a value never stands in a file: `leasehold secret set NAME`, and write vault:NAME",
        )
    _CHECKS[kind](rest)
    return Reference(kind=kind, rest=rest)


def check_secret_name(name: str) -> str:
    """``name`` as the vault takes it."""
    if not _SECRET_NAME.match(name):
        raise Wrong(f"{name!a} is no name for a secret", "use lower-case letters, digits, . _ and -, at most 63")
    return name


def _check_variable(name: str) -> None:
    if not _VARIABLE.match(name):
        raise Wrong(f"{name!a} is no name of a variable", "write env:NAME")


def _check_path(path: str) -> None:
    if not path.startswith(("/", "~/")) or "\0" in path:
        raise Wrong(f"expected an absolute path or one that begins with ~/, found {path!a}", "write file:/…")


def _check_command(line: str) -> None:
    try:
        words = shlex.split(line)
    except ValueError as e:
        reason = str(e)
    else:
        if words and "\0" not in line and ("/" not in words[0] or words[0].startswith(("/", "~/"))):
            return
        reason = "expected a program by its name, or by an absolute path"
    raise Wrong(f"that is no command line: {reason}", "write it like command:op read op://vault/item/field")


_CHECKS = {"vault": check_secret_name, "env": _check_variable, "file": _check_path, "command": _check_command}
