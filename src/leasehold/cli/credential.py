"""``leasehold credential``: what the operator's configuration defines, and whether its secrets can be had."""

from __future__ import annotations

from pathlib import Path

from leasehold.cli import client, output
from leasehold.core.config import read_operator
from leasehold.core.locations import operator_config_path
from leasehold.core.narrowing import narrow

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse

    from leasehold.core.model import OperatorConfig, Rule


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """``list`` and ``check``."""
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    for name, text in (("list", "list the credentials"), ("check", "see whether each secret can be had now")):
        action = actions.add_parser(name, help=text)
        action.add_argument("--json", action="store_true", help="for machines")
        if name == "check":
            action.add_argument("name", metavar="NAME", nargs="?", help="only this one")


def run(args: argparse.Namespace) -> int:
    """0, or 1 when a secret cannot be had."""
    operator = read_operator(Path(operator_config_path()))
    if args.action == "list":
        return _list(operator, as_json=args.json)
    return _check(operator, args.name, as_json=args.json)


def _list(operator: OperatorConfig, *, as_json: bool) -> int:
    if as_json:
        output.dump(
            [
                {
                    "name": c.name,
                    "issuer": c.issuer,
                    "secret": c.secret,
                    "environment": c.environment.value,
                    "role": c.role.value,
                    "max_ttl_s": c.max_ttl_s,
                    "endpoints": [_where(rule) for rule in c.endpoints],
                }
                for c in operator.credentials
            ]
        )
        return 0
    rows = [
        (c.name, c.role.value, c.environment.value, c.max_ttl_s, c.secret, "; ".join(map(_where, c.endpoints)))
        for c in operator.credentials
    ]
    output.table(("NAME", "ROLE", "ENVIRONMENT", "MAX TTL (S)", "SECRET", "WHERE"), rows)
    _note_none(operator)
    return 0


def _check(operator: OperatorConfig, name: str | None, *, as_json: bool) -> int:
    # A name that there is none of is told before the broker is started.
    narrow(operator, None, None if name is None else (name,))
    with client.connect() as sock:
        reply = client.call(sock, {"op": "credential.check", "config": operator.path, "name": name})
    found = reply["credentials"]
    if as_json:
        output.dump(found)
    else:
        rows = [(c["name"], c["reference"], _state(c["error"])) for c in found]
        output.table(("NAME", "SECRET", "STATE"), rows)
        for c in found:
            if c["error"]:
                output.note(f"{c['name']}: {c['error']['hint']}")
        _note_none(operator)
    return 1 if any(c["error"] for c in found) else 0


def _state(error: dict[str, str] | None) -> str:
    return f"{error['code']}: {error['message']}" if error else "ok"


def _note_none(operator: OperatorConfig) -> None:
    if not operator.credentials:
        output.note(f"{operator.path} defines none; docs/configuration.md has examples")


def _where(rule: Rule) -> str:
    """One endpoint as people read it."""
    host = rule.host if rule.port == 443 else f"{rule.host}:{rule.port}"
    if rule.git is not None:
        return f"{host} {rule.git.repository} (git {rule.git.access})"
    parts = [",".join(rule.methods), host, *rule.paths, "(websocket)" if rule.websocket else ""]
    return " ".join(part for part in parts if part)
