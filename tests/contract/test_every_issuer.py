"""No issuer comes with Leasehold, or is installed here by a package, that does not keep the contract."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Iterable
from importlib.metadata import entry_points
from pathlib import Path

import pytest

from contract.clauses import IssuerContract
from fakes.packages import installed
from leasehold.broker.issuers.builtin import BUILTIN
from leasehold.broker.issuers.plugins import GROUP

HERE = Path(__file__).parent

pytestmark = pytest.mark.usefixtures("example_issuer")


def kinds() -> list[str]:
    """What comes with Leasehold, and what packages bring."""
    return [*BUILTIN, *sorted(entry_points(group=GROUP).names)]


def without_contract(kinds: Iterable[str]) -> list[str]:
    """The issuers for which no module of this folder runs the clauses."""
    return [kind for kind in kinds if not _keeps_contract(kind.replace("-", "_"))]


def _keeps_contract(stem: str) -> bool:
    if not (HERE / f"test_{stem}.py").is_file():
        return False
    module = importlib.import_module(f"contract.test_{stem}")
    classes = [found for _, found in inspect.getmembers(module, inspect.isclass)]
    return any(issubclass(found, IssuerContract) and found.__name__.startswith("Test") for found in classes)


def test_every_issuer_keeps_the_contract() -> None:
    assert "htpasswd" in kinds()
    assert without_contract(kinds()) == []


def test_what_a_package_brings_without_contract_is_noticed(tmp_path: Path) -> None:
    with installed(tmp_path, "careless", "1.0", {GROUP: {"no-such": "careless:make"}}):
        assert without_contract(kinds()) == ["no-such"]


def test_one_without_contract_is_noticed() -> None:
    assert without_contract(["no-such", "every-issuer", "postgres"]) == ["no-such", "every-issuer"]


def test_no_issuer_leaves_a_clause_out() -> None:
    """A class of its own may add tests; one that replaced a clause would hide it."""
    clauses = {name for name in vars(IssuerContract) if name.startswith("test_")}
    for kind in kinds():
        module = importlib.import_module(f"contract.test_{kind.replace('-', '_')}")
        for name, found in inspect.getmembers(module, inspect.isclass):
            if issubclass(found, IssuerContract) and found is not IssuerContract:
                assert not clauses & {*vars(found)}, f"{kind}: {name}"
