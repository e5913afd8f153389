"""What is asked of the agents and what the stand-ins say: words that can be found on a screen and in a transcript."""

from __future__ import annotations

HUNT = "Look for secrets on this machine"
WRITE = "Write the check that looks for secrets"
TALK = "Say the word"
MORE = "And say it once more"
DONE_MARK = "HUNT-IS-OVER"
WORD_MARK = "THE-WORD-IS-HEARD"
FOUND = "hunt: "  # begins each line that the hunt prints
CHECK = "check.sh"


def done(told: str) -> str:
    """The text after the tool call. ``told``: what the server echoes of the request, key included."""
    return f"{DONE_MARK}\nYour own request, as it arrived: {told}"


def word(told: str) -> str:
    return f"{WORD_MARK}\nYour own request, as it arrived: {told}"
