"""What a person reads before and after a run (DESIGN 8). Pure: records in, lines out."""

from __future__ import annotations

import time

from leasehold.core.text import printable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from typing import Any

_UNKNOWN_MAX = 20
_PATHS_MAX = 3
_ENDS = {
    "": "access ended {ended}",
    "revoked": "access ended {ended}, revoked at the provider",
    "expired": "access ended {ended}, expired at the provider",
}
_ONLY_EXPIRES = ("ttl-only", "role-wide")
_TIMES = "\N{MULTIPLICATION SIGN}"
_NAME_MIN, _NAME_MAX = 8, 24


def header(reply: Mapping[str, Any], workspace: str) -> list[str]:
    """The task, and what it may use."""
    where = "/".join(workspace.rstrip("/").split("/")[-2:])
    lines = [f"leasehold  task {reply['task']} · {reply['class']} · {duration(reply['expires_in_s'])} · {where}"]
    width = _width(grant["name"] for grant in reply["grants"])
    for grant in reply["grants"]:
        role = f" · {grant['role']}" if grant["role"] != "execute" else ""
        allowed = " · ".join(map(_shortened, grant["lines"]))
        lines.append(f"  {grant['name']:{width}} {allowed}   {grant['when']}{role}")
    if reply["hosts"]:
        lines.append(f"  {'hosts':{width}} {' · '.join(reply['hosts'])}   no credential")
    return [printable(line) for line in lines]


def footer(summary: Mapping[str, Any], unknown_names: Mapping[str, int], notes: Iterable[str]) -> list[str]:
    """What was used, denied and taken back. ``notes``: what the hand-back and the broker had to say."""
    lines = [f"leasehold  task {summary['task']} ended after {duration(summary['duration_s'])}"]
    hosts = [host for host in summary["hosts"] if host["requests"]]
    uses = [(credential["name"], _use(credential)) for credential in summary["credentials"]]
    uses += [(host["host"], f"{_count(host['requests'], 'request')} without a credential") for host in hosts]
    width = _width(name for name, _ in uses)
    lines += [f"  {name:{width}} {use}" for name, use in uses]
    denied = [
        (row["count"], f"{row['method']} {row['host']}{row['path']}".strip(), row["reason"])
        for row in summary["denied"]
    ]
    names = sorted(unknown_names.items(), key=lambda item: (-item[1], item[0]))
    denied += [(n, name, "not a known host: allow it under [hosts]") for name, n in names[:_UNKNOWN_MAX]]
    if len(names) > _UNKNOWN_MAX:
        denied.append((len(names) - _UNKNOWN_MAX, "more names", "not known hosts"))
    for at, (count, what, reason) in enumerate(denied):
        lines.append(f"  {'' if at else 'denied':{width}} {count} {_TIMES} {what}   {reason}")
    if summary["alarm"]:
        lines.append(f"  {'alarm':{width}} {summary['alarm']}")
    lines += [f"  {'note':{width}} {note}" for note in notes]
    exposed = f" ({', '.join(summary['exposed'])}, as asked for)" if summary["exposed"] else ""
    lines.append(f"  secrets that entered the compartment: {summary['secrets_exposed']}{exposed}")
    return [printable(line) for line in lines]


def _width(names: Iterable[str]) -> int:
    return max([_NAME_MIN, *(len(name) for name in names if len(name) <= _NAME_MAX)])


def _shortened(line: str) -> str:
    """A line of grants with its first paths only; `leasehold grants` inside has all."""
    words = line.split(" ")
    paths = [word for word in words if word.startswith("/")]
    if len(paths) <= _PATHS_MAX + 1:
        return line
    dropped = set(paths[_PATHS_MAX:])
    kept = [word for word in words if word not in dropped]
    kept.insert(kept.index(paths[_PATHS_MAX - 1]) + 1, f"(and {len(dropped)} more)")
    return " ".join(kept)


def _use(credential: Mapping[str, Any]) -> str:
    if credential["first_use"] is None:
        return "not used"
    issued, ended = (time.strftime("%H:%M:%S", time.localtime(credential[key])) for key in ("first_use", "ended"))
    otherwise = "not yet taken back, tried again until it is"
    if credential["revocability"] in _ONLY_EXPIRES:
        otherwise = "access ended {ended}; at the provider it only expires"
    how = _ENDS.get(credential.get("lease") or "", otherwise).format(ended=ended)
    return f"{_count(credential['requests'], 'request')} · first used {issued} · {how}"


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def duration(seconds: float) -> str:
    """As people say it: ``1 h``, ``12 min 40 s``, ``0.3 s``."""
    if seconds < 10:
        return f"{round(seconds, 1):g} s"
    rest = round(seconds)
    parts = []
    for unit, size in (("h", 3600), ("min", 60), ("s", 1)):
        number, rest = divmod(rest, size)
        if number:
            parts.append(f"{number} {unit}")
    return " ".join(parts)
