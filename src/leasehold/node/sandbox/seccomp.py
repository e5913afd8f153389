"""The compartment's system call filter: classic BPF, assembled from a table (seccomp(2), linux/filter.h).

Pure: a machine's name in, the bytes of the program out. What is denied ordinarily gets an errno, so that
programs fall back; only a foreign architecture's calls kill, because nothing here could judge them.
"""

from __future__ import annotations

import struct

from leasehold.core.errors import SandboxError

_EPERM, _ENOSYS, _EPROTONOSUPPORT, _EAFNOSUPPORT = 1, 38, 93, 97

_LD, _JEQ, _JGT, _JGE, _JSET, _RET = 0x20, 0x15, 0x25, 0x35, 0x45, 0x06
_ALLOW, _KILL, _ERRNO = 0x7FFF0000, 0x80000000, 0x00050000
_NR, _ARCH, _ARGS = 0, 4, 16

# AUDIT_ARCH_* of linux/audit.h; both are little-endian, so an argument's low half comes first.
_MACHINES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
_X32_BIT = 0x40000000
# file_setattr, Linux 6.17. A call that did not exist when this was written has not been judged.
_LAST_KNOWN = 469

# name, number on x86_64, number on aarch64 (-1: not there), errno
_DENIED = (
    # Other processes' memory and descriptors.
    ("ptrace", 101, 117, _EPERM),
    ("process_vm_readv", 310, 270, _EPERM),
    ("process_vm_writev", 311, 271, _EPERM),
    ("process_madvise", 440, 440, _EPERM),
    ("pidfd_getfd", 438, 438, _EPERM),
    ("kcmp", 312, 272, _EPERM),
    # Submitted operations pass by this filter.
    ("io_uring_setup", 425, 425, _ENOSYS),
    ("io_uring_enter", 426, 426, _ENOSYS),
    ("io_uring_register", 427, 427, _ENOSYS),
    # Keyrings are not namespaced by anything that we unshare.
    ("add_key", 248, 217, _EPERM),
    ("request_key", 249, 218, _EPERM),
    ("keyctl", 250, 219, _EPERM),
    # Kernel programs, tracing, fault handling.
    ("bpf", 321, 280, _EPERM),
    ("perf_event_open", 298, 241, _EPERM),
    ("userfaultfd", 323, 282, _EPERM),
    ("lookup_dcookie", 212, 18, _EPERM),
    ("syslog", 103, 116, _EPERM),
    ("fanotify_init", 300, 262, _EPERM),
    # Namespaces and mounts. clone3 passes its flags in memory, where they cannot be read; libcs fall back to clone.
    ("clone3", 435, 435, _ENOSYS),
    ("setns", 308, 268, _EPERM),
    ("mount", 165, 40, _EPERM),
    ("umount2", 166, 39, _EPERM),
    ("pivot_root", 155, 41, _EPERM),
    ("chroot", 161, 51, _EPERM),
    ("open_tree", 428, 428, _EPERM),
    ("move_mount", 429, 429, _EPERM),
    ("fsopen", 430, 430, _EPERM),
    ("fsconfig", 431, 431, _EPERM),
    ("fsmount", 432, 432, _EPERM),
    ("fspick", 433, 433, _EPERM),
    ("mount_setattr", 442, 442, _EPERM),
    ("open_tree_attr", 467, 467, _EPERM),
    # Files by handle, past every mount.
    ("name_to_handle_at", 303, 264, _EPERM),
    ("open_by_handle_at", 304, 265, _EPERM),
    # Its mode is in memory, where it cannot be read (see _MODES); the few callers fall back.
    ("openat2", 437, 437, _ENOSYS),
    # The machine's own affairs.
    ("init_module", 175, 105, _EPERM),
    ("finit_module", 313, 273, _EPERM),
    ("delete_module", 176, 106, _EPERM),
    ("create_module", 174, -1, _EPERM),
    ("query_module", 178, -1, _EPERM),
    ("get_kernel_syms", 177, -1, _EPERM),
    ("kexec_load", 246, 104, _EPERM),
    ("kexec_file_load", 320, 294, _EPERM),
    ("reboot", 169, 142, _EPERM),
    ("acct", 163, 89, _EPERM),
    ("swapon", 167, 224, _EPERM),
    ("swapoff", 168, 225, _EPERM),
    ("quotactl", 179, 60, _EPERM),
    ("quotactl_fd", 443, 443, _EPERM),
    ("nfsservctl", 180, 42, _EPERM),
    ("settimeofday", 164, 170, _EPERM),
    ("clock_settime", 227, 112, _EPERM),
    ("sethostname", 170, 161, _EPERM),
    ("setdomainname", 171, 162, _EPERM),
    ("vhangup", 153, 58, _EPERM),
    ("migrate_pages", 256, 238, _EPERM),
    ("move_pages", 279, 239, _EPERM),
    ("iopl", 172, -1, _EPERM),
    ("ioperm", 173, -1, _EPERM),
    ("modify_ldt", 154, -1, _EPERM),
    ("uselib", 134, -1, _EPERM),
    ("ustat", 136, -1, _EPERM),
    ("sysfs", 139, -1, _EPERM),
    ("_sysctl", 156, -1, _EPERM),
)

# CLONE_NEW{TIME,NS,CGROUP,UTS,IPC,USER,PID,NET}; in clone the lowest byte is a signal, so TIME is unshare's only.
_NEW_NAMESPACES = 0x7E020080
_CLONE = (("unshare", 272, 97, _NEW_NAMESPACES), ("clone", 56, 220, _NEW_NAMESPACES & ~0xFF))

# Terminal requests that type for the user (TIOCSTI, TIOCLINUX), and line disciplines, a driver each (TIOCSETD).
_IOCTL = (16, 29)
_IOCTL_DENIED = (0x5412, 0x541C, 0x5423)

# SO_PEERCRED, SO_PEERSEC, SO_PEERGROUPS, SO_PEERPIDFD. IP_* and TCP_* options have other meanings and are not needed.
_GETSOCKOPT = (55, 209)
_PEER_OPTIONS = (17, 31, 59, 77)

_PERSONALITY = (135, 92)
_PERSONALITIES = (0x0, 0x8, 0x20000, 0x20008, 0xFFFFFFFF)

_SOCKET, _SOCKETPAIR = (41, 198), (53, 199)
_AF_UNIX, _AF_INET, _AF_INET6 = 1, 2, 10
# Any, ICMP, TCP, UDP, ICMPv6, MPTCP (Go's default for listeners): other numbers make the kernel load a module.
_INET_PROTOCOLS = (0, 1, 6, 17, 58, 262)

# Files that run as their owner would be a present to every other user of the host: S_ISUID | S_ISGID.
_SET_ID = 0o6000
# name, numbers, index of the mode argument, index of the flags argument (the mode counts with O_CREAT or O_TMPFILE)
_MODES = (
    ("chmod", 90, -1, 1, None),
    ("fchmod", 91, 52, 1, None),
    ("fchmodat", 268, 53, 2, None),
    ("fchmodat2", 452, 452, 2, None),
    ("creat", 85, -1, 1, None),
    ("mknod", 133, -1, 1, None),
    ("mknodat", 259, 33, 2, None),
    ("open", 2, -1, 2, 1),
    ("openat", 257, 56, 3, 2),
)
_O_CREATES = 0o100 | 0o20000000

_Instruction = tuple[int, int, int, int]


def program(machine: str, *, hide_peers: bool = False) -> bytes:
    """The filter for ``machine`` (``uname -m``) as an array of ``struct sock_filter``; ``SandboxError`` otherwise.

    ``hide_peers``: the program cannot learn who is at the other end of a unix socket.
    """
    if machine not in _MACHINES:
        raise SandboxError(
            f"there is no system call filter for {machine!a}", hint=f"it exists for {' and '.join(_MACHINES)}"
        )
    column = list(_MACHINES).index(machine)
    code = [_load(_ARCH), (_JEQ, 1, 0, _MACHINES[machine]), _ret(_KILL), _load(_NR)]
    if machine == "x86_64":
        code += [(_JGE, 0, 1, _X32_BIT), _errno(_ENOSYS)]
    code += [(_JGT, 0, 1, _LAST_KNOWN), _errno(_ENOSYS)]
    for _, *numbers, errno in _DENIED:
        code += _when(numbers[column], [_errno(errno)])
    for _, *numbers, flags in _CLONE:
        code += _when(numbers[column], [_arg(0), (_JSET, 0, 1, flags), _errno(_EPERM), _ret(_ALLOW)])
    code += _when(_IOCTL[column], [_arg(1), *_unless(_IOCTL_DENIED, _ALLOW, _EPERM)])
    code += _when(_PERSONALITY[column], [_arg(0), *_only(_PERSONALITIES, _EPERM)])
    code += _when(_SOCKETPAIR[column], [_arg(0), *_only((_AF_UNIX,), _EAFNOSUPPORT)])
    code += _when(_SOCKET[column], _socket())
    for _, x86, arm, mode, flags_at in _MODES:
        code += _when((x86, arm)[column], _mode(mode, flags_at))
    if hide_peers:
        code += _when(_GETSOCKOPT[column], [_arg(2), *_unless(_PEER_OPTIONS, _ALLOW, _EPERM)])
    code.append(_ret(_ALLOW))
    return b"".join(struct.pack("=HBBI", op, jt, jf, k) for op, jt, jf, k in code)


def _load(offset: int) -> _Instruction:
    return (_LD, 0, 0, offset)


def _arg(index: int) -> _Instruction:
    """Load the low half: the kernel reads these arguments as 32 bits, so the high half must not count either."""
    return _load(_ARGS + 8 * index)


def _ret(action: int) -> _Instruction:
    return (_RET, 0, 0, action)


def _errno(number: int) -> _Instruction:
    return _ret(_ERRNO | number)


def _when(number: int, body: list[_Instruction]) -> list[_Instruction]:
    """``body``, which always returns, for one system call; the number stays loaded for what follows."""
    return [(_JEQ, 0, len(body), number), *body] if number >= 0 else []


def _only(allowed: tuple[int, ...], errno: int) -> list[_Instruction]:
    return [step for value in allowed for step in ((_JEQ, 0, 1, value), _ret(_ALLOW))] + [_errno(errno)]


def _unless(denied: tuple[int, ...], otherwise: int, errno: int) -> list[_Instruction]:
    return [step for value in denied for step in ((_JEQ, 0, 1, value), _errno(errno))] + [_ret(otherwise)]


def _socket() -> list[_Instruction]:
    """AF_UNIX; AF_INET and AF_INET6 with the usual protocols. Without AF_NETLINK no program can list interfaces, but
    all resolve and connect."""
    protocol = [_arg(2), *_only(_INET_PROTOCOLS, _EPROTONOSUPPORT)]
    return [
        _arg(0),
        (_JEQ, 0, 1, _AF_UNIX),
        _ret(_ALLOW),
        (_JEQ, 2, 0, _AF_INET),
        (_JEQ, 1, 0, _AF_INET6),
        _errno(_EAFNOSUPPORT),
        *protocol,
    ]


def _mode(mode: int, flags: int | None) -> list[_Instruction]:
    creates = [] if flags is None else [_arg(flags), (_JSET, 1, 0, _O_CREATES), _ret(_ALLOW)]
    return [*creates, _arg(mode), (_JSET, 0, 1, _SET_ID), _errno(_EPERM), _ret(_ALLOW)]
