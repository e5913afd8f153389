"""The ``leasehold`` command inside a compartment: says what the agent may do and why something was refused.

It reads one file that lies there anyway, talks to nobody and decides nothing.
"""

from __future__ import annotations

import json
import sys
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

GRANTS = "/run/leasehold/grants.json"
_USAGE = """usage: leasehold grants [--json]    what this task may use
       leasehold explain [CODE]     why something was refused, and what helps

This is a compartment of Leasehold. Credentials are added to requests outside of it: send requests as they are, with
the placeholders that the environment holds. More can only be granted from outside, by the operator.
"""

_WHY = {
    "name-not-known": "Only the names that `leasehold grants` lists can be resolved here; no other name exists. "
    "An address instead of a name goes nowhere. The operator allows a name under [hosts] or with a credential.",
    "port-refused": "Only the ports that `leasehold grants` lists are open, at every name of the list.",
    "host-not-allowed": "The host is not on the list, or only with TLS. Use https and the exact name that "
    "`leasehold grants` lists.",
    "rule-not-allowed": "The host is on the list, but not with this method and path. The response's hint says what is.",
    "misdirected-request": "The Host header and the TLS server name have to be the same name.",
    "method-override": "Headers that change the method or path after the check are refused; use the real ones.",
    "request-malformed": "The request is not well-formed HTTP, or ambiguous in a way in which servers differ.",
    "headers-too-large": "The request's headers are too large or too many. Cookies are the usual cause.",
    "credential-missing": "There was no credential to add, and without it nothing goes out. Try again; if it stays, a "
    "new task is needed.",
    "approval-needed": "The operator's policy wants a person's approval for this credential.",
    "policy-denied": "The operator's policy does not allow this credential to this class of agent.",
    "secret-unavailable": "The operator's secret behind this credential could not be read. Ask the operator.",
    "access-ended": "The task's time is over, or the operator has taken the access away. A new task can be started.",
    "upstream-unavailable": "The request was allowed, but the server behind it cannot be reached. Try again later.",
    "upstream-failed": "The request was allowed, but the server behind it broke the exchange off. Try again.",
    "upstream-address-refused": "The name resolves to a private or local address, or to none. The operator can name "
    "the address under [network].",
    "response-encoded": "The server compressed its answer although it was asked not to, so it could not be searched "
    "for the credential. Ask for another form of it.",
    "scrubber-failed": "What keeps the credential out of answers failed. A defect in Leasehold: tell the operator.",
    "read-only": "System folders and some files of the workspace (git hooks, settings that run later outside) are "
    "read-only; secrets in the workspace read as placeholders. That is meant, and nothing is broken.",
}


def main(argv: Sequence[str], grants_file: str = GRANTS) -> int:
    """Returns the exit code: 0, or 2 for a wrong command line."""
    match list(argv):
        case ["grants"]:
            sys.stdout.write(show(_grants(grants_file)))
        case ["grants", "--json"]:
            sys.stdout.write(json.dumps(_grants(grants_file)) + "\n")
        case ["explain"]:
            sys.stdout.write("".join(f"{code}\n  {why}\n" for code, why in _WHY.items()))
        case ["explain", code]:
            sys.stdout.write(_WHY.get(code, "Nothing is known here about this code; the response has a hint.") + "\n")
        case [] | ["-h"] | ["--help"]:
            sys.stdout.write(_USAGE)
        case _:
            sys.stderr.write(f"error: usage: there is no such command inside a compartment\n{_USAGE}")
            return 2
    return 0


def _grants(path: str) -> dict[str, Any]:
    with open(path, encoding="utf-8") as file:
        grants: dict[str, Any] = json.load(file)
    return grants


def show(grants: dict[str, Any]) -> str:
    """``grants.json`` for people: one paragraph per credential, then what needs none."""
    until = time.strftime("%H:%M:%S", time.localtime(grants["expires_at"]))
    lines = [f"task {grants['task']} · {grants['class']} · until {until}"]
    for grant in grants["grants"]:
        lines.append(f"  {grant['name']} · {grant['role']} · {grant['environment']} · {grant['when']}")
        lines += [f"    {line}" for line in grant["lines"]]
    if grants["hosts"]:
        lines += ["  without a credential", *(f"    {line}" for line in grants["hosts"])]
    lines.append(f"  ports {', '.join(str(port) for port in grants['ports'])}; no other name or port can be reached")
    return "\n".join(lines) + "\n"
