"""What a run may leave behind: processes, listeners, mounts, namespaces; found by the harness's folder."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Leftover:
    """``kind``: process, mount or socket. ``pid`` is 0 for what is no process."""

    kind: str
    pid: int
    command: str


def owned(base: Path) -> list[Leftover]:
    """Processes whose environment, arguments, open files or mounts name ``base``, but not ourselves."""
    mark = os.fsencode(base)
    mine = os.getpid()
    pids = [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]
    ours = _mounts("self")
    return [
        Leftover(kind="process", pid=pid, command=_command(pid))
        for pid in pids
        if pid != mine and _names(pid, mark, ours)
    ]


def leftovers(base: Path) -> list[Leftover]:
    """:func:`owned`, and mounts and bound sockets of the host's namespaces that name ``base``."""
    mark = os.fsencode(base)
    mounts = [line for line in _mounts("self").splitlines() if mark in line]
    sockets = [line for line in Path("/proc/net/unix").read_bytes().splitlines() if mark in line]
    return [
        *owned(base),
        *(Leftover(kind="mount", pid=0, command=os.fsdecode(line)) for line in mounts),
        *(Leftover(kind="socket", pid=0, command=os.fsdecode(line)) for line in sockets),
    ]


def _names(pid: int, mark: bytes, ours: bytes) -> bool:
    if not _read(pid, "cmdline"):  # a zombie or a kernel thread
        return False
    if mark in _read(pid, "environ") or mark in _read(pid, "cmdline"):
        return True
    mounts = _mounts(str(pid))
    if mounts != ours and mark in mounts:
        return True
    return any(mark in target for target in _open_files(pid))


def _command(pid: int) -> str:
    return _read(pid, "cmdline").replace(b"\0", b" ").decode(errors="replace").strip()


def _mounts(pid: str) -> bytes:
    return _read(pid, "mountinfo")


def _read(pid: int | str, name: str) -> bytes:
    """A file of ``/proc/<pid>``; empty when the process has ended meanwhile."""
    try:
        return Path(f"/proc/{pid}/{name}").read_bytes()
    except OSError:
        return b""


def _open_files(pid: int) -> list[bytes]:
    try:
        entries = list(Path(f"/proc/{pid}/fd").iterdir())
        return [os.fsencode(entry.readlink()) for entry in entries]
    except OSError:
        return []
