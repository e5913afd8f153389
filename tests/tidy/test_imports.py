"""Imports go one way: the folders are the trust boundaries."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tidy.sources import ROOT, text


def test_the_contracts_of_import_linter_hold() -> None:
    program = Path(sys.executable).with_name("lint-imports")
    done = subprocess.run([program, "--no-cache"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_every_folder_has_a_contract() -> None:
    contracts = text(ROOT / ".importlinter")
    folders = [path.name for path in (ROOT / "src" / "leasehold").iterdir() if (path / "__init__.py").exists()]
    for folder in sorted({*folders} - {"wiring"}):
        assert f"source_modules =\n    leasehold.{folder}\n" in contracts, f"{folder} may import anything"
