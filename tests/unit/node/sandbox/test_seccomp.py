"""The filter, run by a small interpreter of classic BPF: what each call gets on each machine."""

from __future__ import annotations

import struct

import pytest

from leasehold.core.errors import SandboxError
from leasehold.node.sandbox import seccomp

ALLOW, KILL = "allow", "kill"
ARCHES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
COLUMN = {"x86_64": 0, "aarch64": 1}
I386 = 0x40000003
HIGH = 0xDEAD_0000_0000_0000


def decide(machine: str, number: int, *args: int, arch: int | None = None) -> str | int:
    """Run the program as the kernel does: ``allow``, ``kill`` or the errno."""
    data = struct.pack("=iIQ6Q", number, ARCHES[machine] if arch is None else arch, 0, *args, *[0] * (6 - len(args)))
    code = list(struct.iter_unpack("=HBBI", seccomp.program(machine)))
    accumulator, at = 0, 0
    while True:
        op, jt, jf, k = code[at]
        at += 1
        if op == 0x20:
            (accumulator,) = struct.unpack_from("=I", data, k)
        elif op == 0x06:
            return {0x7FFF0000: ALLOW, 0x80000000: KILL}.get(k) or k & 0xFFFF
        else:
            holds = {
                0x15: accumulator == k,
                0x25: accumulator > k,
                0x35: accumulator >= k,
                0x45: bool(accumulator & k),
            }[op]
            at += jt if holds else jf


def number(machine: str, x86: int, arm: int) -> int:
    return (x86, arm)[COLUMN[machine]]


@pytest.mark.parametrize("machine", ARCHES)
def test_ordinary_calls_are_allowed(machine: str) -> None:
    for x86, arm in ((0, 63), (1, 64), (59, 221), (9, 222), (302, 261), (434, 434), (444, 444), (317, 277)):
        assert decide(machine, number(machine, x86, arm)) == ALLOW


@pytest.mark.parametrize("machine", ARCHES)
def test_every_entry_of_the_table_is_denied(machine: str) -> None:
    for _, *numbers, errno in seccomp._DENIED:
        if numbers[COLUMN[machine]] >= 0:
            assert decide(machine, numbers[COLUMN[machine]]) == errno


@pytest.mark.parametrize(
    ("name", "x86", "arm"),
    [
        ("ptrace", 101, 117),
        ("keyctl", 250, 219),
        ("mount", 165, 40),
        ("setns", 308, 268),
        ("bpf", 321, 280),
        ("open_by_handle_at", 304, 265),
    ],
)
def test_spot_checks_of_the_table(name: str, x86: int, arm: int) -> None:
    assert decide("x86_64", x86) == decide("aarch64", arm) == 1, name


@pytest.mark.parametrize("machine", ARCHES)
def test_foreign_architectures_are_killed(machine: str) -> None:
    other = ARCHES["aarch64" if machine == "x86_64" else "x86_64"]
    assert decide(machine, 0, arch=I386) == decide(machine, 0, arch=other) == KILL


def test_x32_is_refused() -> None:
    assert decide("x86_64", 0x40000000) == decide("x86_64", 0x40000000 | 101) == 38


@pytest.mark.parametrize("machine", ARCHES)
def test_calls_that_nobody_judged_do_not_exist(machine: str) -> None:
    assert decide(machine, 469) == ALLOW
    assert decide(machine, 470) == decide(machine, 1000) == 38


@pytest.mark.parametrize("machine", ARCHES)
def test_namespaces(machine: str) -> None:
    clone, unshare = number(machine, 56, 220), number(machine, 272, 97)
    for flag in (0x20000, 0x02000000, 0x04000000, 0x08000000, 0x10000000, 0x20000000, 0x40000000):
        assert decide(machine, clone, flag | 17) == decide(machine, unshare, flag) == 1
        assert decide(machine, clone, HIGH | flag) == 1
    assert decide(machine, unshare, 0x80) == 1
    assert decide(machine, clone, 0x3D0F00) == decide(machine, clone, 0xFF) == ALLOW
    assert decide(machine, unshare, 0x600) == ALLOW


@pytest.mark.parametrize("machine", ARCHES)
def test_terminal_requests(machine: str) -> None:
    ioctl = number(machine, 16, 29)
    for request in (0x5412, 0x541C, 0x5423):
        assert decide(machine, ioctl, 0, request) == decide(machine, ioctl, 0, HIGH | request) == 1
    assert decide(machine, ioctl, 0, 0x5413) == decide(machine, ioctl, 0, 0x5401) == ALLOW


@pytest.mark.parametrize("machine", ARCHES)
def test_socket_families(machine: str) -> None:
    socket, pair = number(machine, 41, 198), number(machine, 53, 199)
    for family in (1, 2, 10):
        assert decide(machine, socket, family, 1) == decide(machine, socket, HIGH | family, 1, 0) == ALLOW
    for family in (0, 3, 5, 9, 15, 16, 17, 21, 29, 30, 31, 38, 40, 44):
        assert decide(machine, socket, family, 1) == 97
    for protocol in (0, 1, 6, 17, 58, 262):
        assert decide(machine, socket, 2, 1, protocol) == decide(machine, socket, 10, 1, protocol) == ALLOW
    for protocol in (2, 33, 41, 46, 132, 136, 255):
        assert decide(machine, socket, 2, 1, protocol) == decide(machine, socket, 10, 1, protocol) == 93
    assert decide(machine, pair, 1) == ALLOW
    assert decide(machine, pair, 2) == decide(machine, pair, 40) == 97


@pytest.mark.parametrize("machine", ARCHES)
def test_personalities(machine: str) -> None:
    personality = number(machine, 135, 92)
    for value in (0, 8, 0x20000, 0x20008, 0xFFFFFFFF):
        assert decide(machine, personality, value) == ALLOW
    for value in (0x40000, 0x400000, 0x100000, 0x8000000):
        assert decide(machine, personality, value) == 1


@pytest.mark.parametrize(
    ("machine", "number", "place"),
    [
        ("x86_64", 90, 1),
        ("x86_64", 91, 1),
        ("x86_64", 268, 2),
        ("x86_64", 452, 2),
        ("x86_64", 85, 1),
        ("x86_64", 133, 1),
        ("x86_64", 259, 2),
        ("aarch64", 52, 1),
        ("aarch64", 53, 2),
        ("aarch64", 452, 2),
        ("aarch64", 33, 2),
    ],
)
def test_no_set_id_files(machine: str, number: int, place: int) -> None:
    before = [0] * place
    for mode in (0o4755, 0o2755, 0o6000, 0o104755):
        assert decide(machine, number, *before, mode) == 1
    for mode in (0o755, 0o1777, 0o644, 0o100644):
        assert decide(machine, number, *before, mode) == ALLOW


@pytest.mark.parametrize(("machine", "number", "before"), [("x86_64", 2, 1), ("x86_64", 257, 2), ("aarch64", 56, 2)])
def test_no_set_id_files_by_open(machine: str, number: int, before: int) -> None:
    path = [0] * before
    for flags in (0o100, 0o101, 0o20200000):
        assert decide(machine, number, *path, flags, 0o4755) == 1
        assert decide(machine, number, *path, flags, 0o755) == ALLOW
    # Without O_CREAT the mode is whatever lay in the register.
    assert decide(machine, number, *path, 0o2, 0o7777) == ALLOW


def test_a_machine_without_a_filter_is_refused() -> None:
    with pytest.raises(SandboxError, match="riscv64"):
        seccomp.program("riscv64")
