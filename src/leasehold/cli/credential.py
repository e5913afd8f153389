"""``leasehold credential``: what the operator's configuration defines, and whether its secrets can be had."""

from __future__ import annotations

from leasehold.cli import client, output
from leasehold.core.locations import operator_config_path

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """``list`` and ``check``."""
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    for name, text in (("list", "list the credentials"), ("check", "see whether each secret can be had now")):
        action = actions.add_parser(name, help=text, allow_abbrev=False)
        action.add_argument("--json", action="store_true", help="for machines")
        if name == "check":
            action.add_argument("name", metavar="NAME", nargs="?", help="only this one")


def run(args: argparse.Namespace) -> int:
    """0, or 1 when a secret cannot be had."""
    if args.action == "list":
        return _list(as_json=args.json)
    message = {"op": "credential.check", "config": str(operator_config_path()), "name": args.name}
    with client.connect() as sock:
        found = client.call(sock, message)["credentials"]
    if args.json:
        output.dump(found)
    else:
        rows = [(c["name"], c["reference"], c["error"]["message"] if c["error"] else "ok") for c in found]
        output.table(("NAME", "SECRET", "STATE"), rows)
        for c in found:
            if c["error"]:
                print(f"hint: {c['name']}: {c['error']['hint']}")
    return 1 if any(c["error"] for c in found) else 0


def _list(*, as_json: bool) -> int:
    from leasehold.core.config import read_operator

    credentials = read_operator(operator_config_path()).credentials
    rows = [
        {
            "name": c.name,
            "issuer": c.issuer,
            "environment": c.environment.value,
            "role": c.role.value,
            "max_ttl_s": c.max_ttl_s,
            "hosts": sorted({f"{rule.host}:{rule.port}" for rule in c.endpoints}),
        }
        for c in credentials
    ]
    if as_json:
        output.dump(rows)
    else:
        names = ("name", "issuer", "environment", "role", "max_ttl_s")
        headings = ("NAME", "ISSUER", "ENVIRONMENT", "ROLE", "MAX TTL (S)", "HOSTS")
        output.table(headings, [(*(row[n] for n in names), " ".join(map(str, row["hosts"]))) for row in rows])  # type: ignore[arg-type]  # hosts is a list
    return 0
