"""How names are compared."""

from __future__ import annotations

import pytest

from leasehold.node.sandbox import runnable


@pytest.mark.parametrize(
    ("name", "same"),
    [
        (".envrc", ".envrc"),
        (".EnvRC", ".envrc"),
        (".git ", ".git"),
        (".git. .", ".git"),
        (".g\u200cit", ".git"),
        ("\uff0egit", ".git"),
        (".vscode\ufeff", ".vscode"),
        ("...", "..."),
    ],
)
def test_names_that_a_file_system_takes_for_the_same(name: str, same: str) -> None:
    assert runnable.folded(name) == same


def test_a_name_that_is_only_alike_is_another() -> None:
    assert runnable.folded(".envrc2") != ".envrc" and runnable.folded("envrc") != ".envrc"


def test_what_must_not_come_into_being_is_also_known_when_it_is_there() -> None:
    assert {*runnable.ABSENT} <= runnable.FOLDERS | runnable.FILES
