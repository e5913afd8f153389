"""``leasehold secret``: values go in by standard input or a prompt, and never come out."""

from __future__ import annotations

import base64
import sys
import time

from leasehold.cli import client, output
from leasehold.core.errors import UsageError
from leasehold.core.limits import LIMITS

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """``set``, ``list`` and ``rm``."""
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    text = "store a value: from standard input, or asked for without echo"
    put = actions.add_parser("set", help=text, description=text, allow_abbrev=False)
    put.add_argument("name", metavar="NAME")
    listing = actions.add_parser("list", help="list names; values are never shown", allow_abbrev=False)
    listing.add_argument("--json", action="store_true", help="for machines")
    remove = actions.add_parser("rm", help="remove a secret", allow_abbrev=False)
    remove.add_argument("name", metavar="NAME")


def run(args: argparse.Namespace) -> int:
    if args.action == "set":
        value = _value(args.name)
        with client.connect() as sock:
            client.call(sock, {"op": "secret.set", "name": args.name, "value_b64": base64.b64encode(value).decode()})
        print(f"stored {args.name}")
        return 0
    with client.connect() as sock:
        if args.action == "rm":
            client.call(sock, {"op": "secret.rm", "name": args.name})
            print(f"removed {args.name}")
            return 0
        secrets = client.call(sock, {"op": "secret.list"})["secrets"]
    if args.json:
        output.dump(secrets)
    elif secrets:
        when = [time.strftime("%Y-%m-%d %H:%M", time.localtime(s["changed"])) for s in secrets]
        output.table(("NAME", "CHANGED"), [(s["name"], at) for s, at in zip(secrets, when, strict=True)])
    else:
        print("no secrets yet: leasehold secret set NAME")
    return 0


def _value(name: str) -> bytes:
    """One value without its last line end."""
    if sys.stdin.isatty():
        import getpass

        value = getpass.getpass(f"value of {name} (not shown): ").encode()
    else:
        value = sys.stdin.buffer.read(LIMITS.secret_bytes_max + 2)
    value = value.removesuffix(b"\n").removesuffix(b"\r")
    if not value:
        raise UsageError("the value is empty", hint=f"printf %s VALUE | leasehold secret set {name}")
    if any(bytes([byte]) in value for byte in (0, 10, 13)):
        raise UsageError("the value has several lines or a NUL", hint="a credential is one line of text")
    return value
