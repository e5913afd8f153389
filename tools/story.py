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
        done = lh.run(*command, workspace=workspace, timeout=300)
        print(textwrap.indent(done.stdout.rstrip(), "    "))
        print(textwrap.indent(done.stderr.rstrip(), "    "))
        if done.returncode != 0:
            raise SystemExit(f"error: the agent's work failed with exit code {done.returncode}")
        return judged(up, workspace, done, secrets)


def judged(up: Upstreams, workspace: Path, done: subprocess.CompletedProcess[str], secrets: dict[str, str]) -> int:
    """Search everything that the agent got or left; and see that the servers did get the credentials."""
    files = [path for path in workspace.rglob("*") if path.is_file() and not path.is_symlink()]
    haul = [(str(path.relative_to(workspace)), path.read_bytes()) for path in files]
    haul.append(("its output", (done.stdout + done.stderr).encode("utf-8", "surrogateescape")))
    leaks = 0
    for name, value in secrets.items():
        arrived = any(find(value, data) for data in up.server(name).recorded())
        found = [(where, forms) for where, data in haul if (forms := find(value, data))]
        leaks += bool(found) or not arrived
        verdict = "arrived at its server" if arrived else "NEVER ARRIVED"
        where = f"FOUND in {found}" if found else "in nothing that the agent has"
        print(f"    {name:5} credential: {verdict}; {where}")
    print(f"    searched {sum(len(data) for _, data in haul):,} bytes: raw, base64, hex, percent-encoded, reversed")
    return leaks


def told(text: str, style: str = "1;36") -> None:
    print(f"\n\033[{style}m{text}\033[0m" if _COLOUR else f"\n{text}", flush=True)


def para(text: str) -> None:
    print(textwrap.fill(" ".join(text.split()), 96), flush=True)


if __name__ == "__main__":
    sys.exit(main())
