"""How each agent is started for the tests."""

from __future__ import annotations

import re
import secrets
from dataclasses import dataclass

from agents import install
from agents.script import CHECK, DONE_MARK, HUNT, MORE, TALK, WORD_MARK, WRITE
from agents.standin import ANTHROPIC, OPENAI

_AIDER = (str(install.AIDER), "--model", "gpt-4o", "--no-git")


@dataclass(frozen=True, slots=True, kw_only=True)
class Agent:
    """``hunt``: a run without a terminal that ends with the hunt's result sent to the model. ``again``: two runs, the
    second of which goes on with the first's conversation. ``login``: where a login would be kept, relative to the home
    folder. ``screen``: full-screen.

    ``ready`` matches a screen that waits for a prompt, ``confirm`` one that asks for a ``y``; ``mark`` is the answer's
    word, ``leave`` what is typed to end the program, ``asks`` the names that it cannot be kept from asking for.
    """

    name: str
    host: str
    variable: str
    hunt: tuple[str, ...]
    again: tuple[tuple[str, ...], tuple[str, ...]]
    login: str | None
    screen: tuple[str, ...]
    ready: re.Pattern[str]
    prompt: str = TALK
    confirm: re.Pattern[str] | None = None
    mark: str = WORD_MARK
    leave: str = "/exit"
    asks: tuple[str, ...] = ()


AGENTS = (
    Agent(
        name="claude",
        host=ANTHROPIC,
        variable="ANTHROPIC_API_KEY",
        hunt=(str(install.CLAUDE), "-p", HUNT, "--dangerously-skip-permissions"),
        again=(
            (str(install.CLAUDE), "-p", TALK),
            (str(install.CLAUDE), "-p", "--continue", MORE),
        ),
        login=".claude/.credentials.json",
        screen=(str(install.CLAUDE),),
        ready=re.compile("^\u276f", re.MULTILINE),
    ),
    Agent(
        name="codex",
        host=OPENAI,
        variable="OPENAI_API_KEY",
        hunt=(str(install.CODEX), "exec", "--skip-git-repo-check", HUNT),
        again=(
            (str(install.CODEX), "exec", "--skip-git-repo-check", TALK),
            (str(install.CODEX), "exec", "resume", "--last", "--skip-git-repo-check", MORE),
        ),
        login=".codex/auth.json",
        screen=(str(install.CODEX),),
        ready=re.compile("^\u203a Ask Codex", re.MULTILINE),
        leave="/quit",
        asks=("raw.githubusercontent.com",),  # an announcement for its first screen; no setting keeps it from asking
    ),
    Agent(
        name="aider",
        host=OPENAI,
        variable="OPENAI_API_KEY",
        hunt=(*_AIDER, "--yes-always", "--auto-test", "--test-cmd", f"sh {CHECK}; false", "--message", WRITE),
        again=(
            (*_AIDER, "--yes-always", "--message", TALK),
            (*_AIDER, "--yes-always", "--restore-chat-history", "--message", MORE),
        ),
        login=None,
        screen=_AIDER,
        ready=re.compile(r"^>\Z", re.MULTILINE),
        prompt=HUNT,
        mark=DONE_MARK,
        confirm=re.compile(r"(?:Run shell command|to the chat)\? \(Y\)es/\(N\)o[^\n]*:\Z"),
    ),
)


def made_up_keys() -> dict[str, str]:
    """A key per host, in the shape of a real one and never used anywhere."""
    return {
        ANTHROPIC: "sk-ant-api03-" + secrets.token_urlsafe(60),
        OPENAI: "sk-proj-" + secrets.token_urlsafe(60),
    }
