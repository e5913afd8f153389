"""No issuer comes with Leasehold that does not keep the contract."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Iterable
from pathlib import Path

from contract.clauses import IssuerContract
from leasehold.broker.issuers.builtin import BUILTIN

HERE = Path(__file__).parent


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
    assert without_contract(BUILTIN) == []


def test_one_without_contract_is_noticed() -> None:
    assert without_contract(["no-such", "every-issuer", "postgres"]) == ["no-such", "every-issuer"]


def test_no_issuer_leaves_a_clause_out() -> None:
    """A class of its own may add tests; one that replaced a clause would hide it."""
    clauses = {name for name in vars(IssuerContract) if name.startswith("test_")}
    for kind in BUILTIN:
        module = importlib.import_module(f"contract.test_{kind.replace('-', '_')}")
        for name, found in inspect.getmembers(module, inspect.isclass):
            if issubclass(found, IssuerContract) and found is not IssuerContract:
                assert not clauses & {*vars(found)}, f"{kind}: {name}"
