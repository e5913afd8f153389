"""What rules mean together: ambiguous, shadowed or repeated ones are errors, and injection is never guessed. Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence

from leasehold.core.model import DEFAULT_METHODS, Credential, Rule
from leasehold.core.paths import intersection, within
from leasehold.core.record import record
from leasehold.core.toml import Table

_SCHEME_OF_PORT = {443: "https", 80: "http"}
_Shape = tuple[frozenset[str], str | None]


@record
class Placed:
    """A rule and where it stands. ``credential``: its name; ``None`` for a host without one."""

    rule: Rule
    credential: str | None
    table: Table

    def __str__(self) -> str:
        return f"credential {self.credential}" if self.credential else "[hosts] allow"


def check_rules(placed: Sequence[Placed]) -> None:
    """Refuse rules that can never apply beside the others, and two credentials for one request."""
    _check_schemes(placed)
    groups: dict[tuple[str, int], list[Placed]] = defaultdict(list)
    for item in placed:
        groups[(item.rule.host, item.rule.port)].append(item)
    for members in groups.values():
        for at, later in enumerate(members):
            for earlier in members[:at]:
                _check_pair(earlier, later)


def check_roles(credentials: Iterable[tuple[Credential, Table]]) -> None:
    """Refuse one secret for two roles: a role is an identity of its own."""
    seen: dict[str, Credential] = {}
    for credential, table in credentials:
        if credential.issuer != "static":
            continue  # each gets accounts of its own from its provider
        other = seen.setdefault(credential.secret, credential)
        if other.role is not credential.role:
            raise table.error(
                f"its secret is the one of {other.name}, whose role is {other.role} and not {credential.role}",
                "give each role a credential of its own",
                "secret",
            )


def check_paths(paths: Sequence[str], table: Table) -> None:
    """Refuse a path of a list that another one covers."""
    for at, path in enumerate(paths):
        wider = next((other for other in paths if other != path and within(path, other)), None)
        if wider:
            raise table.error(f"{path} adds nothing, {wider} covers it", "leave one of them out", "paths", at)


def meet(a: Rule, b: Rule) -> bool:
    """Whether some request to their common host and port fits both."""
    return any(m & n and _both(p, q) for m, p in _shapes(a) for n, q in _shapes(b))


def covers(wide: Rule, narrow: Rule) -> bool:
    """Whether every request that fits ``narrow`` is seen to fit ``wide``."""
    return all(any(n <= m and _inside(q, p) for m, p in _shapes(wide)) for n, q in _shapes(narrow))


def _check_schemes(placed: Sequence[Placed]) -> None:
    schemes = {port: ("", scheme) for port, scheme in _SCHEME_OF_PORT.items()}
    for item in placed:
        rule = item.rule
        other, scheme = schemes.setdefault(rule.port, (str(item), rule.scheme))
        if scheme != rule.scheme:
            used = f"{other} uses it with {scheme}" if other else f"it is the port of {scheme}"
            raise item.table.error(
                f"port {rule.port} cannot be used with {rule.scheme}: {used}", "a port has one scheme", "port"
            )


def _check_pair(earlier: Placed, later: Placed) -> None:
    a, b = earlier.rule, later.rule
    place = f"line {earlier.table.line()}"
    if earlier.credential and later.credential is None:
        if covers(a, b):
            raise later.table.error(
                f"it is never used: {earlier} at {place} covers it", "leave it out, or narrow the credential's endpoint"
            )
        return
    if earlier.credential != later.credential:
        if meet(a, b):
            raise later.table.error(
                f"{later} and {earlier} at {place} both fit some request to {b.host}:{b.port}",
                "make their methods or paths differ, for which one is injected is never guessed",
            )
        return
    if a.inject != b.inject:
        if meet(a, b):
            raise later.table.error(
                f"the endpoint at {place} delivers {earlier} in another way to some of the same requests",
                "make their methods or paths differ",
            )
        return
    # An earlier rule is looked at first; a WebSocket rule that stands first is for upgrades and what it leaves.
    if covers(a, b) and not a.websocket:
        hint = "put it before that one" if b.websocket else "leave one of them out"
        raise later.table.error(f"it is never used: the rule at {place} covers it", hint)
    if covers(b, a) and a.websocket == b.websocket:
        raise earlier.table.error(
            f"it adds nothing: the rule at line {later.table.line()} covers it", "leave one of them out"
        )


def _shapes(rule: Rule) -> list[_Shape]:
    """Methods and patterns that together are the rule; no pattern stands for every path."""
    if rule.git is None:
        methods = frozenset(("GET",) if rule.websocket else rule.methods or DEFAULT_METHODS)
        return [(methods, path) for path in rule.paths or (None,)]
    services = ["git-upload-pack", *(["git-receive-pack"] if rule.git.access == "write" else [])]
    found: list[_Shape] = []
    for base in (f"/{rule.git.repository}", f"/{rule.git.repository}.git"):
        found.append((frozenset({"GET"}), f"{base}/info/refs"))
        found += [(frozenset({"POST"}), f"{base}/{service}") for service in services]
    return found


def _both(p: str | None, q: str | None) -> bool:
    return p is None or q is None or intersection(p, q) is not None


def _inside(narrow: str | None, wide: str | None) -> bool:
    return wide is None or (narrow is not None and within(narrow, wide))
