"""`make coverage`: each security package is covered, every branch, by its own tests; exits 1 where it is not.

Own tests are those in the same place below ``tests/unit``, and those of ``ALSO``. What is covered by accident, by the
tests of others, does not count.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ROOT / "src" / "leasehold"
PACKAGES = ("core", "inside", "node/egress", "node/guard", "node/sandbox", *(f"broker/{name}" for name in (
    "audit", "identity", "issuers", "lease", "policy", "vault",
)))  # fmt: skip
ALSO: dict[str, tuple[str, ...]] = {
    "broker/issuers": ("tests/contract",),
    "inside": ("tests/integration/test_network.py",),
    "node/egress": ("tests/unit/wiring/test_ending.py",),
    "node/sandbox": (
        "tests/integration/test_jail_launch.py",
        "tests/integration/test_launch.py",
        "tests/integration/test_network.py",
        "tests/integration/test_workspace_parts.py",
    ),
}
"""Package to further tests that are its own: what can only be tried with real namespaces and processes."""
EXEMPT: dict[str, str] = {}
"""Module to the reason why something in it is not reached; a new entry is a decision."""
_SETTINGS = """[run]
branch = true
source = {source}
data_file = {data}
parallel = true
patch = _exit, execv, fork, subprocess
"""
"""Processes that a test forks or starts count as well."""
_AT_ONCE = 2
_SHOWN = 12


def main() -> int:
    chosen = sys.argv[1:] or PACKAGES
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        found = list(pool.map(_measure, chosen))
    wrong = 0
    for package, files, failure in found:
        if failure:
            print(f"coverage: {package}: its tests fail: {failure}")
            wrong += 1
        for name, file in sorted(files.items()):
            gaps = _gaps(file)
            short = name.removeprefix("src/leasehold/")
            if gaps and short not in EXEMPT:
                print(f"coverage: {short}: {file['summary']['percent_covered']:.0f} %, not reached: {gaps}")
                wrong += 1
            elif short in EXEMPT and not gaps:
                print(f"coverage: {short}: covered in full now; take it off the list")
                wrong += 1
    print(f"coverage: {len(found)} packages, {sum(len(files) for _, files, _ in found)} modules, {wrong} to look at")
    return 1 if wrong else 0


def _measure(package: str) -> tuple[str, dict[str, Any], str]:
    """The package's modules as coverage.py reports them, and pytest's last line when its tests fail."""
    tests = [test for test in (f"tests/unit/{package}", *ALSO.get(package, ())) if (ROOT / test).exists()]
    with tempfile.TemporaryDirectory() as folder:
        settings, report = Path(folder) / "settings", Path(folder) / "report.json"
        settings.write_text(_SETTINGS.format(source=SOURCE / package, data=f"{folder}/data"))
        Path(folder).chmod(0o777)  # a child that has become somebody else writes here too
        coverage = [sys.executable, "-m", "coverage"]
        run = [*coverage, "run", f"--rcfile={settings}", "-m", "pytest", "-p", "no:cacheprovider", *tests]
        done = subprocess.run(run, cwd=ROOT, capture_output=True, text=True, check=False)
        for step in (["combine"], ["json", "-o", str(report)]):
            subprocess.run([*coverage, *step, "-q", f"--rcfile={settings}"], cwd=ROOT, capture_output=True, check=False)
        files = json.loads(report.read_text())["files"] if tests and report.exists() else {}
    failure = "" if done.returncode == 0 else (done.stdout.strip().splitlines() or ["no tests"])[-1]
    return package, files, failure if tests else "there are none"


def _gaps(file: dict[str, Any]) -> str:
    lines = [str(line) for line in file["missing_lines"]]
    branches = [f"{start}->{end}" for start, end in file["missing_branches"]]
    gaps = [*lines, *branches]
    return ", ".join([*gaps[:_SHOWN], *([f"and {len(gaps) - _SHOWN} more"] if len(gaps) > _SHOWN else [])])


if __name__ == "__main__":
    sys.exit(main())
