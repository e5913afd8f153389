"""Installs the agents into ``build/agents``: exactly what the lock files name; no script of a package runs."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

_HERE = Path(__file__).parent
BUILD = _HERE.parents[1] / "build" / "agents"
CLAUDE = BUILD / "npm" / "node_modules" / ".bin" / "claude"
CODEX = BUILD / "npm" / "node_modules" / ".bin" / "codex"
AIDER = BUILD / "aider" / "bin" / "aider"
_PYTHONS = ((3, 11), (3, 13))  # for which the lock holds and aider has packages: from, below


def install() -> None:
    """Install what is not installed yet. Raises ``CalledProcessError``; what npm or pip says goes to standard error."""
    _once("npm", ("package.json", "package-lock.json"), _npm)
    _once("aider", ("aider.lock",), _aider)


def _once(name: str, files: tuple[str, ...], make: Callable[[Path], None]) -> None:
    folder = BUILD / name
    digest = hashlib.sha256(b"".join((_HERE / file).read_bytes() for file in files)).hexdigest()
    stamp = folder / ".installed"
    if stamp.exists() and stamp.read_text() == digest:
        return
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    make(folder)
    stamp.write_text(digest)


def _npm(folder: Path) -> None:
    for name in ("package.json", "package-lock.json"):
        shutil.copy(_HERE / name, folder)
    _say(["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"], folder)
    # Puts the program for this machine, which npm has fetched and checked, where the command points to.
    _say(["node", "node_modules/@anthropic-ai/claude-code/install.cjs"], folder)


def _aider(folder: Path) -> None:
    _say([_python(), "-m", "venv", "."], folder)
    pip = ["bin/pip", "install", "-qq", "--require-hashes", "--only-binary", ":all:"]
    _say([*pip, "-r", str(_HERE / "aider.lock")], folder)


def _python() -> str:
    low, below = _PYTHONS
    if low <= sys.version_info[:2] < below:
        return sys.executable
    names = [f"python{low[0]}.{minor}" for minor in range(below[1] - 1, low[1] - 1, -1)]
    found = next(filter(None, map(shutil.which, names)), None)
    if found is None:
        raise SystemExit(f"aider needs one of {', '.join(names)}; none is on PATH")
    return found


def _say(command: list[str], folder: Path) -> None:
    subprocess.run(command, cwd=folder, check=True, stdin=subprocess.DEVNULL, stdout=sys.stderr)


def tools() -> list[str]:
    """The folders that a compartment must show for the programs to run: theirs, and that of aider's Python."""
    real = (BUILD / "aider" / "bin" / "python").resolve()
    return [str(BUILD), *([] if real.is_relative_to("/usr") else [str(real.parents[1])])]


def versions() -> dict[str, str]:
    """What each program says that it is."""
    said = {}
    for name, program in (("claude", CLAUDE), ("codex", CODEX), ("aider", AIDER)):
        home = {"HOME": "/nonexistent", "PATH": "/usr/local/bin:/usr/bin:/bin"}
        text = subprocess.run([program, "--version"], check=True, capture_output=True, text=True, env=home).stdout
        said[name] = next(word for word in text.split() if word[0].isdigit())
    return said
