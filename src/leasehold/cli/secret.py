"""``leasehold secret``: values go in by standard input or a prompt, and never come out."""

from __future__ import annotations

import base64
import sys
import time

from leasehold.cli import client, output
from leasehold.core.errors import UsageError
from leasehold.core.limits import LIMITS
from leasehold.core.references import check_secret_name

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """``set``, ``list`` and ``rm``."""
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    text = "store a value: from standard input, or asked for without echo"
    put = actions.add_parser("set", help=text, description=f"{text[0].upper()}{text[1:]}. It is never an argument.")
    put.add_argument("name", metavar="NAME", help="what vault:NAME in the configuration refers to")
    listing = actions.add_parser("list", help="list names; values are never shown")
    listing.add_argument("--json", action="store_true", help="for machines")
    remove = actions.add_parser("rm", help="remove a secret")
    remove.add_argument("name", metavar="NAME")


def run(args: argparse.Namespace) -> int:
    """0; what the broker refuses is raised."""
    actions = {"set": _set, "list": _list, "rm": _remove}
    actions[args.action](args)
    return 0


def _set(args: argparse.Namespace) -> None:
    try:
        check_secret_name(args.name)
    except ValueError as e:
        problem = str(e)
    else:
        value = base64.b64encode(_value(args.name)).decode()
        with client.connect() as sock:
            client.call(sock, {"op": "secret.set", "name": args.name, "value_b64": value})
        print(f"stored {args.name}")
        return
    raise UsageError(problem, hint="it has a-z, 0-9, . _ and -; the value comes by standard input or a prompt")


def _list(args: argparse.Namespace) -> None:
    with client.connect() as sock:
        secrets = client.call(sock, {"op": "secret.list"})["secrets"]
    if args.json:
        output.dump(secrets)
        return
    output.table(("NAME", "CHANGED"), [(secret["name"], _when(secret["changed"])) for secret in secrets])
    if not secrets:
        output.note("there are none yet: leasehold secret set NAME")


def _remove(args: argparse.Namespace) -> None:
    with client.connect() as sock:
        client.call(sock, {"op": "secret.rm", "name": args.name})
    print(f"removed {args.name}")


def _when(seconds: int) -> str:
    """RFC 3339, UTC."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))


def _value(name: str) -> bytes:
    """One value without its last line end."""
    value = _asked(name) if sys.stdin.isatty() else sys.stdin.buffer.read(LIMITS.secret_bytes_max + 3)
    value = value.removesuffix(b"\n").removesuffix(b"\r")
    if not value:
        raise UsageError("the value is empty", hint=f"pipe it in: … | leasehold secret set {name}")
    return value


def _asked(name: str) -> bytes:
    import getpass
    import warnings

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", getpass.GetPassWarning)
            return getpass.getpass(f"value of {name} (not shown): ").encode(errors="surrogateescape")
    except EOFError:
        return b""
    except getpass.GetPassWarning:
        problem = "this terminal would show the value"
    raise UsageError(problem, hint=f"pipe it in: … | leasehold secret set {name}")
