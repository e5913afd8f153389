"""``leasehold daemon``: what the broker of this user is doing, and how to end it."""

from __future__ import annotations

import select

from leasehold.cli import client, output
from leasehold.core.errors import BrokerError

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse

_STOP_TIMEOUT_MS = 15_000


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """``status`` and ``stop``."""
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    for name, text in (("status", "show its process and the open tasks"), ("stop", "end it, and all access with it")):
        action = actions.add_parser(name, help=text)
        action.add_argument("--json", action="store_true", help="for machines")


def run(args: argparse.Namespace) -> int:
    """0, also for ``stop`` when there is none; 1 for ``status`` then."""
    try:
        sock = client.connect(start=False)
    except BrokerError:
        if args.action == "status":
            raise
        _say(args.json, {"pid": None}, "no broker is running")
        return 0
    with sock:
        answer = client.call(sock, {"op": f"daemon.{args.action}"})
        if args.action == "stop":
            # It closes the connection when everything has ended.
            poll = select.poll()
            poll.register(sock, select.POLLIN)
            if not poll.poll(_STOP_TIMEOUT_MS):
                raise BrokerError("the broker has not ended yet", hint=f"look at process {answer['pid']}")
            _say(args.json, {"pid": answer["pid"]}, f"broker {answer['pid']} ended")
            return 0
    _say(args.json, _without_ok(answer), f"broker {answer['pid']}, Envoy {answer['envoy_pid']}")
    if not args.json:
        rows = [(t["task"], t["expires_in_s"], t["workspace"]) for t in answer["tasks"]]
        output.table(("TASK", "ENDS IN (S)", "WORKSPACE"), rows)
    return 0


def _say(as_json: bool, value: dict[str, object], text: str) -> None:
    if as_json:
        output.dump(value)
    else:
        print(text)


def _without_ok(answer: dict[str, object]) -> dict[str, object]:
    return {name: value for name, value in answer.items() if name != "ok"}
