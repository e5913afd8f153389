"""Reads git's configuration files as text (git-config(1)); git itself is never run on them."""

from __future__ import annotations

import re

_SECTION = re.compile(rb"\s*\[\s*([A-Za-z0-9.-]+)\s*(?:\"((?:[^\"\\]|\\.)*)\")?\s*\]\s*(.*)\Z")
_KEY = re.compile(rb"\s*([A-Za-z][A-Za-z0-9-]*)\s*(?:=\s*(.*))?\Z")
_USERINFO = re.compile(rb"([a-z+]+://)[^/@\s\"]*@")
_SECRET_KEYS = frozenset({b"extraheader", b"password", b"token", b"cookiefile", b"oauthtoken"})
_URL = re.compile(rb"(?:https?|ssh|git)://[!-~]+\Z|[A-Za-z0-9_.-]+@[A-Za-z0-9.-]+:[!-~]+\Z")
_WORD = re.compile(rb"[A-Za-z0-9 _./:@+,*~<>-]*\Z")

# Section and key of what git only believes, never runs or reads elsewhere. Everything else is taken out.
_HARMLESS: dict[bytes, frozenset[bytes]] = {
    b"core": frozenset(
        {
            b"repositoryformatversion",
            b"filemode",
            b"bare",
            b"logallrefupdates",
            b"ignorecase",
            b"precomposeunicode",
            b"symlinks",
        }
    ),
    b"remote": frozenset({b"url", b"fetch", b"tagopt", b"prune"}),
    b"branch": frozenset({b"remote", b"merge", b"rebase"}),
    b"user": frozenset({b"name", b"email"}),
    b"submodule": frozenset({b"url", b"active"}),
    b"extensions": frozenset({b"objectformat"}),
    b"pull": frozenset({b"rebase", b"ff"}),
    b"init": frozenset({b"defaultbranch"}),
}


def without_secrets(config: bytes) -> bytes:
    """The configuration without user info in URLs, and without headers and tokens; unchanged when there are none."""
    lines = []
    for line in config.splitlines(keepends=True):
        key = _KEY.match(line.rstrip(b"\r\n"))
        if key and key[1].lower() in _SECRET_KEYS:
            continue
        lines.append(_USERINFO.sub(rb"\1", line))
    return b"".join(lines)


def harmless(config: bytes) -> bytes:
    """The configuration reduced to keys that are known to be harmless; unchanged when there is nothing else.

    An allow-list, because filters, drivers, helpers and includes cannot be enumerated (BOUNDARY F4).
    """
    lines: list[bytes] = []
    section = b""
    for line in config.splitlines():
        heading = _SECTION.match(line)
        if heading:
            section = heading[1].lower()
            if section in _HARMLESS and not heading[3].strip():
                lines.append(line)
            else:
                section = b""
            continue
        key = _KEY.match(line)
        if key and key[1].lower() in _HARMLESS.get(section, ()) and _value(key[1].lower(), (key[2] or b"").strip()):
            lines.append(line)
    clean = b"".join(line + b"\n" for line in lines)
    meant = [line for line in config.splitlines() if line.strip() and not line.lstrip().startswith((b"#", b";"))]
    return config if meant == lines else clean


def _value(key: bytes, value: bytes) -> bool:
    return bool(_URL.match(value)) if key == b"url" else bool(_WORD.match(value)) and not value.startswith(b"-")
