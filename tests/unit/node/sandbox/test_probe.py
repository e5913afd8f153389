"""What keeps an agent from starting: every difference between the compartment and its plan."""

from __future__ import annotations

from typing import Any

import pytest

from fakes.hosts import a_host, a_request
from leasehold.node.sandbox.plan import Plan, make_plan
from leasehold.node.sandbox.probe import View, parse_mountinfo, problems

STATUS = dict.fromkeys(("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"), "0000000000000000") | {"NoNewPrivs": "1"}


def the_plan() -> Plan:
    return make_plan(a_request(), a_host(uid=0))


def as_planned(**changes: Any) -> View:
    mounts = [(path, mount.read_only) for path, mount in the_plan().mounts if mount.needed]
    given: dict[str, Any] = {"mounts": tuple(mounts), "shared": (), "places": (), "status": STATUS}
    return View(**(given | changes))


def with_mount(path: str, read_only: bool) -> View:
    return as_planned(mounts=(*as_planned().mounts, (path, read_only)))


def test_nothing_is_wrong_with_what_was_planned() -> None:
    assert problems(as_planned(), the_plan()) == []


@pytest.mark.parametrize("name", ["user", "pid", "net"])
def test_shared_namespaces(name: str) -> None:
    assert problems(as_planned(shared=(name,)), the_plan()) == [f"the {name} namespace is the host's"]


@pytest.mark.parametrize("name", ["CapEff", "CapBnd", "CapAmb"])
def test_capabilities(name: str) -> None:
    assert problems(as_planned(status=STATUS | {name: "0000000000200000"}), the_plan()) == [f"{name} is not empty"]


def test_a_process_that_says_nothing_is_wrong() -> None:
    assert len(problems(as_planned(status={}), the_plan())) == 6


def test_new_privileges() -> None:
    assert problems(as_planned(status=STATUS | {"NoNewPrivs": "0"}), the_plan()) == ["new privileges are possible"]


def test_places_of_credentials() -> None:
    seen = as_planned(places=("/home/ann/.ssh", "/home/ann/.gitconfig", "/etc/shadow"))
    assert problems(seen, the_plan()) == ["/home/ann/.ssh can be seen", "/etc/shadow can be seen"]


def test_mounts_that_are_missing() -> None:
    seen = as_planned(mounts=tuple(m for m in as_planned().mounts if m[0] != "/proc/sys"))
    assert problems(seen, the_plan()) == ["/proc/sys is not mounted"]


@pytest.mark.parametrize("path", ["/usr", "/", "/dev/null", "/proc/sys"])
def test_mounts_that_are_writable(path: str) -> None:
    assert problems(with_mount(path, False), the_plan()) == [f"{path} is writable"]


def test_mounts_that_nobody_planned() -> None:
    for path in ("/home/ann/.aws", "/etc/x", "/tmp/y", "/run/docker.sock", "/proc/z"):
        assert problems(with_mount(path, True), the_plan()) == [f"{path} is mounted"]


def test_mounts_of_the_host_below_a_folder_that_is_shown() -> None:
    assert problems(with_mount("/usr/share/more", True), the_plan()) == []
    assert problems(with_mount("/home/ann/web/volume", False), the_plan()) == []
    assert problems(with_mount("/usr/share/more", False), the_plan()) == ["/usr/share/more is writable"]


def test_the_topmost_mount_counts() -> None:
    assert problems(as_planned(mounts=(("/usr", False), *as_planned().mounts)), the_plan()) == []


def test_mountinfo() -> None:
    text = (
        "98 69 0:40 /newroot / ro,nosuid,nodev,relatime - tmpfs tmpfs rw\n"
        "99 98 254:0 /w /w\\040a\\134b rw,nosuid shared:1 - ext4 /dev/x ro\n"
    )
    assert parse_mountinfo(text) == (("/", True), ("/w a\\b", False))
