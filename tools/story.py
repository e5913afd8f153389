"""`make run`: the main job on real servers, told so that a newcomer can follow. Exits 1 when anything leaked.

As root it plays twice: as root, and as an ordinary user who is made for it and removed again.
"""

from __future__ import annotations

import json
import os
import pwd
import shutil
import subprocess
import sys
import textwrap
import time
from contextlib import ExitStack
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from providers import Providers  # noqa: E402  # the path above comes first

from servers.encodings import find  # noqa: E402  # and here
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
        """Real servers start on loopback. Four want a password or token that was made up a moment ago: a git forge
        behind nginx, a Python index, an npm registry and an HTTP API. Leasehold gets these; the agent does not. The
        others have nothing for it yet: Leasehold may ask them for a credential for each task, and takes it back."""
    )
    with Upstreams() as up, ExitStack() as stack:
        other = stack.enter_context(ordinary_user()) if os.geteuid() == 0 else None
        account = other.name if other else pwd.getpwuid(os.geteuid()).pw_name
        providers = stack.enter_context(Providers(up, account))
        secrets = {name: up.server(name).credential for name in SERVERS}
        for name, value in secrets.items():
            print(f"    {up.place(name).host:18} wants {value[:4]}…{'•' * 12}")
        for provider in providers.all:
            print(f"    {provider.host:18} will make {provider.what} for each task")
        people: list[Person | None] = [None]
        if other is not None:
            people.append(other)
        leaks = sum(play(up, providers, person, secrets) for person in people)
    verdict = "CREDENTIALS" if leaks else "No credential byte"
    told(
        f"{verdict} in what the agent found; {time.monotonic() - began:.0f} s.",
        style="1;32" if not leaks else "1;31",
    )
    para("Next: `leasehold init`, then `leasehold run -- claude` in a project of yours. README.md says the rest.")
    return 1 if leaks else 0


def play(up: Upstreams, providers: Providers, person: Person | None, secrets: dict[str, str]) -> int:
    """One run of the agent; the number of credentials that it got away with."""
    who = f"an ordinary user (uid {person.uid})" if person else f"uid {os.geteuid()}"
    told(f"As {who}:  leasehold run -- sh agent.sh")
    for name in SERVERS:
        up.server(name).clear()
    with Leasehold(up, *SERVERS, person=person) as lh:
        folder = lh.config.parent
        lh.config.write_text(lh.config.read_text() + providers.configuration(folder))
        lh.own(folder)
        workspace = lh.workspace("project")
        script = workspace / "agent.sh"
        shutil.copy(ROOT / "examples" / "agent.sh", script)
        script.chmod(0o755)
        variables = {"PYTHON": sys.executable, **providers.variables}
        command = ["env", *(f"{name}={value}" for name, value in variables.items()), "sh", "agent.sh"]
        grants = (*GRANTS, *(provider.name for provider in providers.all))
        done = lh.run(*command, workspace=workspace, grants=grants, timeout=300, mixed=True)
        for line in done.stdout.rstrip().splitlines():
            style = next((style for mark, style in _MARKS.items() if mark in line), "0")
            print(painted(textwrap.fill(line, _WIDTH, initial_indent="    ", subsequent_indent=" " * 8), style))
        if done.returncode != 0:
            raise SystemExit(f"error: the agent's work failed with exit code {done.returncode}")
        return judged(up, workspace, done, secrets) + taken_back(lh, providers, workspace, done)


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


def taken_back(lh: Leasehold, providers: Providers, workspace: Path, done: subprocess.CompletedProcess[str]) -> int:
    """What the audit says of the leases, and what the providers say themselves; how much is wrong."""
    task = done.stdout.split("task ", 1)[1].split(" ", 1)[0]
    lines = lh.cli("audit", "query", "--task", task, "--json").stdout.splitlines()
    records = [json.loads(line) for line in lines]
    print("    the audit log says")
    wrong = 0
    for provider in providers.all:
        own = [record for record in records if record["fields"].get("credential") == provider.name]
        for record in own:
            if record["event"] in ("lease:issued", "lease:revoked", "lease:expired"):
                print(
                    f"      {record['time'][11:19]}  {record['event']:14} {provider.name}  {record['fields']['name']}"
                )
        left = provider.left()
        found = [path for path in workspace.rglob("*") if path.is_file() and find(provider.secret, path.read_bytes())]
        wrong += bool(left or found) or not own
        style = "1;31" if left or found or not own else "32"
        word = f"STILL HAS {', '.join(left)}" if left else provider.gone
        print(painted(f"    {provider.name:8} {provider.host}: {word}", style))
    return wrong


def told(text: str, style: str = "1;36") -> None:
    print("\n" + painted(text, style), flush=True)


def painted(text: str, style: str) -> str:
    return f"\033[{style}m{text}\033[0m" if _COLOUR else text


def para(text: str) -> None:
    print(textwrap.fill(" ".join(text.split()), _WIDTH), flush=True)


if __name__ == "__main__":
    sys.exit(main())
