"""Looks at a finished compartment from outside, before anything runs in it: what must not be there is not there.

An allow-list can be written wrongly, and a mount can land elsewhere when somebody renames a folder at the right moment.
So the kernel is asked what came out, and every difference from the plan keeps the agent from starting.
"""

from __future__ import annotations

import os

from leasehold.core.record import record
from leasehold.node.sandbox.kernel import status_of
from leasehold.node.sandbox.places import HOME, SYSTEM, within

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from leasehold.node.sandbox.plan import Plan

_NAMESPACES = ("user", "pid", "ipc", "uts", "cgroup", "mnt", "net")
_CAPABILITIES = ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")


@record
class View:
    """``mounts``: path and whether read-only, in the kernel's order. ``shared``: namespaces that are also ours.
    ``places``: usual places of credentials that exist inside. ``status``: of ``/proc/PID/status``."""

    mounts: tuple[tuple[str, bool], ...]
    shared: tuple[str, ...]
    places: tuple[str, ...]
    status: dict[str, str]


def view(init: int, homes: Sequence[str]) -> View:
    """What can be seen of the compartment whose pid 1 is ``init``."""
    with open(f"/proc/{init}/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
        mounts = parse_mountinfo(file.read())
    root = os.open(f"/proc/{init}/root", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        wanted = (*SYSTEM, *(f"{home}/{place}" for home in homes for place in HOME))
        places = tuple(path for path in wanted if _exists(root, path))
    finally:
        os.close(root)
    ours, its = "/proc/self/ns", f"/proc/{init}/ns"
    shared = tuple(ns for ns in _NAMESPACES if os.readlink(f"{ours}/{ns}") == os.readlink(f"{its}/{ns}"))
    return View(mounts=mounts, shared=shared, places=places, status=status_of(init))


def problems(seen: View, plan: Plan) -> list[str]:
    """Every difference from ``plan``, in words; none means that the agent may start."""
    found = [f"the {name} namespace is the host's" for name in seen.shared]
    found += [f"{name} is not empty" for name in _CAPABILITIES if int(seen.status.get(name, "1"), 16)]
    if seen.status.get("NoNewPrivs") != "1":
        found.append("new privileges are possible")
    found += [f"{place} can be seen" for place in seen.places if not any(within(place, path) for path in plan.allowed)]
    return found + mount_problems(seen.mounts, plan)


def mount_problems(mounts: Iterable[tuple[str, bool]], plan: Plan) -> list[str]:
    """The part of :func:`problems` that can change while the agent runs: when somebody on the host renames another file
    over a mount point, the kernel takes the mount away in every namespace."""
    seen, planned = dict(mounts), dict(plan.mounts)
    found = [f"{path} is not mounted" for path, mount in planned.items() if mount.needed and path not in seen]
    for path, read_only in seen.items():
        mount = planned.get(path)
        if mount is None:
            above = max((folder for folder in planned if within(path, folder)), key=len)
            mount = planned[above]
            if not mount.tree:
                found.append(f"{path} is mounted")
                continue
        if mount.read_only and not read_only:
            found.append(f"{path} is writable")
    return found


def parse_mountinfo(text: str) -> tuple[tuple[str, bool], ...]:
    """Mount point and whether it is read-only, of each line (proc_pid_mountinfo(5))."""
    lines = [line.split(" ") for line in text.splitlines()]
    return tuple((_unescape(fields[4]), fields[5].split(",")[0] == "ro") for fields in lines)


def _unescape(path: str) -> str:
    if "\\" not in path:
        return path
    import re

    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), path)


def _exists(root: int, path: str) -> bool:
    try:
        os.lstat(path.lstrip("/"), dir_fd=root)
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return False
    return True
