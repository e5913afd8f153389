"""What may stand in the log: fields are checked against their event's shape, cleaned and bounded. Pure."""

from __future__ import annotations

import datetime
import re
from collections.abc import Mapping
from itertools import pairwise
from typing import NoReturn
from urllib.parse import unquote

from leasehold.broker.audit.model import SHAPES, Event, Kind, Outcome, Value
from leasehold.core.errors import AuditError
from leasehold.core.limits import LIMITS
from leasehold.core.text import printable

GONE = "[redacted]"
_HOST_CHARS_MAX = 300
_LIST_CHARS_MAX = 256
_PARAMETERS_MAX = 32
_QUERY_CHARS_MAX = 4096
_NAME_CHARS_MAX = 64
_INT_MAX = 2**53 - 1
"""The largest integer that every JSON reader keeps exact (RFC 8259, section 6)."""

_KNOWN = re.compile(
    r"(?<![A-Za-z0-9])(?:gh[pousr]_|github_pat_|glpat-|xox[a-z]-|xapp-|A[KS]IA|AIza|eyJ|npm_|pypi-A|hv[sbr]\.|"
    r"ya29\.|dop_v1_|SG\.|bot[0-9]{6,}:)[A-Za-z0-9_.~+/=-]{8,}"
)
_UUID = re.compile(r"(?i)(?<![0-9a-f])[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}(?![0-9a-f])")
_RUN = re.compile(r"[A-Za-z0-9]+")
_NAME = re.compile(r"(?i)token|key|secret|sig|pass|pwd|auth|cred|session|code|jwt")
_RUN_MIN = 16
_CHANGES_MIN = 0.3


def rfc3339(seconds: float) -> str:
    """Unix seconds as RFC 3339 in UTC with microseconds: of equal length, so that text order is time order."""
    when = datetime.datetime.fromtimestamp(seconds, datetime.UTC)
    return when.isoformat(timespec="microseconds").replace("+00:00", "Z")


def looks_secret(text: str) -> bool:
    """Whether ``text``, one part of a path, could be a token: a known prefix, or as random as a key is.

    Random means: 16 or more letters and digits in a row of both kinds (or all upper case), or 16 in all that change
    their kind (upper, lower, digit) as often as no word does. UUIDs are taken for identifiers. It would rather redact
    a digest than keep a key.
    """
    if _KNOWN.search(text):
        return True
    size = changes = pairs = 0
    for run in _RUN.findall(_UUID.sub("", text)):
        if len(run) >= _RUN_MIN and not (run.isalpha() and not run.isupper()) and not run.isdigit():
            return True
        kinds = [c.isdigit() + 2 * c.islower() for c in run]
        changes += sum(a != b for a, b in pairwise(kinds))
        pairs += len(run) - 1
        size += len(run)
    return size >= _RUN_MIN and changes >= _CHANGES_MIN * pairs


def redact_target(target: str) -> str:
    """A request's target for the log: no query values, no user info, no fragment, no token in its path.

    Takes every form of RFC 9112, section 3.2. What is left is ASCII without control characters, and bounded; what
    is too long is cut before it is looked at, so that the work is bounded too.
    """
    path, hash_mark, _ = target.partition("#")
    path, question_mark, query = path.partition("?")
    if len(path) > LIMITS.audit_target_chars_max:
        path = path[: LIMITS.audit_target_chars_max].rpartition("/")[0] + "/..."
    path = printable(path, ascii_only=True)
    scheme, separator, rest = path.partition("://")
    if separator and scheme.isalnum():
        authority, slash, rest = rest.partition("/")
        text = f"{scheme}://{redact_host(authority)}{slash}"
    else:
        text, rest = "", path
    text += "/".join(map(_segment, rest.split("/")))
    if question_mark:
        parameters = printable(query[:_QUERY_CHARS_MAX], ascii_only=True).split("&")
        text += "?" + "&".join(map(_parameter, parameters[:_PARAMETERS_MAX]))
        text += "&..." if len(parameters) > _PARAMETERS_MAX else ""
    text += f"#{GONE}" if hash_mark else ""
    return _cut(text, LIMITS.audit_target_chars_max)


def redact_host(authority: str) -> str:
    """A host and port without user info (RFC 3986, section 3.2.1), bounded, as ASCII."""
    user, _, host = authority.rpartition("@")
    name, colon, port = host.rpartition(":")
    if colon and not port.isdigit() and not host.endswith("]"):
        host = f"{name}:{GONE}"
    return _cut(printable(f"{GONE}@{host}" if user else host, ascii_only=True), _HOST_CHARS_MAX)


def check(event: Event, outcome: Outcome, task: str | None, fields: Mapping[str, object]) -> dict[str, Value]:
    """The cleaned fields of one record; ``AuditError`` when they are not exactly those of the event's shape."""
    if not isinstance(event, Event):
        _refuse(f"{type(event).__name__} is not an event of the list")
    if not isinstance(outcome, Outcome):
        _refuse(f"{event}: {type(outcome).__name__} is not an outcome")
    shape = SHAPES[event]
    if isinstance(task, str) != shape.of_task:
        _refuse(f"{event} {'needs a' if shape.of_task else 'has no'} task")
    if fields.keys() != shape.fields.keys():
        wrong = ", ".join(sorted(map(ascii, fields.keys() ^ shape.fields.keys())))
        _refuse(f"{event}: missing or undocumented: {wrong}")
    return {name: _value(event, name, shape.fields[name], given) for name, given in fields.items()}


def _value(event: Event, name: str, kind: Kind, given: object) -> Value:
    """One field, cleaned by its kind. Types are exact: a ``Secret``, or anything else that is no text, is refused."""
    if kind is Kind.TIME and type(given) in (int, float):
        return _time(event, name, given)
    if kind in (Kind.COUNT, Kind.INTEGER) and type(given) is int and abs(given) <= _INT_MAX:
        if kind is Kind.INTEGER or given >= 0:
            return given
    elif kind is Kind.INTEGER and given is None:
        return None
    elif kind is Kind.TEXTS and isinstance(given, (list, tuple)) and all(isinstance(item, str) for item in given):
        kept = [_cut(printable(item), _LIST_CHARS_MAX) for item in given[: LIMITS.audit_list_max]]
        return kept + [f"...[+{len(given) - len(kept)}]"] * (len(given) > len(kept))
    elif isinstance(given, str):
        if kind is Kind.TEXT:
            return _cut(printable(given), LIMITS.audit_text_chars_max)
        if kind is Kind.HOST:
            return redact_host(given)
        if kind is Kind.TARGET:
            return redact_target(given)
    return _refuse(f"{event}: {name} takes a {kind.value}, not {type(given).__name__}")


def _time(event: Event, name: str, given: object) -> str:
    try:
        return rfc3339(given)  # type: ignore[arg-type]  # the caller has looked at its type
    except (ValueError, OverflowError, OSError):
        pass
    return _refuse(f"{event}: {name} is no time")


def _segment(segment: str) -> str:
    """One segment of a path, and its parameters after ``;`` (RFC 3986, section 3.3)."""
    bare, mark, parameters = segment.partition(";")
    if mark:
        return f"{_segment(bare)};" + ";".join(map(_parameter, parameters.split(";")[:_PARAMETERS_MAX]))
    forms = (segment,) if "%" not in segment else (segment, unquote(segment), unquote(unquote(segment)))
    return GONE if any(map(_holds_secret, forms)) else segment


def _holds_secret(text: str) -> bool:
    """A token, ``name=value`` with a telling name, or ``user:password@``."""
    *names, value = text.split("=")
    if value and any(map(_NAME.search, names)):
        return True
    return ":" in text.rpartition("@")[0] or looks_secret(text)


def _parameter(parameter: str) -> str:
    name, mark, value = parameter.partition("=")
    if not mark:
        return GONE if name else ""
    return f"{_segment(name) if len(name) <= _NAME_CHARS_MAX else GONE}={GONE if value else ''}"


def _cut(text: str, chars_max: int) -> str:
    return text if len(text) <= chars_max else f"{text[: chars_max - 12]}...[+{len(text) - chars_max + 12}]"


def _refuse(message: str) -> NoReturn:
    raise AuditError(f"not a record: {message}", hint="this is a defect in Leasehold; please report it")
