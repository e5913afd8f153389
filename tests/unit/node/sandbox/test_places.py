"""Which folders may be shown, judged by the places of credentials around them."""

from __future__ import annotations

import pytest

from leasehold.node.sandbox.places import conflicts, within

HOMES = ("/home/ann", "/root")


@pytest.mark.parametrize(
    ("path", "place"),
    [
        ("/", "/etc/ssh"),
        ("/etc", "/etc/ssh"),
        ("/etc/ssh/keys", "/etc/ssh"),
        ("/home/ann/.config", "/home/ann/.config/sops"),
        ("/home/ann/.aws", "/home/ann/.aws"),
        ("/home/ann/.ssh/keys", "/home/ann/.ssh"),
        ("/root/.local/share", "/root/.local/share/pki"),
        ("/home/ann", "/home/ann/.ssh"),
        ("/home", "/home/ann/.ssh"),
        ("/run/user/1000", "/run"),
        ("/tmp", "/tmp/.X11-unix"),
        ("/var", "/var/lib/systemd"),
    ],
)
def test_places_are_not_shown(path: str, place: str) -> None:
    assert conflicts(path, HOMES) == place


@pytest.mark.parametrize(
    "path",
    [
        "/home/ann/project",
        "/home/ann/.cargo/bin",
        "/srv/x",
        "/tmp/x",
        "/home/ann/.awsome",
        "/opt/tools",
        "/usr",
    ],
)
def test_ordinary_folders_are(path: str) -> None:
    assert conflicts(path, HOMES) is None


def test_a_home_that_is_above_no_place_counts_as_well() -> None:
    assert conflicts("/", ["/"]) == "/etc/ssh"
    assert conflicts("/x/home", ["/x/home"]) == "/x/home/.ssh"


def test_within() -> None:
    assert within("/a/b", "/a") and within("/a", "/a") and within("/a", "/")
    assert not within("/ab", "/a") and not within("/a", "/a/b")
