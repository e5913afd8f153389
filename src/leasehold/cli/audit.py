"""``leasehold audit``: read, follow and verify the audit log, through the broker that writes it."""

from __future__ import annotations

import datetime
import json
import sys
import time
from typing import TYPE_CHECKING, Any

from leasehold.cli import client, output
from leasehold.core import wire
from leasehold.core.durations import parse_duration
from leasehold.core.errors import AuditError, BrokerGone, UsageError
from leasehold.core.text import printable

if TYPE_CHECKING:
    import argparse
    import socket
    from collections.abc import Iterator, Mapping

_FILTERS = ("task", "event", "credential", "outcome")
_ROW = "{:20} {:8} {:20} {} {}"
_BAD = {"denied": "33", "failed": "31"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """``tail``, ``query`` and ``verify``."""
    commands = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    tail = commands.add_parser("tail", help="show the last records", allow_abbrev=False)
    tail.add_argument("-f", "--follow", action="store_true", help="go on with each new one")
    tail.add_argument("-n", "--lines", type=int, default=20, metavar="N", help="how many (default 20)")
    query = commands.add_parser("query", help="find records", allow_abbrev=False)
    query.add_argument("--task", metavar="ID", help="of this task")
    query.add_argument("--event", metavar="NAME", help="of this kind, like request:denied")
    query.add_argument("--credential", metavar="NAME", help="about this credential")
    query.add_argument("--outcome", metavar="WORD", help="allowed, denied, done or failed")
    query.add_argument(
        "--since", metavar="TIME", help="from then on: 2h for two hours ago, or a time like 2026-01-31T10:00:00Z"
    )
    query.add_argument("--until", metavar="TIME", help="before then")
    query.add_argument("--limit", type=int, default=1000, metavar="N", help="the newest so many (default 1000)")
    verify = commands.add_parser("verify", help="check that the log is what was written", allow_abbrev=False)
    for command in (tail, query, verify):
        command.add_argument("--json", action="store_true", help="for machines: one JSON object a line")


def run(args: argparse.Namespace) -> int:
    """Returns the exit code: 0, or 1 when the log does not verify."""
    actions = {"tail": _tail, "query": _query, "verify": _verify}
    with client.connect() as sock:
        return actions[args.action](sock, args)


def _tail(sock: socket.socket, args: argparse.Namespace) -> int:
    wire.send(sock, {"op": "audit.tail", "follow": args.follow, "count": args.lines})
    show = _Printer(args.json)
    for record in _stream(sock):
        show.record(record)
    if args.follow:
        raise BrokerGone("the broker ended, and with it the log's last record", hint="run the command again")
    return 0


def _stream(sock: socket.socket) -> Iterator[dict[str, Any]]:
    """Records until the broker has no more."""
    while (received := wire.receive(sock)) is not None:
        message, _ = received
        if "error" in message:
            raise client.RemoteError(**message["error"])
        yield message["record"]


def _query(sock: socket.socket, args: argparse.Namespace) -> int:
    message: dict[str, Any] = {"op": "audit.query", **{name: getattr(args, name) for name in _FILTERS}}
    message |= {name: moment(getattr(args, name), time.time()) for name in ("since", "until")}
    records: list[dict[str, Any]] = []
    more = True
    while more and len(records) < args.limit:
        before = records[0]["seq"] if records else None
        page = client.call(sock, {**message, "before": before, "limit": args.limit - len(records)})
        records, more = page["records"] + records, page["more"] and bool(page["records"])
    show = _Printer(args.json)
    for record in records:
        show.record(record)
    if more:
        sys.stderr.write(f"note: there are older records; --limit is {args.limit}\n")
    return 0


def _verify(sock: socket.socket, args: argparse.Namespace) -> int:
    report = client.call(sock, {"op": "audit.verify"})
    if args.json:
        output.dump(report)
        return 0 if report["ok"] else 1
    if not report["ok"]:
        broken = report["problem"]
        raise AuditError(
            f"record {broken['seq']} ({broken['segment'] or 'no segment'}, line {broken['line']}): {broken['what']}",
            hint=f"the {report['records']} records before it are intact; keep the folder as evidence",
        )
    print(f"{report['records']} records in {report['segments']} segments are what was written")
    if report["records"]:
        print(f"from {report['first']} to {report['last']}")
    return 0


def moment(text: str | None, now: float) -> float | None:
    """Unix seconds of a time (RFC 3339; a date alone is its midnight, UTC) or of a duration before ``now``."""
    if text is None:
        return None
    try:
        return now - parse_duration(text)
    except ValueError:
        pass
    try:
        when = datetime.datetime.fromisoformat(text)
    except ValueError:
        pass
    else:
        return (when if when.tzinfo else when.replace(tzinfo=datetime.UTC)).timestamp()
    raise UsageError(f"{text!a} is no time", hint="write a duration like 2h, or a time like 2026-01-31T10:00:00Z")


class _Printer:
    """Writes records as they come: columns on a terminal, tabs in a pipe, JSON lines when asked."""

    def __init__(self, as_json: bool) -> None:
        self._json = as_json
        self._terminal = sys.stdout.isatty()
        self._headed = False

    def record(self, record: Mapping[str, Any]) -> None:
        """Write one; whoever follows sees it at once."""
        if self._json:
            output.dump(record)
        else:
            columns = (record["time"], record["task"] or "-", record["event"], record["outcome"])
            self._columns([printable(text) for text in (*columns, summary(record["fields"]))])
        sys.stdout.flush()

    def _columns(self, columns: list[str]) -> None:
        if not self._terminal:
            print("\t".join(columns))
            return
        if not self._headed:
            print(output.paint(_ROW.format("TIME", "TASK", "EVENT", "OUTCOME ", "WHAT"), "1", sys.stdout))
            self._headed = True
        when, task, event, outcome, what = columns
        word = f"{outcome:8}"
        shown = output.paint(word, _BAD[outcome], sys.stdout) if outcome in _BAD else word
        print(_ROW.format(f"{when[:19]}Z", task, event, shown, what))


def summary(fields: Mapping[str, Any]) -> str:
    """The fields in one line: a use as one reads it, the rest as ``name=value``; what is empty is left out."""
    if "target" not in fields:
        return " ".join(f"{name}={_word(value)}" for name, value in fields.items() if value not in (None, "", []))
    said = [fields.get("credential"), fields["method"], f"{fields['host']}{fields['target']}", fields["status"]]
    said.append(f"\N{MULTIPLICATION SIGN}{fields['count']}" if fields["count"] != 1 else "")
    said.append(f"({fields['reason']})" if fields.get("reason") else "")
    return " ".join(str(word) for word in said if word)


def _word(value: Any) -> str:
    if isinstance(value, list):
        return ",".join(map(_word, value))
    text = str(value)
    return text if text and not set(text) & set(" \t,=\"'") else json.dumps(text, ensure_ascii=False)
