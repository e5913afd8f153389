"""The few things that Python 3.11 has no name for, and questions to ``/proc``."""

from __future__ import annotations

import os
import select
import signal
import stat

from leasehold.core.errors import SandboxError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import NoReturn

_CLONE_NEWNS, _CLONE_NEWPID = 0x00020000, 0x20000000
_ABANDONED = 125
_PR_SET_PDEATHSIG, _PR_CAPBSET_DROP, _PR_SET_NO_NEW_PRIVS = 1, 24, 38
_CAP_VERSION_3, _CAP_SETFCAP, _CAPABILITIES = 0x20080522, 31, 64
_MS_RDONLY, _MS_NOSUID, _MS_NOEXEC, _MS_REMOUNT, _MS_BIND, _MS_REC, _MS_PRIVATE = (
    1,
    2,
    8,
    32,
    4096,
    16384,
    1 << 18,
)


def _call(name: str, *arguments: object) -> None:
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    if getattr(libc, name)(*arguments) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")


def fork_as_init(child: Callable[[], NoReturn]) -> int:
    """Fork ``child`` as pid 1 of a new pid namespace: when it ends, the kernel ends all within. Returns its pid.

    Needs CAP_SYS_ADMIN. Later children of the caller are where they were before.
    """
    own = os.open("/proc/self/ns/pid", os.O_RDONLY | os.O_CLOEXEC)
    _call("unshare", _CLONE_NEWPID)
    pid = os.fork() or child()
    _call("setns", own, _CLONE_NEWPID)
    os.close(own)
    return pid


def keep_capability_for_own_id() -> None:
    """As root: give up every capability but CAP_SETFCAP, without which the kernel lets nobody map uid 0 into a user
    namespace (Linux 5.12). bubblewrap drops that one itself; the probe sees that the agent has none."""
    import ctypes

    libc = ctypes.CDLL(None)
    for number in set(range(_CAPABILITIES)) - {_CAP_SETFCAP}:
        libc.prctl(_PR_CAPBSET_DROP, number, 0, 0, 0)  # fails for those that this kernel does not have
    bit = 1 << _CAP_SETFCAP
    _call("capset", (ctypes.c_uint32 * 2)(_CAP_VERSION_3, 0), (ctypes.c_uint32 * 6)(bit, bit, 0, 0, 0, 0))
    _call("prctl", _PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)


def go_on_as_init(launcher: int, child: Callable[[], NoReturn]) -> NoReturn:
    """Go on with ``child``; when our next child would be pid 1 of a new pid namespace, as that.

    Then the caller stays behind without descriptors, waits, and ends as the child does. Either dies with what is
    above it; ``launcher`` is the process whose end ends everything.
    """
    if not _children_are_elsewhere():
        child()
    _die_with_parent()
    above = os.pidfd_open(os.getpid())
    if os.getppid() != launcher:
        os._exit(_ABANDONED)
    pid = os.fork() or _as_init(above, child)
    for name in os.listdir("/proc/self/fd"):
        _close_quietly(int(name))
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    os._exit(code if code >= 0 else 128 - code)


def _as_init(above: int, child: Callable[[], NoReturn]) -> NoReturn:
    _die_with_parent()
    if select.select([above], [], [], 0)[0]:
        os._exit(_ABANDONED)
    child()


def _children_are_elsewhere() -> bool:
    try:
        return os.readlink("/proc/self/ns/pid_for_children") != os.readlink("/proc/self/ns/pid")
    except FileNotFoundError:  # no child has been in it yet: it is a new one
        return True


def _die_with_parent() -> None:
    _call("prctl", _PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def _close_quietly(fd: int) -> None:
    try:
        os.close(fd)
    except OSError:  # the one that listed the folder
        return


def guard_devices(paths: Iterable[str]) -> None:
    """Make these device nodes read-only in a mount namespace of our own: reading and writing the device goes on, but
    its owner (root's agent is one) can no longer change its mode for the whole host. Needs CAP_SYS_ADMIN."""
    _call("unshare", _CLONE_NEWNS)
    _call("mount", None, b"/", None, _MS_REC | _MS_PRIVATE, None)
    for path in paths:
        target = path.encode()
        _call("mount", target, target, None, _MS_BIND, None)
        _call("mount", None, target, None, _MS_REMOUNT | _MS_BIND | _MS_RDONLY | _MS_NOSUID | _MS_NOEXEC, None)


def keep_only(kept: Iterable[int]) -> None:
    """Of all descriptors above 2, only ``kept`` survive the next exec (BOUNDARY E4)."""
    wanted = set(kept)
    for name in os.listdir("/proc/self/fd"):
        fd = int(name)
        if fd > 2:
            try:
                os.set_inheritable(fd, fd in wanted)
            except OSError:  # the one that listed the folder
                continue


def fill_standard_descriptors() -> None:
    """See to it that 0, 1 and 2 are open, or the next thing that we open becomes the agent's standard input."""
    fd = os.open(os.devnull, os.O_RDWR)
    while fd <= 2:
        os.set_inheritable(fd, True)
        fd = os.open(os.devnull, os.O_RDWR)
    os.close(fd)


class Opener:
    """Opens paths component by component without following any link; each component once (BOUNDARY F1, F2)."""

    def __init__(self) -> None:
        self._fds = {"/": os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)}

    def open(self, path: str) -> int:
        """An ``O_PATH`` descriptor of ``path`` (absolute, canonical), which stays open until :meth:`close`."""
        if path not in self._fds:
            parent, _, name = path.rpartition("/")
            try:
                fd = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=self.open(parent or "/"))
            except OSError as error:
                raise SandboxError(
                    f"{path} cannot be shown: {error.strerror}",
                    hint="it must exist, and no part of it be a link",
                ) from error
            self._fds[path] = fd
            if stat.S_ISLNK(os.fstat(fd).st_mode):
                raise SandboxError(f"{path} is a link, and cannot be shown", hint="name what it points to")
        return self._fds[path]

    def close(self) -> None:
        for fd in self._fds.values():
            os.close(fd)
        self._fds = {}


def memory_file(content: bytes) -> int:
    """A descriptor of a new anonymous file with ``content``, at its beginning."""
    fd = os.memfd_create("leasehold", os.MFD_CLOEXEC)
    while content:
        content = content[os.write(fd, content) :]
    os.lseek(fd, 0, os.SEEK_SET)
    return fd


def child_of(pid: int) -> int:
    """The first child of a process, or 0."""
    try:
        with open(f"/proc/{pid}/task/{pid}/children", encoding="ascii") as file:
            return int((file.read().split() or ["0"])[0])
    except FileNotFoundError:
        return 0


def is_running(pid: int, program: str) -> bool:
    """Whether a process of ours executes ``program`` (its first 15 characters)."""
    with open(f"/proc/{pid}/comm", encoding="utf-8", errors="replace") as file:
        return file.read().rstrip("\n") == program


def status_of(pid: int) -> dict[str, str]:
    """The lines of ``/proc/PID/status``; empty when the process has gone."""
    try:
        with open(f"/proc/{pid}/status", encoding="utf-8", errors="replace") as file:
            return {name: value.strip() for name, _, value in (line.partition(":") for line in file)}
    except (FileNotFoundError, ProcessLookupError):
        return {}
