"""``leasehold doctor``: what this machine lacks for a compartment, and how to get it."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from leasehold.cli import output
from leasehold.cli.checks import CHECKS, PACKAGES, Finding, Machine
from leasehold.core.text import printable

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

_SO_PEERPIDFD = 77
_TIMEOUT_S = 20
# The launcher takes bubblewrap from the system's folders only.
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:/run/current-system/sw/bin"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="for machines")


def run(args: argparse.Namespace) -> int:
    """0 when nothing is missing, else 1."""
    return report(this_machine(), as_json=args.json)


def report(machine: Machine, *, as_json: bool) -> int:
    """Check ``machine`` and print what was found."""
    findings = [check(machine) for check in CHECKS]
    missing = [finding for finding in findings if finding.hint]
    if as_json:
        rows = [{"name": f.name, "ok": not f.hint, "found": f.found, "hint": f.hint} for f in findings]
        output.dump({"ok": not missing, "findings": rows})
    else:
        for finding in findings:
            _show(finding)
        print(f"{len(missing)} of {len(findings)} missing" if missing else "nothing is missing")
    return 1 if missing else 0


def _show(finding: Finding) -> None:
    word, code = ("missing", output.RED) if finding.hint else ("ok", output.GREEN)
    print(f"{output.paint(f'{word:7}', code, sys.stdout)}  {finding.name:16} {printable(finding.found)}")
    if finding.hint:
        print(f"         hint: {printable(finding.hint)}")


def this_machine() -> Machine:
    """The machine that this runs on, for the user who runs it."""
    from leasehold.core.config import read_operator
    from leasehold.core.locations import operator_config_path, runtime_dir, state_dir

    return Machine(
        release=os.uname().release,
        uid=os.getuid(),
        read=_read,
        run=_run,
        exists=os.path.lexists,
        has_peer_pidfd=_has_peer_pidfd,
        envoy=_envoy,
        missing_packages=_missing_packages,
        open_files=_open_files,
        folders=lambda: (state_dir(), runtime_dir()),
        free=_free,
        configuration=lambda: read_operator(Path(operator_config_path())),
    )


def _read(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""


def _run(command: Sequence[str]) -> tuple[int, str]:
    import shutil
    import subprocess

    program = shutil.which(command[0], path=_PATH)
    if program is None:
        return 127, ""
    try:
        done = subprocess.run(
            [program, *command[1:]],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=_TIMEOUT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return 126, str(error)
    return done.returncode, done.stdout.decode(errors="replace")


def _has_peer_pidfd() -> bool:
    import socket

    a, b = socket.socketpair(socket.AF_UNIX)
    with a, b:
        try:
            os.close(a.getsockopt(socket.SOL_SOCKET, _SO_PEERPIDFD))
        except OSError:
            return False
    return True


def _envoy() -> str:
    from importlib.util import find_spec

    spec = find_spec("envoy")
    folders = (spec.submodule_search_locations or ()) if spec else ()
    candidates = [Path(folder) / "_bin" / "envoy" for folder in folders]
    return next((str(path) for path in candidates if os.access(path, os.X_OK)), "")


def _missing_packages() -> list[str]:
    from importlib.util import find_spec

    return [name for name in PACKAGES if find_spec(name) is None]


def _open_files() -> int:
    import resource

    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    return sys.maxsize if hard == resource.RLIM_INFINITY else hard


def _free(folder: str) -> tuple[int, int]:
    found = os.statvfs(folder)
    # Some file systems make room for files as they go, and count none.
    files = found.f_favail if found.f_files else sys.maxsize
    return found.f_bavail * found.f_frsize, files
