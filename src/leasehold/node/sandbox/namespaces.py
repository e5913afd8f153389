"""The network of a compartment: a namespace with nothing in it but lo, and the gate that serves there (DESIGN 5).

As root, Envoy listens inside the namespace. As an ordinary user it cannot, so the gate forwards. There a user
namespace comes first, which owns the network's; whoever is in the sandbox's inner user namespace cannot change it.
"""

from __future__ import annotations

import json
import os
import select
import signal
import socket

from leasehold.core.errors import SandboxError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from typing import Any, NoReturn

_CLONE_NEWUSER, _CLONE_NEWNET = 0x10000000, 0x40000000
_PR_SET_PDEATHSIG, _PR_CAPBSET_DROP, _PR_SET_NO_NEW_PRIVS, _PR_CAP_AMBIENT = 1, 24, 38, 47
_AMBIENT_CLEAR_ALL = 4
_CAP_VERSION_3 = 0x20080522
_ANSWER_TIMEOUT_S = 20.0
_MESSAGE_MAX = 1 << 20
_REASON_MAX = 8192
_HINT = "`leasehold doctor` says what this machine lacks"


class Network:
    """The launcher's end. ``gate_fd`` is readable when the gate has ended."""

    def __init__(self, mode: str, pid: int, control: socket.socket, netns_fd: int, userns_fd: int) -> None:
        self.mode = mode
        self.netns_fd = netns_fd
        self._userns_fd = userns_fd
        self._pid = pid
        self._control = control
        self.gate_fd = os.pidfd_open(pid)

    def serve(
        self,
        names: Mapping[str, str],
        ports: Sequence[int],
        sockets: Mapping[str, str],
        streams: Sequence[tuple[str, int, str]] = (),
    ) -> None:
        """Say what exists; returns when the gate answers and every port accepts. ``SandboxError`` otherwise.

        ``sockets``: port to the unix socket that it leads to; ``streams``: address, port and socket of what is no HTTP.
        Both are empty where Envoy listens in the namespace itself.
        """
        message = {"names": dict(names), "ports": list(ports), "sockets": dict(sockets), "streams": list(streams)}
        self._ask({"op": "serve", **message})

    def denied_names(self) -> dict[str, int]:
        """The names that were asked for and do not exist, with counts; empty when the gate has gone."""
        try:
            denied: dict[str, int] = self._ask({"op": "denied"})["denied"]
        except SandboxError:
            return {}
        return denied

    def enter(self, before_drop: Callable[[], None] | None = None) -> None:
        """In a forked child, just before the exec: join the namespaces. An ordinary user's child drops what it got;
        ``before_drop`` is what has to be done with it, such as mounts."""
        libc = _libc()
        if self._userns_fd >= 0:
            _check(libc.setns(self._userns_fd, _CLONE_NEWUSER), "setns")
        _check(libc.setns(self.netns_fd, _CLONE_NEWNET), "setns")
        if before_drop is not None:
            before_drop()
        if self._userns_fd >= 0:
            drop_privileges()

    def close(self) -> None:
        """End the gate; idempotent."""
        if self.gate_fd < 0:
            return
        if not select.select([self.gate_fd], [], [], 0)[0]:
            signal.pidfd_send_signal(self.gate_fd, signal.SIGKILL)
        os.waitpid(self._pid, 0)
        self._control.close()
        for fd in (self.gate_fd, self.netns_fd, self._userns_fd):
            if fd >= 0:
                os.close(fd)
        self.gate_fd = self.netns_fd = self._userns_fd = -1

    def _ask(self, message: dict[str, Any]) -> dict[str, Any]:
        try:
            self._control.send(json.dumps(message).encode())
            answer = self._control.recv(_MESSAGE_MAX)
        except OSError as e:
            reason = e.strerror or type(e).__name__
        else:
            reply: dict[str, Any] = json.loads(answer) if answer else {"error": "it has ended"}
            if "error" not in reply:
                return reply
            reason = reply["error"]
        raise SandboxError(f"the compartment's network failed: {reason}", hint=_HINT)


def create() -> Network:
    """Fork the gate into namespaces of its own; ``SandboxError`` when they cannot be made."""
    ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    launcher = os.getpid()
    root = os.geteuid() == 0
    pid = os.fork() or _gate(ours, its, launcher, root=root)
    its.close()
    ours.settimeout(_ANSWER_TIMEOUT_S)
    fds: list[int] = []
    try:
        message, fds, _, _ = socket.recv_fds(ours, _REASON_MAX, 2)
        reason = json.loads(message)["error"] if message not in (b"ok", b"") else ""
    except OSError as e:
        reason = str(e)
    if reason or len(fds) != (1 if root else 2):
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        ours.close()
        for fd in fds:
            os.close(fd)
        raise SandboxError(f"the compartment's network cannot be made: {reason or 'it ended'}", hint=_HINT)
    for fd in fds:
        os.set_inheritable(fd, False)
    return Network("netns" if root else "relay", pid, ours, fds[0], fds[1] if len(fds) > 1 else -1)


def drop_privileges() -> None:
    """Give up every capability in every set, for ever."""
    import ctypes

    libc = _libc()
    number = 0
    while libc.prctl(_PR_CAPBSET_DROP, number, 0, 0, 0) == 0:  # up to the first that this kernel does not have
        number += 1
    _check(libc.prctl(_PR_CAP_AMBIENT, _AMBIENT_CLEAR_ALL, 0, 0, 0), "prctl")
    header = (ctypes.c_uint32 * 2)(_CAP_VERSION_3, 0)
    _check(libc.capset(header, (ctypes.c_uint32 * 6)()), "capset")
    _check(libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "prctl")


def _gate(launchers: socket.socket, control: socket.socket, launcher: int, *, root: bool) -> NoReturn:
    """The gate's whole life, in the forked child; ``launchers`` is the other end of ``control``."""
    try:
        launchers.close()
        _confine(control, launcher, root=root)
        from leasehold.inside.gate import Gate

        Gate(control).run(drop_privileges)
    except BaseException as error:
        text = json.dumps({"error": f"{type(error).__name__}: {error}"[:1000]}).encode()
        control.sendmsg([text], [], socket.MSG_NOSIGNAL)
    finally:
        os._exit(1)


def _confine(control: socket.socket, launcher: int, *, root: bool) -> None:
    libc = _libc()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGTSTP, signal.SIGWINCH):
        signal.signal(number, signal.SIG_IGN)
    _check(libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0), "prctl")
    if os.getppid() != launcher:
        os._exit(1)
    uid, gid = os.geteuid(), os.getegid()
    if not root:
        _check(libc.unshare(_CLONE_NEWUSER), "unshare a user namespace")
        for name, text in (("setgroups", "deny"), ("uid_map", f"{uid} {uid} 1"), ("gid_map", f"{gid} {gid} 1")):
            with open(f"/proc/self/{name}", "w", encoding="ascii") as file:
                file.write(text)
    _check(libc.unshare(_CLONE_NEWNET), "unshare a network namespace")
    from leasehold.node.sandbox.netlink import make_everything_local

    make_everything_local()
    fds = [os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)]
    if not root:
        fds.append(os.open("/proc/self/ns/user", os.O_RDONLY | os.O_CLOEXEC))
    socket.send_fds(control, [b"ok"], fds)
    null = os.open(os.devnull, os.O_RDWR)
    for fd in (0, 1, 2):
        os.dup2(null, fd)
    keep = control.fileno()
    os.closerange(3, keep)
    os.closerange(keep + 1, 1 << 16)


def _libc() -> Any:
    import ctypes

    return ctypes.CDLL(None, use_errno=True)


def _check(result: int, what: str) -> None:
    if result != 0:
        import ctypes

        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
