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
        action = actions.add_parser(name, help=text, allow_abbrev=False)
        action.add_argument("--json", action="store_true", help="for machines")


def run(args: argparse.Namespace) -> int:
    try:
        sock = client.connect(start=False)
    except BrokerError as error:
        if args.action == "stop":
            print("no broker is running")
            return 0
        raise error
    with sock:
        answer = client.call(sock, {"op": f"daemon.{args.action}"})
        if args.action == "stop":
            # It closes the connection when everything has ended.
            poll = select.poll()
            poll.register(sock, select.POLLIN)
            if not poll.poll(_STOP_TIMEOUT_MS):
                raise BrokerError("the broker has not ended yet", hint=f"look at process {answer['pid']}")
    if args.json:
        output.dump({name: value for name, value in answer.items() if name != "ok"})
    elif args.action == "stop":
        print(f"broker {answer['pid']} ended")
    else:
        print(f"broker {answer['pid']}, Envoy {answer['envoy_pid']}")
        rows = [(t["task"], t["expires_in_s"], t["workspace"]) for t in answer["tasks"]]
        output.table(("TASK", "ENDS IN (S)", "WORKSPACE"), rows)
    return 0
