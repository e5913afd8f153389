"""What the agent reads in place of a file with secrets. The form stays (the same variables, valid JSON), so that
programs go on reading it; values are placeholders. Pure, and linear in the size of what is read: it was written by
others."""

from __future__ import annotations

import re

from leasehold.node.sandbox import secretfiles

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

BYTES_MAX = 1 << 20
_NAME_CHARS_MAX = 64
_TEXT_OF_NOTE = "Leasehold does not show what this file holds, because it looks like a secret."

_PRIVATE = (b"PRIVATE KEY", b"AGE-SECRET-KEY-", b"PuTTY-User-Key-File", b"BEGIN OpenVPN Static key")
_PUBLIC = (b"PUBLIC KEY", b"BEGIN CERTIFICATE", b"ssh-rsa ", b"ssh-ed25519 ", b"ecdsa-sha2-")
_SPEAKS = re.compile(
    rb"(?:access|refresh|id|auth|api)[-_]?token|oauth|secret|passw|api[-_]?key|private[-_]?key|http-basic|bearer", re.I
)
_SPOKEN = r"token|secret|passw|passphrase|pwd|api[-_]?key|access[-_]?key|private[-_]?key|credential|auth(?!ors?\b)|dsn"
_SECRET_NAME = re.compile(_SPOKEN + r"|key|pass|pin|salt|cookie|session|hash|cert|code|seed", re.I)
_QUOTED = r"""(?P<value>"(?:[^"\\\n]|\\.)*"|'[^'\n]*'|[$]\{[^}\n]{0,256}\}|[^\s,;}\]"'#]+)"""
_KEYED = re.compile(rf"""(?P<before>(?:{_SPOKEN})[\w.-]{{0,64}}["']?[ \t]{{0,16}}[:=][ \t]{{0,16}}){_QUOTED}""", re.I)
_FLAG = re.compile(
    rf"""(?P<before>-[\w-]{{0,64}}?(?:{_SPOKEN})[\w-]{{0,64}}["'][ \t]{{0,16}},\s{{0,64}}){_QUOTED}""", re.I
)
_USERINFO = re.compile(r"""://(?P<user>[^\s/@"'?#]{1,512})@""")
_REFERENCE = re.compile(r"\$\{[^}]*\}|\$\w+|%\w+%|\{\{[^}]*\}\}")
_PLAIN = re.compile(
    r"|true|false|yes|no|on|off|null|none|[0-9]{1,5}|development|production|staging|test|testing|local|debug|info"
    r"|warn(?:ing)?|error|localhost|127\.0\.0\.1|0\.0\.0\.0|::1|utf-?8|utc",
    re.I,
)
_VARIABLE = re.compile(
    r"[ \t]*(?P<export>export[ \t]+)?(?P<name>[A-Z][A-Z0-9_]*|[a-z][a-z_]*|[a-z]+(?:[A-Z][a-z]+)+)[ \t]*="
)
PREFIXES = (
    "sk-ant-api03-", "sk-ant-oat01-", "sk-ant-", "sk-proj-", "sk-", "sk_live_", "sk_test_", "rk_live_", "rk_test_",
    "pk_live_", "whsec_", "ghp_", "gho_", "ghu_", "ghs_", "ghr_", "github_pat_", "glpat-", "gldt-", "glrt-", "xoxb-",
    "xoxp-", "xoxa-", "xoxe-", "xapp-", "npm_", "pypi-", "AKIA", "ASIA", "AIza", "ya29.", "hf_", "dop_v1_", "lin_api_",
    "SG.", "AGE-SECRET-KEY-1", "hvs.", "hvb.", "rubygems_", "shpat_", "figd_", "sntrys_", "dckr_pat_",
)  # fmt: skip
_SHAPE = re.compile(
    r"(?<![\w-])(?:" + "|".join(re.escape(prefix) for prefix in PREFIXES) + r")[\w.-]{12,}"
    r"|(?<![\w-])eyJ[\w-]{8,}\.[\w-]{8,}\.[\w-]*"
    r"|(?<=[Bb]earer )[\w.~+/-]{8,}=*|(?<=[Bb]asic )[\w+/]{8,}=*"
)


def shown(name: str, rule: str, content: bytes | None, canary: Callable[[str], str]) -> bytes | None:
    """What the agent reads of the file ``name`` (folded); ``None`` when it may read the file itself.

    ``rule``: of :func:`~leasehold.node.sandbox.secretfiles.rule_for`. ``content``: the file's first
    :data:`BYTES_MAX` + 1 bytes, or ``None`` when it cannot be read: what is unknown counts as a secret.
    ``canary``: a placeholder that begins with the given prefix.
    """
    if content is None or len(content) > BYTES_MAX:
        return note(name)
    private = any(mark in content for mark in _PRIVATE)
    if rule == secretfiles.KEY:
        return note(name) if private else None
    if rule == secretfiles.NOT_PUBLIC:
        return None if not private and any(mark in content for mark in _PUBLIC) else note(name)
    if rule == secretfiles.WORDS:
        return note(name) if _SPEAKS.search(content) else None
    if rule == secretfiles.DATA:
        return None if b"{{" in content and not private else note(name)
    text = content.decode("utf-8", "surrogateescape")
    if rule == secretfiles.ENV:
        return env_placeholders(text, canary).encode()
    if rule == secretfiles.TEXT:
        redacted = redact(text, canary)
        return None if redacted == text else redacted.encode("utf-8", "surrogateescape")
    return note(name)


def note(name: str) -> bytes:
    """A few words in place of the content, in the form that readers of such a file expect."""
    ending = name.rpartition(".")[2]
    if ending in ("json", "dockerconfigjson") or ".tfstate" in name:
        return f'{{"leasehold": "{_TEXT_OF_NOTE}"}}\n'.encode()
    if name == "nuget.config" or ending == "xml":
        return f"<!-- {_TEXT_OF_NOTE} -->\n<configuration/>\n".encode()
    return f"# {_TEXT_OF_NOTE}\n".encode()


def env_placeholders(text: str, canary: Callable[[str], str]) -> str:
    """The variables of a ``.env`` file or a shell fragment with placeholders; comments and all else are left out.

    A value stays when it says nothing: empty, a number of up to five digits, ``true``, ``localhost`` and such, unless
    the variable's name speaks of a secret. A quoted value may go over several lines; what follows a quote that never
    ends is dropped, because its lines could be taken for variables.
    """
    lines = [f"# {_TEXT_OF_NOTE}"]
    at = 0
    while at < len(text):
        end = text.find("\n", at)
        end = len(text) if end < 0 else end
        match = _VARIABLE.match(text, at, end)
        if match is None:
            at = end + 1
            continue
        raw, at = _value(text, match.end(), end)
        if raw is None:
            break
        name = match["name"]
        if len(name) <= _NAME_CHARS_MAX:
            value = raw if _says_nothing(name, raw) else canary(known_prefix(raw))
            lines.append(f"{'export ' if match['export'] else ''}{name}={value}")
    return "\n".join(lines) + "\n"


def _value(text: str, start: int, end: int) -> tuple[str | None, int]:
    """The value that begins at ``start`` on a line that ends at ``end``, and where the next line begins. ``None``: its
    quote never ends."""
    first = text[start:end].lstrip(" \t")
    quote = first[:1]
    if quote not in ('"', "'", "`"):
        return first.partition(" #")[0].strip(), end + 1
    opening = at = end - len(first)
    while (at := text.find(quote, at + 1)) >= 0:
        slashes = 0
        while text[at - 1 - slashes] == "\\":
            slashes += 1
        if quote == "'" or slashes % 2 == 0:
            following = text.find("\n", at)
            return text[opening + 1 : at], len(text) if following < 0 else following + 1
    return None, len(text)


def _says_nothing(name: str, value: str) -> bool:
    return value == "" or (_PLAIN.fullmatch(value) is not None and not _SECRET_NAME.search(name))


def redact(text: str, canary: Callable[[str], str]) -> str:
    """``text`` with placeholders for what looks like a secret: values of names that speak of one, tokens of known
    shape, user information in URLs. References such as ``${TOKEN}`` and plain words stay."""

    def keyed(match: re.Match[str]) -> str:
        value = match["value"]
        quote = value[0] if value[0] in "\"'" else ""
        bare = value.strip(quote) if quote else value
        if _PLAIN.fullmatch(bare) or _REFERENCE.fullmatch(bare):
            return match[0]
        return f"{match['before']}{quote}{canary(known_prefix(bare))}{quote}"

    text = _USERINFO.sub(lambda match: match[0] if _REFERENCE.search(match["user"]) else "://", text)
    text = _FLAG.sub(keyed, _KEYED.sub(keyed, text))
    return _SHAPE.sub(lambda match: canary(known_prefix(match[0])), text)


def known_prefix(value: str) -> str:
    """The part of a token that says only of what kind it is."""
    return next((prefix for prefix in PREFIXES if value.startswith(prefix)), "")
