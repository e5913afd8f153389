"""Run inside a compartment by tests: looks at everything it can, and prints what it found as JSON."""

from __future__ import annotations

import ctypes
import errno
import json
import os
import resource
import socket
import stat
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

LIBC = ctypes.CDLL(None, use_errno=True)
SET_ID = 0o4755
WRITES = (
    *("/x", "/etc/x", "/usr/x", "/run/x", "/run/leasehold/x", "/dev/x", "/proc/sys/kernel/hostname"),
    *("/tmp/x", "/var/tmp/x", "/dev/shm/x", "x", f"{os.environ['HOME']}/x"),
)
X86_64 = os.uname().machine == "x86_64"


def attempt(action: Callable[[], Any]) -> str:
    """``ok``, or the name of the errno."""
    try:
        action()
    except OSError as error:
        return errno.errorcode.get(error.errno or 0, str(error))
    return "ok"


def call(x86: int, arm: int, *arguments: Any) -> str:
    """A system call by its number: ``ok``, or the name of the errno."""
    ctypes.set_errno(0)
    result = LIBC.syscall(ctypes.c_long(x86 if X86_64 else arm), *[ctypes.c_long(a) for a in arguments])
    return "ok" if result != -1 else errno.errorcode[ctypes.get_errno()]


def calls() -> dict[str, str]:
    """Denied calls, each with an allowed one next to it where there is one."""
    path = ctypes.cast(ctypes.create_string_buffer(b"/"), ctypes.c_void_p).value or 0
    own, master = os.getpid(), os.openpty()[0]
    return {
        "ptrace": call(101, 117, 16, 1, 0, 0),
        "process_vm_readv": call(310, 270, own, 0, 0, 0, 0, 0),
        "kcmp": call(312, 272, own, own, 0, 0, 0),
        "pidfd_getfd": call(438, 438, os.pidfd_open(own), 0, 0),
        "pidfd_open": call(434, 434, own, 0),
        "io_uring_setup": call(425, 425, 1, 0),
        "keyctl": call(250, 219, 0, -3, 0),
        "add_key": call(248, 217, 0, 0, 0, 0, 0),
        "request_key": call(249, 218, 0, 0, 0, 0),
        "bpf": call(321, 280, 0, 0, 0),
        "perf_event_open": call(298, 241, 0, 0, -1, -1, 0),
        "userfaultfd": call(323, 282, 0),
        "unshare-user": call(272, 97, 0x10000000),
        "unshare-net": call(272, 97, 0x40000000),
        "unshare-time": call(272, 97, 0x80),
        "unshare-files": call(272, 97, 0x400),
        "clone3": call(435, 435, 0, 0),
        "setns": call(308, 268, os.open("/proc/self/ns/net", os.O_RDONLY), 0),
        "mount": call(165, 40, path, path, 0, 4096, 0),
        "umount": call(166, 39, path, 0),
        "chroot": call(161, 51, path),
        "open_tree": call(428, 428, -100, path, 0),
        "fsopen": call(430, 430, path, 0),
        "mount_setattr": call(442, 442, -100, path, 0, 0, 0),
        "name_to_handle_at": call(303, 264, -100, path, 0, 0, 0),
        "open_by_handle_at": call(304, 265, -100, 0, 0),
        "quotactl": call(179, 60, 0, 0, 0, 0),
        "swapon": call(167, 224, path, 0),
        "reboot": call(169, 142, 0, 0, 0, 0),
        "init_module": call(175, 105, 0, 0, 0),
        "kexec_load": call(246, 104, 0, 0, 0, 0),
        "acct": call(163, 89, 0),
        "lookup_dcookie": call(212, 18, 0, 0, 0),
        "syslog": call(103, 116, 3, 0, 0),
        "personality-no-randomize": call(135, 92, 0x40000),
        "personality-query": call(135, 92, 0xFFFFFFFF),
        "tiocsti": call(16, 29, master, 0x5412, path),
        "tioclinux": call(16, 29, master, 0x541C, path),
        "tiocsti-high-bits": call(16, 29, master, 0x1_0000_5412, path),
        "tiocgwinsz": call(16, 29, master, 0x5413, ctypes.addressof(ctypes.create_string_buffer(8))),
        "getpid": call(39, 172),
        "new-call": call(499, 499),
    }


def sockets() -> dict[str, str]:
    """Families and protocols, and sockets of the host that the environment names."""
    kinds = {
        "unix": (1, 1, 0),
        "inet": (2, 1, 0),
        "inet6": (10, 1, 0),
        "udp": (2, 2, 17),
        "sctp": (2, 1, 132),
        "raw": (2, 3, 1),
        "netlink": (16, 3, 0),
        "packet": (17, 3, 0),
        "alg": (38, 5, 0),
        "vsock": (40, 1, 0),
        "bluetooth": (31, 3, 0),
        "x25": (9, 5, 0),
        "key": (15, 3, 2),
        "can": (29, 3, 1),
    }
    found = {name: attempt(partial(socket.socket, *arguments)) for name, arguments in kinds.items()}
    found["pair"] = attempt(socket.socketpair)
    for at in sys.argv[2:]:
        address = "\0" + at[1:] if at.startswith("@") else at
        found[at] = attempt(partial(socket.socket(socket.AF_UNIX).connect, address))
    return found


def writable_kernel_files() -> list[str]:
    """Files of /proc and /sys, processes left out, that can be opened for writing."""
    found = []
    tops = [path for path in Path("/proc").iterdir() if not path.name.isdigit() and "self" not in path.name]
    for top in (*tops, Path("/sys")):
        paths = [top] if not top.is_dir() else [Path(at) / name for at, _, names in os.walk(top) for name in names]
        for path in paths:
            if stat.S_ISREG(path.lstat().st_mode) and attempt(partial(os.open, path, os.O_WRONLY)) == "ok":
                found.append(str(path))
    return found


def descriptors() -> dict[str, list[str]]:
    """Of every process: what its descriptors are; ours as they were when we started."""
    found = {}
    for process in Path("/proc").iterdir():
        if process.name.isdigit():
            found[process.name] = fds_of(process)
    return found


def fds_of(process: Path) -> list[str]:
    listed = []
    for fd in sorted((process / "fd").iterdir(), key=lambda path: int(path.name)):
        try:
            listed.append(f"{fd.name}={fd.readlink()}")
        except FileNotFoundError:
            continue  # the one that lists the folder
    return listed


def search(canary: bytes) -> list[str]:
    """Every readable file, small enough, that holds ``canary``; and every file name that does."""
    found = []
    roots = ["/etc", "/home", "/root", "/run", "/tmp", "/var", "/dev/shm", "/opt", "/srv", "/mnt", os.environ["HOME"]]
    roots += ["/proc/self/root/root", "/proc/1/root/home", "/proc/self/cwd/..", "/proc/1/cwd/../.."]
    for root in roots:
        for at, _, names in os.walk(root):
            for name in names:
                path = Path(at, name)
                if canary in os.fsencode(name):
                    found.append(str(path))
                try:
                    if stat.S_ISREG(path.stat().st_mode) and canary in path.read_bytes():
                        found.append(str(path))
                except OSError:
                    continue
    for process in Path("/proc").iterdir():
        for name in ("environ", "cmdline", "mountinfo"):
            try:
                if process.name.isdigit() and canary in (process / name).read_bytes():
                    found.append(f"{process}/{name}")
            except OSError:
                continue
    return found


def said(path: str) -> int:
    """How much a file says at once; nothing when it cannot be opened."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    except OSError:
        return 0
    return len(os.read(fd, 100))


def main() -> None:
    canary = sys.argv[1][::-1].encode()  # written backwards, or the command line would hold it
    Path("mine").write_text("")
    report = {
        "descriptors": descriptors(),
        "uid": os.getuid(),
        "session": os.getsid(0),
        "environ": dict(os.environ),
        "status": dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines()),
        "core": resource.getrlimit(resource.RLIMIT_CORE),
        "calls": calls(),
        "sockets": sockets(),
        "writable": writable_kernel_files(),
        "found": search(canary),
        "dev-chmod": attempt(lambda: Path("/dev/null").chmod(SET_ID)),
        "dev-write": attempt(lambda: Path("/dev/null").write_text("x")),
        "chmod-set-id": attempt(lambda: Path("mine").chmod(SET_ID)),
        "open-set-id": attempt(lambda: os.close(os.open("mine2", os.O_CREAT | os.O_WRONLY, SET_ID))),
        "chmod": attempt(lambda: Path("mine").chmod(0o750)),
        "open": attempt(lambda: os.close(os.open("mine3", os.O_CREAT | os.O_WRONLY, 0o750))),
        "writes": {at: attempt(partial(os.open, at, os.O_CREAT | os.O_WRONLY)) for at in WRITES},
        "root": sorted(path.name for path in Path("/").iterdir()),
        "kernel": {name: said(f"/proc/{name}") for name in ("kcore", "kmsg", "timer_list", "keys")},
    }
    print(json.dumps(report))


if __name__ == "__main__":
    main()
