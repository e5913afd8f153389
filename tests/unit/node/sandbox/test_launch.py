"""bubblewrap's arguments, and the helpers that open what they name."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from leasehold.core.errors import SandboxError
from leasehold.node.sandbox import kernel
from leasehold.node.sandbox.launch import arguments
from leasehold.node.sandbox.plan import Effect


def test_arguments() -> None:
    effects = [
        Effect(op="ro-bind", dest="/usr", source="/usr"),
        Effect(op="symlink", dest="/bin", source="usr/bin"),
        Effect(op="copy", dest="/etc/services", source="/etc/services", mode="0444"),
        Effect(op="file", dest="/etc/passwd", content=b"x", mode="0444"),
        Effect(op="data", dest="/h/x", content=b"y", mode="0600"),
        Effect(op="ro-data", dest="/h/y", content=b"z"),
        Effect(op="bind-fd", dest="/w", source="/srv"),
        Effect(op="ro-bind-fd", dest="/w/.git", source="/srv/.git"),
        Effect(op="tmpfs", dest="/tmp", mode="1777"),
        Effect(op="remount-ro", dest="/"),
    ]
    opened: list[str] = []
    given: list[Effect] = []

    def opener(path: str) -> int:
        opened.append(path)
        return 50 + len(opened)

    def data(effect: Effect) -> int:
        given.append(effect)
        return 70 + len(given)

    argv, kept = arguments(effects, opener, data)
    assert " ".join(argv) == (
        "--ro-bind /usr /usr --symlink usr/bin /bin --perms 0444 --file 71 /etc/services "
        "--perms 0444 --file 72 /etc/passwd --perms 0600 --bind-data 73 /h/x --ro-bind-data 74 /h/y "
        "--bind-fd 51 /w --ro-bind-fd 52 /w/.git --perms 1777 --tmpfs /tmp --remount-ro /"
    )
    assert kept == [71, 72, 73, 74, 51, 52]
    assert opened == ["/srv", "/srv/.git"] and given == effects[2:6]


@pytest.fixture
def opener(tmp_path: Path) -> kernel.Opener:
    (tmp_path / "a/b").mkdir(parents=True)
    (tmp_path / "a/file").write_text("x")
    (tmp_path / "a/link").symlink_to("b")
    (tmp_path / "alias").symlink_to("a")
    return kernel.Opener()


def test_opener(opener: kernel.Opener, tmp_path: Path) -> None:
    folder, file = opener.open(f"{tmp_path}/a/b"), opener.open(f"{tmp_path}/a/file")
    assert os.path.samestat(os.fstat(folder), (tmp_path / "a/b").stat())
    assert os.path.samestat(os.fstat(file), (tmp_path / "a/file").stat())
    assert opener.open(f"{tmp_path}/a/b") == folder
    assert not os.get_inheritable(folder)
    opener.close()
    with pytest.raises(OSError, match="Bad file"):
        os.fstat(folder)


@pytest.mark.parametrize("path", ["a/link", "alias", "alias/b", "a/link/x", "gone", "a/file/x"])
def test_opener_follows_no_link(opener: kernel.Opener, tmp_path: Path, path: str) -> None:
    with pytest.raises(SandboxError, match="cannot be shown"):
        opener.open(f"{tmp_path}/{path}")
    opener.close()


def test_a_component_swapped_after_it_was_opened_changes_nothing(opener: kernel.Opener, tmp_path: Path) -> None:
    inode = (tmp_path / "a/b").stat().st_ino
    opener.open(f"{tmp_path}/a")
    (tmp_path / "a").rename(tmp_path / "moved")
    (tmp_path / "a").symlink_to("/etc")
    assert os.fstat(opener.open(f"{tmp_path}/a/b")).st_ino == inode
    opener.close()


def test_memory_file() -> None:
    fd = kernel.memory_file(b"x" * 200_000)
    assert len(os.read(fd, 300_000)) == 200_000
    os.close(fd)


def test_processes() -> None:
    status = kernel.status_of(os.getpid())
    assert status["Pid"] == str(os.getpid()) and "CapEff" in status
    assert kernel.status_of(2**22 + 1) == {}
    assert kernel.child_of(2**22 + 1) == 0
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(write)
        os.read(read, 1)
        os._exit(0)
    assert kernel.child_of(os.getpid()) > 0
    assert kernel.child_of(pid) == 0
    os.close(write)
    os.waitpid(pid, 0)
    os.close(read)
    name = Path("/proc/self/comm").read_text().strip()
    assert kernel.is_running(os.getpid(), name) and not kernel.is_running(os.getpid(), "other")
