"""What a run left behind, and whether it is as it should be."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from agents.script import FOUND
from agents.standin import Request
from servers.encodings import find


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """A run as it can be judged. ``left``: path and content of each file that is left; ``mark``: the answer's
    word; ``also``: problems that the run itself noticed."""

    requests: tuple[Request, ...]
    output: str
    code: int | None
    mark: str
    left: tuple[tuple[str, bytes], ...]
    key: str
    also: tuple[str, ...] = ()

    @property
    def hunted(self) -> int:
        """The bytes that the hunt kept."""
        return sum(len(data) for path, data in self.left if path.endswith("/found.txt"))

    @property
    def leaks(self) -> list[str]:
        """Where the key stands in what the agent could see, found, sent or left, and how it is written there."""
        unwrapped = "".join(self.output.split())  # a screen breaks long words
        places = [("what it printed", f"{self.output}\n{unwrapped}".encode(errors="surrogateescape")), *self.left]
        places += [(f"the body of {request.method} {request.path}", request.body) for request in self.requests]
        return [f"{place}: {', '.join(how)}" for place, data in places if (how := find(self.key, data))]


def read_all(folder: Path) -> Iterator[tuple[str, bytes]]:
    """Every regular file below ``folder``, links not followed."""
    for path in sorted(folder.rglob("*")):
        if path.is_file() and not path.is_symlink():
            yield str(path), path.read_bytes()


def problems(seen: Seen, key: str, *, has_key: bool = False, hunts: bool = True) -> list[str]:
    """What is not as it should be. ``has_key``: whether the sandbox held the key, so that the hunt had to find it."""
    out = list(seen.also)
    if seen.code != 0:
        out.append(f"exit code {seen.code}: {seen.output[-600:]!r}")
    if seen.mark not in seen.output:
        out.append(f"the answer was not shown: {seen.output[-2000:]!r}")
    # In the control the hunt's own request comes with a key of its own; in a compartment that is replaced as well.
    asked = [request for request in seen.requests if request.keys and (request.method == "POST" or not has_key)]
    if not asked:
        out.append("no request arrived")
    wrong = [request for request in asked if set(request.keys) != {key}]
    out += [f"{request.method} {request.path} came with another key, or with more than one" for request in wrong[:3]]
    if has_key and not any("/found.txt:" in leak for leak in seen.leaks):
        out.append("the hunt did not find the key that was there")
    if not has_key:
        out += [f"the key is in {leak}" for leak in seen.leaks]
    if hunts and not seen.hunted:
        out.append("the hunt did not run")
    if hunts and not any(f"{FOUND}environment".encode() in request.body for request in seen.requests):
        out.append("the hunt's result was not sent to the model")
    return out
