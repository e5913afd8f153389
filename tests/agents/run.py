"""Runs the real agents in a compartment against stand-ins for the model APIs: ``python -m agents.run [NAME…]``.

Five runs of each program. *bare* is the control: an ordinary sandbox that holds the key, where the hunt must find it,
or else the others would prove nothing. *leasehold* is the same run in a compartment: the stand-in must get the real key
and the hunt must not; *user* is that once more as an ordinary user. *again* is two runs, the second of which goes on
with the first one's conversation. *screen* is a full-screen run: a prompt is typed, the answer is drawn.
Prints a table; the exit code is 1 when a line of it is not as it should be.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from agents import bare, install
from agents.programs import AGENTS, Agent, made_up_keys
from agents.screen import Screen
from agents.script import DONE_MARK, HUNT, MORE, TALK, WORD_MARK
from agents.upstream import Models
from agents.watch import Seen, problems
from servers.harness import Leasehold
from servers.people import Person, ordinary_user

_RUN_S = 180.0
_ANSWER_S = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One line of the table."""

    agent: str
    where: str
    took_s: float
    seen: Seen
    problems: list[str]


def main(names: list[str]) -> int:
    """Run the agents called ``names``, all when there are none; returns the exit code."""
    lacking = [program for program in ("npm", "node", "tmux", "bwrap") if shutil.which(program) is None]
    if lacking:
        print(
            f"error: not on PATH: {', '.join(lacking)}\nhint: apt-get install nodejs npm tmux bubblewrap",
            file=sys.stderr,
        )
        return 1
    if os.geteuid() != 0:
        print("error: the stand-ins listen on port 443\nhint: run it as root", file=sys.stderr)
        return 1
    install.install()
    versions = install.versions()
    chosen = [agent for agent in AGENTS if not names or agent.name in names]
    lines = []
    for agent in chosen:
        for where, run in RUNS.items():
            lines.append(_one(agent, where, run))
            _print(lines[-1], versions[agent.name])
    bad = [line for line in lines if line.problems]
    for line in bad:
        print(f"\n{line.agent} {line.where}:", *line.problems, sep="\n  ")
    print(f"\n{len(lines) - len(bad)} of {len(lines)} as they should be")
    return 1 if bad or not lines else 0


def _hunts(agent: Agent, where: str) -> bool:
    return where != "again" and (where != "screen" or agent.prompt == HUNT)


Run = Callable[[Agent, Models, str], Seen]


def _one(agent: Agent, where: str, run: Run) -> Line:
    key = made_up_keys()[agent.host]
    started = time.monotonic()
    with Models(agent.host, key) as models:
        seen = run(agent, models, key)
    return Line(
        agent=agent.name,
        where=where,
        took_s=time.monotonic() - started,
        seen=seen,
        problems=problems(seen, key, has_key=where == "bare", hunts=_hunts(agent, where)),
    )


def _bare(agent: Agent, models: Models, key: str) -> Seen:
    with tempfile.TemporaryDirectory(prefix="lh-bare-") as base:
        home, workspace = Path(base, "home"), Path(base, "workspace")
        home.mkdir()
        workspace.mkdir()
        _workspace(workspace)
        bare.home(home, agent.name, workspace=workspace, key=(agent.variable, key))
        command = bare.sandboxed(
            agent.hunt, home=home, workspace=workspace, ca=models.ca.path, addresses=models.resolve()
        )
        env = bare.settings(agent.name, home=home, key=(agent.variable, key))
        output, code = _wait(command, env)
        return models.seen(output, code, DONE_MARK, [workspace])


def _leasehold(agent: Agent, models: Models, key: str, person: Person | None = None) -> Seen:
    with Leasehold(models, person=person) as lh:
        _store(lh, models, key)
        workspace = _workspace(lh.workspace())
        output, code = _run(lh, workspace, agent.hunt)
        return models.seen(output, code, DONE_MARK, [workspace, lh.base / "state"])


def _user(agent: Agent, models: Models, key: str) -> Seen:
    with ordinary_user() as person:
        return _leasehold(agent, models, key, person)


def _again(agent: Agent, models: Models, key: str) -> Seen:
    """Two runs in the same workspace; the second goes on where the first one ended."""
    with Leasehold(models) as lh:
        _store(lh, models, key)
        workspace = _workspace(lh.workspace())
        first, second = (_run(lh, workspace, command) for command in agent.again)
        also = [] if first[1] == 0 else [f"the first run ended with {first[1]}"]
        if not any(MORE.encode() in r.body and WORD_MARK.encode() in r.body for r in models.standin.requests()):
            also.append("the second run did not go on with the first one's conversation")
        also += _denied(agent, first[0] + second[0])
        kept = [path for path in lh.base.rglob("*") if agent.login and str(path).endswith(f"/{agent.login}")]
        also += [f"a login was kept in {path}" for path in kept if path.stat().st_size]
        return models.seen(first[0] + second[0], second[1], WORD_MARK, [workspace, lh.base / "state"], also)


def _screen(agent: Agent, models: Models, key: str) -> Seen:
    with Leasehold(models) as lh:
        _store(lh, models, key)
        workspace = _workspace(lh.workspace())
        command = [sys.executable, "-m", "leasehold", "run", "--workspace", str(workspace), "--", *agent.screen]
        with Screen(command, folder=lh.base, env=lh.environment()) as screen:
            text, code, also = _talk(agent, screen)
            return models.seen(text, code, agent.mark, [workspace, lh.base / "state"], also)


def _talk(agent: Agent, screen: Screen) -> tuple[str, int | None, list[str]]:
    """Type the prompt, answer what is asked, see the answer drawn, in another size too, and leave.

    Returns what the screen showed, the exit code and what was wrong.
    """
    shown, also = "", []
    if _waits(screen, agent.ready):
        _say(screen, agent.prompt)
        if agent.confirm:
            for answer in ("y", "y"):
                _waits(screen, agent.confirm)
                _say(screen, answer)
            _waits(screen, agent.ready)
            _say(screen, "Now tell me.")
        screen.wait(lambda text: agent.mark in text, timeout_s=_ANSWER_S)
        shown = screen.text()
        screen.resize(90, 60)
        if not screen.wait(lambda text: agent.mark in text, timeout_s=_ANSWER_S):
            also.append("the answer was not drawn in the other size")
    shown += screen.text()
    _say(screen, agent.leave)
    code = screen.wait_end(timeout_s=30)
    if agent.prompt == TALK:
        also += _denied(agent, screen.text())
    return shown + screen.text(), code, also


def _denied(agent: Agent, summary: str) -> list[str]:
    """What was denied to a program that did nothing but its work: the profile should have kept it from asking."""
    lines = re.findall("^  (?:denied|      )   [0-9]+ \N{MULTIPLICATION SIGN} .*$", summary, re.MULTILINE)
    return [
        f"it asked for what it may not have: {line.strip()}" for line in lines if not any(n in line for n in agent.asks)
    ]


def _waits(screen: Screen, pattern: re.Pattern[str]) -> bool:
    return screen.wait(lambda text: pattern.search(text.rstrip()) is not None, timeout_s=_ANSWER_S)


def _say(screen: Screen, text: str) -> None:
    screen.type(text)
    time.sleep(0.5)  # a burst of keys that ends with Enter counts as pasted text
    screen.press("Enter")


RUNS: dict[str, Run] = {"bare": _bare, "leasehold": _leasehold, "user": _user, "again": _again, "screen": _screen}


def _workspace(path: Path) -> Path:
    (path / ".hunt-here").touch()
    return path


def _store(lh: Leasehold, models: Models, key: str) -> None:
    done = lh.cli("secret", "set", models.credential, stdin=key)
    assert done.returncode == 0, done.stderr


def _run(lh: Leasehold, workspace: Path, command: tuple[str, ...]) -> tuple[str, int | None]:
    """What it printed, and its exit code; ``None`` if it had to be stopped."""
    try:
        done = lh.run(*command, workspace=workspace, timeout=_RUN_S)
    except subprocess.TimeoutExpired as error:
        return f"{error.output!r} {error.stderr!r}", None
    return done.stdout + done.stderr, done.returncode


def _wait(command: list[str], env: dict[str, str]) -> tuple[str, int | None]:
    try:
        done = subprocess.run(
            command,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=_RUN_S,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        return repr(error.output), None
    return done.stdout.decode(errors="replace"), done.returncode


def _print(line: Line, version: str) -> None:
    verdict = "as it should be" if not line.problems else "WRONG"
    key = "found the key" if line.seen.leaks else "found no key"
    print(
        f"{line.agent:7} {version:10} {line.where:10} {line.took_s:5.1f} s  {len(line.seen.requests):2} requests  "
        f"{line.seen.hunted / 1e6:5.1f} MB looked at  {key:13}  {verdict}",
        flush=True,
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
