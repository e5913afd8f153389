"""`make run`: the main job on real servers, told so that a newcomer can follow. Exits 1 when anything leaked.

As root it plays twice: as root, and as an ordinary user who is made for it and removed again.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import textwrap
import time
from contextlib import ExitStack
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from servers.encodings import find  # noqa: E402  # the path above comes first
from servers.harness import Leasehold  # noqa: E402
from servers.people import Person, ordinary_user  # noqa: E402
from servers.upstreams import Upstreams  # noqa: E402

SERVERS = ("git", "pypi", "npm", "api")
GRANTS = ("forge", "pypi", "npm", "api")
_WIDTH = 116
_MARKS = {
    "· clone": "33",
    "· install": "33",
    "· call": "33",
    "· try": "33",
    "· now": "33",
    " \N{MULTIPLICATION SIGN} ": "31",
    "secrets that": "32",
}
"""What a line of the agent's or the launcher's has in it, to its style."""
_COLOUR = sys.stdout.isatty() and "NO_COLOR" not in os.environ


def main() -> int:
    began = time.monotonic()
    told("Leasehold: an agent uses credentials that it cannot have", style="1")
    para(
        """Four real servers start on loopback: a git forge behind nginx, a Python index, an npm registry and an HTTP
        API. Each wants a password or token that was made up a moment ago. Leasehold gets them; the agent does not."""
    )
    with Upstreams() as up, ExitStack() as stack:
        secrets = {name: up.server(name).credential for name in SERVERS}
        for name, value in secrets.items():
            print(f"    {up.place(name).host:18} wants {value[:4]}…{'•' * 12}")
        people: list[Person | None] = [None]
        if os.geteuid() == 0:
            people.append(stack.enter_context(ordinary_user()))
        leaks = sum(play(up, person, secrets) for person in people)
    verdict = "CREDENTIALS" if leaks else "No credential byte"
    told(
        f"{verdict} in what the agent found; {time.monotonic() - began:.0f} s.",
        style="1;32" if not leaks else "1;31",
    )
    para("Next: `leasehold init`, then `leasehold run -- claude` in a project of yours. README.md says the rest.")
    return 1 if leaks else 0


def play(up: Upstreams, person: Person | None, secrets: dict[str, str]) -> int:
    """One run of the agent; the number of credentials that it got away with."""
    who = f"an ordinary user (uid {person.uid})" if person else f"uid {os.geteuid()}"
    told(f"As {who}:  leasehold run -- sh agent.sh")
    for name in SERVERS:
        up.server(name).clear()
    with Leasehold(up, *SERVERS, person=person) as lh:
        workspace = lh.workspace("project")
        script = workspace / "agent.sh"
        shutil.copy(ROOT / "examples" / "agent.sh", script)
        script.chmod(0o755)
        command = ["env", f"PYTHON={sys.executable}", "sh", "agent.sh"]
        done = lh.run(*command, workspace=workspace, grants=GRANTS, timeout=300, mixed=True)
        for line in done.stdout.rstrip().splitlines():
            style = next((style for mark, style in _MARKS.items() if mark in line), "0")
            print(painted(textwrap.fill(line, _WIDTH, initial_indent="    ", subsequent_indent=" " * 8), style))
        if done.returncode != 0:
            raise SystemExit(f"error: the agent's work failed with exit code {done.returncode}")
        return judged(up, workspace, done, secrets)


def judged(up: Upstreams, workspace: Path, done: subprocess.CompletedProcess[str], secrets: dict[str, str]) -> int:
    """Search everything that the agent got or left; and see that the servers did get the credentials."""
    files = [path for path in workspace.rglob("*") if path.is_file() and not path.is_symlink()]
    haul = [(str(path.relative_to(workspace)), path.read_bytes()) for path in files]
    haul.append(("its output", done.stdout.encode("utf-8", "surrogateescape")))
    leaks = 0
    for name, value in secrets.items():
        arrived = any(find(value, data) for data in up.server(name).recorded())
        found = [(where, forms) for where, data in haul if (forms := find(value, data))]
        leaks += bool(found) or not arrived
        verdict = "arrived at its server" if arrived else "NEVER ARRIVED"
        where = f"FOUND in {found}" if found else "in nothing that the agent has"
        style = "32" if arrived and not found else "1;31"
        print(painted(f"    {name:5} credential: {verdict}; {where}", style))
    print(f"    searched {sum(len(data) for _, data in haul):,} bytes: raw, base64, hex, percent-encoded, reversed")
    return leaks


def told(text: str, style: str = "1;36") -> None:
    print("\n" + painted(text, style), flush=True)


def painted(text: str, style: str) -> str:
    return f"\033[{style}m{text}\033[0m" if _COLOUR else text


def para(text: str) -> None:
    print(textwrap.fill(" ".join(text.split()), _WIDTH), flush=True)


if __name__ == "__main__":
    sys.exit(main())
