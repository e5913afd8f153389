"""What is looked at on a host, on folders made for it."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from leasehold.node.sandbox import system
from leasehold.node.sandbox.system import git_user, look, settings_in


def test_look_at_this_host() -> None:
    host = look({"HOME": "/root", "PATH": os.environ["PATH"]})
    assert host.uid == os.getuid()
    assert host.python.startswith("/") and Path(host.package, "inside", "session.py").exists()
    assert "/etc/shadow" not in host.etc_files
    assert all(Path(path).exists() for path in (*host.etc_files, *host.etc_folders, *host.tools))
    assert not any(stat.S_ISLNK(os.lstat(path).st_mode) for path in host.etc_files)
    assert "/proc/keys" in host.proc_files or not Path("/proc/keys").exists()


def test_root_masks_what_it_could_write_or_only_it_may_read() -> None:
    masked = set(system._proc(0)[0])
    for path in Path("/proc").iterdir():
        mode = path.lstat().st_mode
        if stat.S_ISREG(mode) and path.name != "sysrq-trigger":
            assert (str(path) in masked) == bool(mode & 0o222 or not mode & 0o004 or path.name in ("keys", "key-users"))
    files, folders = system._proc(1000)
    assert set(files) <= {"/proc/keys", "/proc/key-users"} and set(folders) <= {"/proc/pressure"}


@pytest.mark.parametrize("home", ["/", "/usr/sbin", "/proc", "/dev/shm/x", "/nonexistent", "/run/user/1"])
def test_homes_that_cannot_be_laid_over(home: str) -> None:
    assert not system._can_be_home(home)
    assert look({"HOME": home, "PATH": ""}).home.startswith("/home/")


def test_home_is_the_real_path(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    host = look({"HOME": str(tmp_path / "link"), "PATH": ""})
    assert host.home == host.homes[0] == str(tmp_path / "real")
    assert len(host.homes) == 2


def test_tools(tmp_path: Path) -> None:
    home = tmp_path / "home"
    for folder in (
        ".cargo/bin",
        ".nvm/versions/node/v1/bin",
        ".config/tool/bin",
        ".aws/bin",
        "own/bin",
        ".local/share/uv/python",
        ".local/share/uv/credentials",
    ):
        (home / folder).mkdir(parents=True)
    (home / "go").mkdir()
    (home / "go/bin").symlink_to(home / ".aws")
    path = [
        f"{home}/{name}" for name in (".nvm/versions/node/v1/bin", ".aws/bin", "own/bin", "own/../.aws/bin", "gone")
    ]
    found = system._tools(str(home), (str(home),), ":".join([*path, "/usr/bin", "", ".", str(home)]))
    shown = [folder.removeprefix(f"{home}/") for folder in found]
    assert shown == [".local/share/uv/python", ".nvm", ".cargo/bin", "own/bin"]


def test_settings_of_package_tools_are_found(tmp_path: Path) -> None:
    for name in ("versions/node/v1/etc/npmrc", "etc/npmrc", ".condarc", "versions/node/v1/other"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("token")
    found = {path.removeprefix(f"{tmp_path}/") for path in settings_in([str(tmp_path), "/nonexistent"])}
    assert found == {"versions/node/v1/etc/npmrc", "etc/npmrc", ".condarc"}


def test_java_stores_are_found_after_links(tmp_path: Path) -> None:
    store = tmp_path / "java/lib/security/cacerts"
    store.parent.mkdir(parents=True)
    (tmp_path / "real").write_text("")
    store.symlink_to(tmp_path / "real")
    assert str(tmp_path / "real") in system._java_stores(f"{tmp_path}/java")
    assert system._java_stores("relative") == system._java_stores("")


def test_a_group_without_a_name() -> None:
    assert system._group(0) == "root"
    assert system._group(4_000_000_000) == "users"


def test_git_user() -> None:
    text = """
    # a comment
    [user]
        name = "Ann  \\"B" ; c
        email = ann@work.test # mine
        signingkey = CANARY
    [http "https://x"]
        extraheader = CANARY
    [user "other"]
        name = wrong
    """
    assert git_user(text) == {"name": "Ann  B", "email": "ann@work.test"}
    assert "CANARY" not in str(git_user(text))


@pytest.mark.parametrize(
    ("line", "name"),
    [
        ("name = Ann", "Ann"),
        ("NAME=Ann", "Ann"),
        ('name = "Ann # B"', "Ann # B"),
        ("name = Ann ; comment", "Ann"),
        ("name = A\x1b]0;x\x07nn", "A]0;xnn"),
        ('name = A"\\nn', "Ann"),
    ],
)
def test_git_values(line: str, name: str) -> None:
    assert git_user(f"[User]\n{line}\n")["name"] == name


def test_git_user_is_read_from_both_files(tmp_path: Path) -> None:
    assert system._git_user(str(tmp_path)) == ()
    (tmp_path / ".config/git").mkdir(parents=True)
    (tmp_path / ".config/git/config").write_text("[user]\nname = Old\nemail = a@b\n")
    (tmp_path / ".gitconfig").write_text("[user]\nname = New\n[include]\npath = CANARY\n")
    assert dict(system._git_user(str(tmp_path))) == {"name": "New", "email": "a@b"}
