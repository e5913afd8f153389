"""What ``make mutate`` plants can still be planted, and its tests still exist."""

from __future__ import annotations

from collections import Counter

from redteam.mutations import MUTATIONS
from tidy.sources import ROOT, assert_none, text

_SOURCE = ROOT / "src" / "leasehold"


def test_each_weakening_has_its_place() -> None:
    counts = [(m.name, text(_SOURCE / m.file).count(m.old)) for m in MUTATIONS]
    assert_none(f"{name}: its text stands {count} times" for name, count in counts if count != 1)
    assert_none(name for name, count in Counter(m.name for m in MUTATIONS).items() if count > 1)


def test_each_weakening_names_tests_that_exist() -> None:
    for mutation in MUTATIONS:
        for test in mutation.tests:
            path, _, function = test.partition("::")
            assert (ROOT / path).exists(), f"{mutation.name}: {path}"
            assert f"def {function.partition('[')[0]}(" in text(ROOT / path) or not function, f"{mutation.name}: {test}"
