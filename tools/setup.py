"""Installs what a goal needs: ``python3 tools/setup.py check|test|run|bench|mutate|crash|chaos|agents``.

Runs with the system's Python and nothing but its standard library. What is there already is left alone; with everything
in place it costs some hundredths of a second. Nothing is downloaded but what the lock files name by hash, and the
distribution's own packages.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
BUILD = ROOT / "build"
PYTHON_MIN = (3, 11)

# Command that has to be there, and the Debian packages that bring it.
COMMANDS: dict[str, tuple[str, ...]] = {
    "bwrap": ("bubblewrap",),
    "git": ("git",),
    "curl": ("curl",),
    "wget": ("wget",),
    "nginx": ("nginx-light",),
    "fcgiwrap": ("fcgiwrap",),
    "javac": ("default-jdk-headless",),
    "node": ("nodejs", "npm"),
    "npm": ("npm",),
    "setpriv": ("util-linux",),
    "unshare": ("util-linux",),
    "useradd": ("passwd",),
}
STORY: dict[str, tuple[str, ...]] = {
    "pg_ctlcluster": ("postgresql", "postgresql-client"),
    "pgbouncer": ("pgbouncer",),
    "ssh": ("openssh-client",),
    "sshd": ("openssh-server",),
}
SERVERS: dict[str, tuple[str, ...]] = {
    **STORY,
    "mariadbd": ("mariadb-server", "mariadb-client"),
    "redis-server": ("redis-server", "redis-tools"),
    "rabbitmq-server": ("rabbitmq-server",),
}
EXTRA: dict[str, dict[str, tuple[str, ...]]] = {
    "test": SERVERS,
    "run": STORY,
    "bench": {**SERVERS, "wrk": ("wrk",)},
    "mutate": SERVERS,
    "crash": SERVERS,
    "chaos": SERVERS,
    "agents": {"tmux": ("tmux",)},
}
_PLACES = ("/usr/sbin", "/usr/bin", "/sbin", "/bin")
_NO_SERVICES = Path("/usr/sbin/policy-rc.d")
_OUTPUT_LINES = 25


class SetupError(Exception):
    """What is missing, and what to do about it."""

    def __init__(self, message: str, hint: str) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


def main() -> int:
    goals = ("check", "test", "run", "bench", "mutate", "crash", "chaos", "agents")
    if len(sys.argv) != 2 or sys.argv[1] not in goals:
        print(f"usage: python3 tools/setup.py {'|'.join(goals)}", file=sys.stderr)
        return 2
    os.umask(0o022)  # other users of the machine run the tests' compartments
    began = time.monotonic()
    try:
        with _alone():
            did = _install(sys.argv[1])
    except SetupError as e:
        print(f"error: {e.message}\nhint: {e.hint}", file=sys.stderr)
        return 1
    if did:
        _say(f"ready after {time.monotonic() - began:.0f} s")
    return 0


def _install(goal: str) -> bool:
    """Everything that ``goal`` needs; whether there was something to do."""
    did = goal != "check" and _system({**COMMANDS, **EXTRA.get(goal, {})})
    did |= _environment(ROOT / ".venv", ROOT / "requirements.lock", ours=True)
    if goal != "check":
        did |= _npm(ROOT / "tests" / "servers")
    if goal == "bench":
        did |= _environment(ROOT / ".venv-peers", ROOT / "benchmarks" / "peers.lock", ours=False)
    return did


# System packages


def _system(commands: dict[str, tuple[str, ...]]) -> bool:
    missing = [command for command in commands if not _which(command)]
    if not missing:
        return False
    packages = sorted({package for command in missing for package in commands[command]})
    _apt(packages, f"these programs are missing: {', '.join(missing)}")
    still = [command for command in missing if not _which(command)]
    if still:
        raise SetupError(f"{', '.join(still)} did not come with {', '.join(packages)}", "install them by hand")
    return True


def _apt(packages: Sequence[str], why: str) -> None:
    """Install Debian packages as root; else say which and how."""
    apt = _which("apt-get")
    if not apt:
        raise SetupError(why, f"install them by the means of this system; on Debian they are in {' '.join(packages)}")
    if os.geteuid() != 0:
        raise SetupError(why, f"sudo apt-get install --no-install-recommends {' '.join(packages)}")
    _say(f"{why}; installing {' '.join(packages)}")
    install = [apt, "install", "-y", "-q", "--no-install-recommends", *packages]
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    with _no_services():
        if subprocess.run(install, env=environment, capture_output=True, check=False).returncode != 0:
            _call([apt, "update", "-q"], "apt-get update", env=environment)
            _call(install, "apt-get install", env=environment)


@contextlib.contextmanager
def _no_services() -> Iterator[None]:
    """Servers are started by the tests, on ports of their own; the packages are not to start theirs."""
    if _NO_SERVICES.exists():
        yield
        return
    _NO_SERVICES.write_text("#!/bin/sh\nexit 101\n")
    _NO_SERVICES.chmod(0o755)
    try:
        yield
    finally:
        _NO_SERVICES.unlink(missing_ok=True)


# Python


def _environment(folder: Path, lock: Path, *, ours: bool) -> bool:
    """A virtual environment with exactly what ``lock`` names; with ``ours`` also this project, editable."""
    sources = [lock, Path(__file__), *([ROOT / "pyproject.toml"] if ours else [])]
    digest = _digest(*(path.read_bytes() for path in sources), os.fsencode(folder))
    stamp, python = folder / ".installed", folder / "bin" / "python"
    if stamp.exists() and stamp.read_text() == digest and python.exists():
        return False
    if not (python.exists() and (folder / "bin" / "pip").exists() and _open_to_all(python)):
        base = _interpreter()
        _say(f"making {folder.name} with {base}")
        _call([base, "-m", "venv", "--clear", str(folder)], f"making {folder.name}")
    stamp.unlink(missing_ok=True)
    pip = [str(python), "-m", "pip", "--disable-pip-version-check", "--no-input", "install", "--quiet"]
    _say(f"installing the packages of {lock.relative_to(ROOT)} into {folder.name} (some minutes at most)")
    _call([*pip, "--require-hashes", "--requirement", str(lock)], f"installing {lock.name}")
    if ours:
        _call(
            [*pip, "--no-deps", "--no-index", "--no-build-isolation", "--editable", str(ROOT)], "installing leasehold"
        )
    stamp.write_text(digest)
    return True


def _interpreter() -> str:
    """A Python for the environments: recent enough, and one that every user may execute, not one in a private home."""
    named = [
        f"{place}/python3{minor}" for place in ("/usr/bin", "/usr/local/bin") for minor in ("", ".13", ".12", ".11")
    ]
    candidates = [path for path in (*named, sys.executable) if os.access(path, os.X_OK)]
    public = [path for path in candidates if _open_to_all(Path(path))]
    chosen = next(filter(_can_make_environments, public), None)
    if chosen is None and any(_is_recent(path) for path in public):
        _apt(["python3-venv"], "the system's Python cannot make virtual environments")
        chosen = next(filter(_can_make_environments, public), None)
    if chosen is None and os.geteuid() != 0:
        chosen = next(filter(_can_make_environments, candidates), None)
    if chosen is None:
        wanted = ".".join(map(str, PYTHON_MIN))
        raise SetupError(
            f"none of {', '.join(candidates)} is a Python {wanted} or later that every user may execute",
            f"apt-get install python{wanted} python{wanted}-venv, or another one outside of private folders",
        )
    return chosen


def _open_to_all(path: Path) -> bool:
    """Whether every user may execute it: all folders on its way, with links resolved, are open."""
    real = path.resolve()
    return all(at.stat().st_mode & 0o001 for at in (real, *real.parents))


def _is_recent(python: str) -> bool:
    return _asks(python, f"import sys; raise SystemExit(sys.version_info < {PYTHON_MIN})")


def _can_make_environments(python: str) -> bool:
    return _is_recent(python) and _asks(python, "import ensurepip, venv")


def _asks(python: str, code: str) -> bool:
    return subprocess.run([python, "-I", "-c", code], capture_output=True, check=False).returncode == 0


# npm


def _npm(folder: Path) -> bool:
    """The Node packages of the tests' registry, as its lock names them; none of their scripts runs."""
    digest = _digest((folder / "package-lock.json").read_bytes(), (folder / "package.json").read_bytes())
    stamp = folder / "node_modules" / ".installed"
    if stamp.exists() and stamp.read_text() == digest:
        return False
    _say(f"installing the packages of {folder.relative_to(ROOT)}/package-lock.json")
    npm = _which("npm") or "npm"
    _call([npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"], "npm ci", cwd=folder)
    stamp.write_text(digest)
    return True


# Small things


def _which(command: str) -> str | None:
    return shutil.which(command, path=os.pathsep.join((os.environ.get("PATH", ""), *_PLACES)))


def _digest(*parts: bytes) -> str:
    return hashlib.sha256(b"\0".join(hashlib.sha256(part).digest() for part in parts)).hexdigest()


def _call(command: Sequence[str], what: str, *, cwd: Path = ROOT, env: dict[str, str] | None = None) -> None:
    """Run quietly; when it fails, show the end of what it said."""
    done = subprocess.run(
        command,
        cwd=cwd,
        env=env,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        check=False,
    )
    if done.returncode == 0:
        return
    said = done.stdout.decode(errors="replace").splitlines()[-_OUTPUT_LINES:]
    print("\n".join(f"  | {line}" for line in said), file=sys.stderr)
    raise SetupError(f"{what} failed with status {done.returncode}", "its last words are above; run the goal again")


@contextlib.contextmanager
def _alone() -> Iterator[None]:
    """One set-up at a time in this checkout."""
    BUILD.mkdir(exist_ok=True)
    with (BUILD / "setup.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _say(text: str) -> None:
    print(f"setup: {text}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
