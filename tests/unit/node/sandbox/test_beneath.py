"""Nothing that is read below a folder is reached through a link."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from leasehold.node.sandbox.beneath import Folder


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    (tmp_path / "ws" / "a" / "b").mkdir(parents=True)
    (tmp_path / "ws" / "a" / "b" / "file").write_text("content")
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "file").write_text("secret")
    (tmp_path / "ws" / "out").symlink_to("../outside")
    (tmp_path / "ws" / "in").symlink_to("a/b")
    return tmp_path / "ws"


def test_reads_below(tree: Path) -> None:
    with Folder(str(tree)) as folder:
        assert folder.read("a/b/file", 100) == b"content"
        assert folder.read("a/b/file", 3) == b"con"
        assert folder.names("a") == ["b"] and folder.names("") == ["a", "in", "out"]
        status = folder.status("a/b/file")
        assert status is not None and status.st_size == 7
        assert folder.status("") is not None


def test_follows_no_link(tree: Path) -> None:
    with Folder(str(tree)) as folder:
        assert folder.read("out/file", 100) is None and folder.read("in/file", 100) is None
        assert folder.names("out") == [] and folder.names("in") == []
        assert folder.status("out/file") is None
        assert folder.read("out", 100) is None
        assert folder.link("out") == "../outside" and folder.link("a") is None and folder.link("none/x") is None


def test_a_folder_reached_through_a_link_is_none(tree: Path) -> None:
    with pytest.raises(OSError, match="out"):
        Folder(f"{tree}/out")
    with pytest.raises(OSError, match="in"):
        Folder(f"{tree}/in/..")


def test_a_pipe_does_not_make_it_wait(tree: Path) -> None:
    os.mkfifo(tree / "pipe")
    with Folder(str(tree)) as folder:
        assert folder.read("pipe", 100) is None


def test_close_can_be_done_twice(tree: Path) -> None:
    folder = Folder(str(tree))
    folder.close()
    folder.close()


@pytest.mark.parametrize(
    ("link", "target", "resolved"),
    [
        ("l", "a/b/file", "a/b/file"),
        ("l", "./a//b/../b/file", "a/b/file"),
        ("a/l", "../a/b", "a/b"),
        ("l", "in/file", "a/b/file"),
        ("l", "@/a/b", "a/b"),
        ("l", "@", ""),
        ("l", "../outside/file", None),
        ("l", "/etc/passwd", None),
        ("l", "@x/file", None),
        ("l", "nothing", None),
        ("l", "l", None),
        ("a/l", "../..", None),
    ],
)
def test_resolves_links_that_stay_inside(tree: Path, link: str, target: str, resolved: str | None) -> None:
    (tree / link).symlink_to(target.replace("@", str(tree)))
    with Folder(str(tree)) as folder:
        assert folder.resolve(link) == resolved


def test_what_is_no_link_resolves_to_itself(tree: Path) -> None:
    with Folder(str(tree)) as folder:
        assert folder.resolve("a/b/file") == "a/b/file" and folder.resolve("a/none") is None
