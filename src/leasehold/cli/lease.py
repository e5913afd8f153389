"""``leasehold lease``: the leases of every task, and the kill switch."""

from __future__ import annotations

import datetime
import sys
from typing import TYPE_CHECKING, Any

from leasehold.cli import client, output
from leasehold.core import wire
from leasehold.core.errors import BrokerGone, UsageError
from leasehold.core.locations import operator_config_path

if TYPE_CHECKING:
    import argparse
    import socket
    from collections.abc import Iterator, Mapping, Sequence

STATES = ("intended", "active", "revoking", "quarantined", "revoked", "expired", "ended")
OPEN_STATES = STATES[:4]
_HEADINGS = ("ID", "TASK", "CREDENTIAL", "ISSUER", "STATE", "REVOCABLE", "EXPIRES")
_TIMES = ("created", "expires", "due", "closed")
_WORDS = {
    "revoked": "revoked: its provider has it no more",
    "expired": "expired",
    "ended": "ended: it is injected no more; the secret itself is as good as before at its provider",
    "withheld": "ended: none had been issued, and none will be",
    "trying": "still trying: its routes are closed, but its provider may have it",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """``list``, ``show``, ``revoke`` and ``audit``."""
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    every = actions.add_parser("list", help="list leases that are open", allow_abbrev=False)
    every.add_argument("--task", metavar="ID", help="of this task")
    every.add_argument("--state", metavar="STATE", choices=STATES, help=f"in this state: {', '.join(STATES)}")
    every.add_argument("--all-states", action="store_true", help="also those that are over")
    every.add_argument("--watch", action="store_true", help="go on with each change")
    show = actions.add_parser("show", help="show one lease", allow_abbrev=False)
    show.add_argument("id", metavar="ID", help="its id or TASK/CREDENTIAL, or the beginning of one")
    revoke = actions.add_parser("revoke", help="end access at once, and take back what was issued", allow_abbrev=False)
    revoke.add_argument("id", metavar="ID", nargs="?", help="this lease: its id or TASK/CREDENTIAL, or its beginning")
    revoke.add_argument("--task", metavar="ID", help="all leases of this task")
    revoke.add_argument("--credential", metavar="NAME", help="all leases of this credential")
    revoke.add_argument("--all", action="store_true", help="all leases of all tasks")
    revoke.add_argument("--yes", action="store_true", help="do not ask")
    audit = actions.add_parser("audit", help="compare providers with the ledger, both ways", allow_abbrev=False)
    audit.add_argument(
        "--repair", action="store_true", help="take back what the ledger does not know; another broker may know it"
    )
    for action in (every, show, revoke, audit):
        action.add_argument("--json", action="store_true", help="for machines")


def run(args: argparse.Namespace) -> int:
    """0, or 1 when something that was revoked may still be usable at its provider, or an inventory found something."""
    actions = {"list": _list, "show": _show, "revoke": _revoke, "audit": _audit}
    if args.action == "revoke":
        _confirm(args)
    with client.connect() as sock:
        return actions[args.action](sock, args)


def _list(sock: socket.socket, args: argparse.Namespace) -> int:
    if args.watch:
        return _watch(sock, args)
    rows = list(_pages(sock, args))
    if args.json:
        output.dump([_times(row) for row in rows])
    else:
        output.table(_HEADINGS, [_columns(row) for row in rows])
        if not rows:
            output.note("there is no such lease" if _narrowed(args) else "there is no open lease")
    return 0


def _watch(sock: socket.socket, args: argparse.Namespace) -> int:
    """On a terminal a table that is drawn anew, else each change as a line, until the broker ends."""
    wanted = set(_states(args) or OPEN_STATES)
    draws = sys.stdout.isatty() and not args.json
    open_now: dict[str, dict[str, Any]] = {}
    wire.send(sock, {"op": "lease.watch", "task": args.task})
    while (received := wire.receive(sock)) is not None:
        message, _ = received
        if "error" in message:
            raise client.RemoteError(**message["error"])
        if draws:
            open_now |= {row["id"]: row for row in message["leases"]}
            open_now = {name: row for name, row in open_now.items() if row["state"] in wanted}
            sys.stdout.write("\033[H\033[2J")
            output.table(_HEADINGS, [_columns(row) for row in open_now.values()])
        for row in () if draws else message["leases"]:
            # Without a state asked for, how a lease ends is a change too.
            if not args.state or row["state"] in wanted:
                _line(row, as_json=args.json)
        sys.stdout.flush()
    raise BrokerGone("the broker ended, and with it what it could say of leases", hint="run the command again")


def _line(row: Mapping[str, Any], *, as_json: bool) -> None:
    if as_json:
        output.dump(_times(row))
    else:
        output.table(_HEADINGS, [_columns(row)])


def _narrowed(args: argparse.Namespace) -> bool:
    return bool(args.task or args.state or args.all_states)


def _pages(sock: socket.socket, args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    message = {"op": "lease.list", "task": args.task, "states": _states(args)}
    after: str | None = ""
    while after is not None:
        page = client.call(sock, {**message, "after": after})
        yield from page["leases"]
        after = page["after"]


def _states(args: argparse.Namespace) -> Sequence[str] | None:
    if args.state and args.all_states:
        raise UsageError("--state and --all-states exclude each other", hint="leave one out")
    return STATES if args.all_states else [args.state] if args.state else None


def _show(sock: socket.socket, args: argparse.Namespace) -> int:
    lease = _times(client.call(sock, {"op": "lease.show", "id": args.id})["lease"])
    if args.json:
        output.dump(lease)
        return 0
    rows = [(name.replace("_", " "), _said(value)) for name, value in lease.items() if value not in ("", None)]
    output.table(("FIELD", "VALUE"), rows)
    return 0


def _revoke(sock: socket.socket, args: argparse.Namespace) -> int:
    wanted = {"id": args.id, "task": args.task, "credential": args.credential, "all": args.all}
    rows = client.call(sock, {"op": "lease.revoke", **wanted})["leases"]
    if args.json:
        output.dump([_times(row) for row in rows])
    else:
        output.table(("ID", "TASK", "CREDENTIAL", "RESULT"), [_result(row) for row in rows])
        if not rows:
            output.note("there was nothing to revoke")
    return 1 if any(row["outcome"] in ("trying", "expires") for row in rows) else 0


def _audit(sock: socket.socket, args: argparse.Namespace) -> int:
    found = client.call(sock, {"op": "lease.audit", "config": operator_config_path(), "repair": args.repair})
    if args.json:
        output.dump({**found, "ghosts": [_times(row) for row in found["ghosts"]]})
    else:
        _tell(found)
    left = [orphan for orphan in found["orphans"] if not orphan["taken_back"]]
    return 1 if left or found["ghosts"] or found["problems"] else 0


def _tell(found: Mapping[str, Any]) -> None:
    rows = [
        ("orphan", o["issuer"], o["name"], "taken back" if o["taken_back"] else "left: the ledger does not know it")
        for o in found["orphans"]
    ]
    rows += [("ghost", g["issuer"], g["name"], f"{g['state']}: its provider did not have it") for g in found["ghosts"]]
    rows += [("problem", p["issuer"], "", p["message"]) for p in found["problems"]]
    output.table(("WHAT", "ISSUER", "NAME", "RESULT"), rows)
    if not rows:
        output.note(f"{found['looked_at']} providers have what the ledger says, and no more")
    if found["unlisted"]:
        output.note(f"cannot be looked at, as they list nothing: {', '.join(found['unlisted'])}")
    if any(not orphan["taken_back"] for orphan in found["orphans"]):
        output.note("an orphan may be another broker's; --repair takes all of them back")


def _confirm(args: argparse.Namespace) -> None:
    """``UsageError`` unless one thing is meant, and what is more than one lease is meant to be."""
    given = [name for name in ("id", "task", "credential", "all") if getattr(args, name)]
    if len(given) != 1:
        raise UsageError("expected one of ID, --task, --credential and --all", hint="leasehold lease revoke --help")
    if args.yes or given == ["id"]:
        return
    what = "every lease of every task" if args.all else f"every lease of {given[0]} {getattr(args, given[0])}"
    if not sys.stdin.isatty():
        raise UsageError(f"this ends {what}, and nobody can be asked", hint="add --yes")
    sys.stderr.write(f"End {what} now? [y/N] ")
    sys.stderr.flush()
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        raise UsageError("nothing was revoked", hint="answer y, or add --yes")


def _result(row: Mapping[str, Any]) -> tuple[str, ...]:
    outcome = row["outcome"]
    words = f"expires at {_time(row['expires'])}: its provider cannot end it" if outcome == "expires" else ""
    words = words or _WORDS[outcome]
    if outcome == "trying" and row.get("error"):
        words = f"{words} ({row['error']})"
    return row["id"], row["task"], row["credential"], words


def _columns(row: Mapping[str, Any]) -> tuple[str, ...]:
    named = ("id", "task", "credential", "issuer", "state", "revocability")
    return (*(row[name] for name in named), _time(row["expires"]))


def _times(row: Mapping[str, Any]) -> dict[str, Any]:
    """Times as people and machines read them: RFC 3339, UTC."""
    return {name: _time(value) if name in _TIMES and value is not None else value for name, value in row.items()}


def _time(at: float) -> str:
    return datetime.datetime.fromtimestamp(int(at), datetime.UTC).isoformat().replace("+00:00", "Z")


def _said(value: object) -> str:
    return {True: "yes", False: "no"}[value] if isinstance(value, bool) else str(value)
