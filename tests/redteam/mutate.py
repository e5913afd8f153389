"""`make mutate`: weakens the boundary on purpose, one way at a time, and sees whether the tests notice.

Works on a copy of the tree under build/, with an environment of its own, so that the checkout is never weak.
Writes build/mutate.json: ``planted`` and ``caught``.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import time
import venv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
COPY = ROOT / "build" / "mutant"
_TAIL_LINES = 40
sys.path.insert(0, str(ROOT / "tests"))

from redteam.mutations import MUTATIONS, Mutation  # noqa: E402  # the path above comes first


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """``caught`` by tests that failed; ``tail`` is the end of what pytest said."""

    mutation: Mutation
    caught: bool
    tail: str
    seconds: float


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("only", nargs="*", help="names of mutations; all when none is given")
    only = set(parser.parse_args().only)
    chosen = [m for m in MUTATIONS if not only or m.name in only]
    _copy()
    tests = sorted({test for mutation in chosen for test in mutation.tests})
    print(f"mutate: the {len(tests)} tests on the unweakened copy", flush=True)
    status, tail = _pytest(tests)
    if status != 0:
        print(f"{tail}\nerror: the tests fail without any mutation\nhint: run `make test` first")
        return 2
    verdicts = []
    for number, mutation in enumerate(chosen, 1):
        verdict = _try(mutation)
        verdicts.append(verdict)
        word = "caught" if verdict.caught else "SURVIVED"
        last = verdict.tail.splitlines()[-1]
        print(f"mutate: {number:2}/{len(chosen)} {word:8} {mutation.name:34} {last}", flush=True)
    caught = sum(v.caught for v in verdicts)
    result = {
        "planted": len(verdicts),
        "caught": caught,
        "survived": [v.mutation.name for v in verdicts if not v.caught],
    }
    (ROOT / "build" / "mutate.json").write_text(json.dumps(result, indent=2) + "\n")
    print(f"\n{caught} of {len(verdicts)} weakenings were caught; written to build/mutate.json")
    return 0 if caught == len(verdicts) else 1


def _copy() -> None:
    """A tree of its own: our sources, and everybody else's packages from the real environment."""
    shutil.rmtree(COPY, ignore_errors=True)
    COPY.mkdir(parents=True)
    for name in ("src", "tests", "docs", "examples", "pyproject.toml", "README.md", "Makefile"):
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, COPY / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
        elif source.exists():
            shutil.copy(source, COPY / name)
    venv.create(COPY / ".venv", symlinks=True, with_pip=False)
    theirs = next((ROOT / ".venv" / "lib").glob("python3*")) / "site-packages"
    ours = next((COPY / ".venv" / "lib").glob("python3*")) / "site-packages"
    # Our weakened sources stand first on the path; the editable install of the checkout comes after them.
    (ours / "0.pth").write_text(f"{COPY / 'src'}\nimport site; site.addsitedir({str(theirs)!r})\n")
    found = subprocess.run(
        [COPY / ".venv" / "bin" / "python", "-I", "-c", "import leasehold; print(leasehold.__file__)"],
        capture_output=True,
        text=True,
        check=True,
    )
    if not found.stdout.startswith(str(COPY)):
        raise RuntimeError(f"the copy would test the checkout: {found.stdout}")


def _try(mutation: Mutation) -> Verdict:
    path = COPY / "src" / "leasehold" / mutation.file
    before = path.read_text()
    if before.count(mutation.old) != 1:
        raise RuntimeError(f"{mutation.name}: its text stands {before.count(mutation.old)} times in {mutation.file}")
    began = time.monotonic()
    path.write_text(before.replace(mutation.old, mutation.new))
    try:
        status, tail = _pytest(mutation.tests)
    finally:
        path.write_text(before)
    # 1 means that tests ran and some failed; anything else would be a mutant that never ran.
    return Verdict(mutation=mutation, caught=status == 1, tail=tail, seconds=time.monotonic() - began)


def _pytest(tests: Sequence[str]) -> tuple[int, str]:
    command = [str(COPY / ".venv" / "bin" / "python"), "-m", "pytest", "-x", "-q", "--no-header", *tests]
    done = subprocess.run(command, cwd=COPY, capture_output=True, text=True, check=False)
    lines = [line for line in (done.stdout + done.stderr).splitlines() if line.strip()]
    return done.returncode, "\n".join(lines[-_TAIL_LINES:]) or "no output"


if __name__ == "__main__":
    sys.exit(main())
