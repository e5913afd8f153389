"""The rules of the house that no linter knows. A rule that hurts is changed here, in the open."""

from __future__ import annotations

import ast
import re
from pathlib import Path

from tidy.sources import ROOT, assert_none, files, lines, name, python, text, tree

HERE = Path(__file__).parent
MODULE_LINES_MAX = 600  # about 500, says the house; a test module may end where its subject ends
FUNCTION_LINES_MAX = 70

REVEALS = {
    "src/leasehold/broker/audit/chain.py": "the key of the log's seals",
    "src/leasehold/broker/issuers/github_app.py": "the App's key, to sign with; a token, to end itself",
    "src/leasehold/broker/issuers/mysql.py": "a user's password, into its digest; the issuer's own, to the driver",
    "src/leasehold/broker/issuers/kubernetes.py": "the issuer's own token, to show",
    "src/leasehold/broker/issuers/oauth2.py": "the client's secret, to show; a token, to have it revoked",
    "src/leasehold/broker/issuers/oidc.py": "the provider's keys, to sign and to publish their public halves",
    "src/leasehold/broker/issuers/postgres.py": "a role's password, into its verifier; the issuer's own, to libpq",
    "src/leasehold/broker/issuers/rabbitmq.py": "a user's password, into its digest; the issuer's own, to show",
    "src/leasehold/broker/issuers/redis.py": "a user's password, into its digest; the issuer's own, to the driver",
    "src/leasehold/broker/issuers/vault.py": "the issuer's token and a lease's, to show; what ends them",
    "src/leasehold/broker/issuers/ssh_ca.py": "the authority's key, to sign with it",
    "src/leasehold/broker/lease/issuing.py": "the issuer's own secret, into the recipe for revoking and out of it",
    "src/leasehold/broker/lease/sealing.py": "the key of the recipes, and a recipe to be sealed",
    "src/leasehold/broker/lease/service.py": "the name of an account at a provider, which is no secret",
    "src/leasehold/broker/lease/store.py": "the address of the ledger's database, with its password",
    "src/leasehold/broker/vault/keys.py": "the master key, to derive the others",
    "src/leasehold/broker/vault/store.py": "the key of the values, and a value to be sealed",
    "src/leasehold/node/guard/redaction.py": "what to search a workspace for",
    "src/leasehold/node/egress/clusters.py": "what is injected, into Envoy's secrets",
    "src/leasehold/node/egress/scrub.py": "what is injected, into the form of the header",
    "src/leasehold/node/egress/ssh_agent.py": "a task's key, to sign a login with it",
    "src/leasehold/wiring/tasks.py": "what a task was started to have in its environment, and its certificate",
    "src/leasehold/broker/issuers/aws_sts.py": "the issuer's own key, to sign what asks for a session",
    "src/leasehold/node/egress/signing.py": "a task's session, into Envoy's filter",
    "src/leasehold/node/egress/behind.py": "a task's password, into its relay's memory",
    "src/leasehold/node/egress/pooler.py": "a task's password, into its pooler's memory",
    "src/leasehold/node/egress/relaying.py": "a leaf's key, into its relay's memory",
    "src/leasehold/node/egress/shared.py": "a leaf's key, into Envoy's secrets",
}
"""Where a secret's value leaves its carrier, and for what. A new place is a decision."""

WALL_CLOCKS = ("src/leasehold/wiring", "src/leasehold/cli", "src/leasehold/inside/agent.py")
HOMES = "ann|me|user"  # of nobody
NOT_IN_RULES = {"os", "socket", "asyncio", "time", "random", "secrets", "subprocess", "pathlib"}
_EXEMPTION = re.compile(
    r"#\s*(?P<what>(?:noqa|type: ignore|pragma: no (?:cover|branch))\b(?:: ?[A-Z]+\d+(?:, ?[A-Z]+\d+)*|\[[\w, -]+\])?)"
    r"(?P<why>.*)"
)


def test_modules_are_short_enough_to_hold_in_mind() -> None:
    counts = {name(path): len(text(path).splitlines()) for path in python()}
    assert_none(f"{path}: {count} lines" for path, count in counts.items() if count > MODULE_LINES_MAX)


def test_functions_are_short_enough_to_hold_in_mind() -> None:
    assert_none(
        f"{name(path)}:{node.lineno} {node.name}: {length} lines"
        for path in python()
        for node in ast.walk(tree(path))
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
        and (length := (node.end_lineno or node.lineno) - node.lineno + 1) > FUNCTION_LINES_MAX
    )


def test_every_module_says_what_it_is_for() -> None:
    there = [path for path in python() if text(path).strip() and path.name != "__main__.py"]
    assert_none(name(path) for path in there if not ast.get_docstring(tree(path)))


def test_no_line_names_a_place_of_one_machine() -> None:
    """The checkout's own place, and homes of people: what works only there is a defect."""
    place = re.compile(rf"{re.escape(str(ROOT))}(?![\w-])|/home/(?!(?:{HOMES})\b)\w+|/Users/\w+")
    assert_none(at for path in files() for at, line in lines(path) if place.search(line))


def test_no_test_is_skipped() -> None:
    marker = re.compile(r"\b(?:pytest\.(?:mark\.)?(?:skip|skipif|xfail|importorskip)|unittest\.skip\w*|SkipTest)\b")
    assert_none(at for path in _but_these() for at, line in lines(path) if marker.search(line))


def test_every_exemption_has_its_reason() -> None:
    """``noqa: S105  why``; one reason serves the lines that follow with the same exemption."""
    assert_none(at for path in _but_these() for at in unexplained(list(lines(path))))


def unexplained(numbered: list[tuple[str, str]]) -> list[str]:
    """Places of exemptions without a reason. Types are only checked outside of tests."""
    found, before = [], ""
    for at, line in numbered:
        match = _EXEMPTION.search(line)
        if match and match["what"].startswith("type") and at.startswith("tests/"):
            continue
        if match and len(match["why"].strip(" #:-").split()) < 2 and match["what"] != before:
            found.append(at)
        before = match["what"] if match else ""
    return found


def test_an_exemption_without_a_reason_is_noticed() -> None:
    samples = {
        "x  # noqa: S105  a name, no password": True,
        "x  # noqa: E402  # the path above comes first": True,
        "x  # type: ignore[misc]  # the one that comes over the wire": True,
        "x  # pragma: no cover - only on other kernels": True,
        "x  # noqa": False,
        "x  # noqa: S105, S106": False,
        "x  # type: ignore": False,
        "x  # type: ignore[misc]": False,
        "x  # pragma: no branch": False,
        "x": True,
    }
    assert {line: not unexplained([("here", line)]) for line in samples} == samples
    pair = [("1", "x  # noqa: E402  # the path above comes first"), ("2", "y  # noqa: E402"), ("3", "z  # noqa: S105")]
    assert unexplained(pair) == ["3"]


def test_nothing_is_left_to_do() -> None:
    mark = re.compile(r"\b(?:TODO|FIXME|XXX|HACK)\b")
    assert_none(at for path in files() if path.parent != HERE for at, line in lines(path) if mark.search(line))


def test_a_secret_leaves_its_carrier_only_where_the_list_says() -> None:
    places = {name(path) for path in python("src") if ".reveal(" in text(path)}
    assert_none(f"{place}: not in the list" for place in places - REVEALS.keys())
    assert_none(f"{place}: in the list, and reveals nothing" for place in REVEALS.keys() - places)


def test_only_wiring_and_cli_read_the_wall_clock() -> None:
    clock = re.compile(r"\b(?:time\.time(?:_ns)?|datetime\.now|datetime\.utcnow|date\.today)\b")
    for_all = [path for path in python("src") if not name(path).startswith(WALL_CLOCKS)]
    assert_none(at for path in for_all for at, line in lines(path) if clock.search(line))


def test_rules_are_pure() -> None:
    assert_none(
        f"{name(path)} imports {imported}"
        for path in python("src")
        if path.name == "rules.py"
        for imported in _imports(tree(path)) & NOT_IN_RULES
    )


def _imports(module: ast.Module) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(module):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add((node.module or "").partition(".")[0])
    return found


def test_what_is_dangerous_stays_with_the_tests() -> None:
    named = re.compile(r"\b(?:class|def) _?[Uu]nsafe")
    assert_none(at for path in python("src") for at, line in lines(path) if named.search(line))


def test_no_shell_and_nothing_swallowed() -> None:
    careless = re.compile(r"shell=True|except:|except BaseException: *pass|suppress\((?:Base)?Exception\)")
    assert_none(at for path in python("src", "tools") for at, line in lines(path) if careless.search(line))


def _but_these() -> list[Path]:
    """Python files but those of this folder, which speak of what they look for."""
    return [path for path in python() if path.parent != HERE]
