"""Masks of git folders, and git folders that lie elsewhere; with folders that real git made."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from leasehold.core.errors import SandboxError
from leasehold.node.sandbox import gitfolders
from leasehold.node.sandbox.beneath import Folder
from leasehold.node.sandbox.gitfolders import git_masks, nested, outside, pointer

ENVIRONMENT = {
    "PATH": os.environ["PATH"], "HOME": "/nonexistent", "GIT_CONFIG_NOSYSTEM": "1", "GIT_AUTHOR_NAME": "A",
    "GIT_AUTHOR_EMAIL": "a@example.test", "GIT_COMMITTER_NAME": "A", "GIT_COMMITTER_EMAIL": "a@example.test",
    "GIT_ALLOW_PROTOCOL": "file",
}  # fmt: skip


def git(folder: Path, *arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=folder, env=ENVIRONMENT, check=True, capture_output=True, text=True)
    return done.stdout


def repository(path: Path) -> Path:
    path.mkdir(parents=True)
    git(path, "init", "-q")
    git(path, "commit", "-q", "--allow-empty", "-m", "x")
    return path


def masks(root: Path, path: str = ".git") -> dict[str, tuple[str, bytes, bool]]:
    with Folder(str(root)) as folder:
        return {mask.path: (mask.kind, mask.content, mask.absent) for mask in git_masks(folder, path)}


def test_a_usual_repository(tmp_path: Path) -> None:
    assert masks(repository(tmp_path / "r")) == {
        ".git": ("rw-bind", b"", False),
        ".git/hooks": ("ro-bind", b"", False),
        ".git/config": ("ro-bind", b"", False),
        ".git/config.worktree": ("ro-data", b"", True),
        ".git/commondir": ("ro-data", b".\n", True),
        ".git/info": ("rw-bind", b"", False),
        ".git/info/attributes": ("ro-data", b"", True),
    }


def test_git_works_with_a_commondir_that_says_here(tmp_path: Path) -> None:
    """The mount point that keeps an agent from making one does not disturb the git of people."""
    root = repository(tmp_path / "r")
    (root / ".git" / "commondir").write_bytes(gitfolders.HERE)
    (root / "f").write_text("1")
    git(root, "add", "f")
    git(root, "commit", "-q", "-m", "f")
    git(root, "worktree", "add", "-q", "../w")
    assert "w" in git(root, "worktree", "list")
    git(root, "stash", "list")
    git(root, "gc", "-q")
    git(root, "branch", "b")
    git(root, "checkout", "-q", "b")
    git(root, "config", "a.b", "c")
    git(root, "fsck")
    git(tmp_path, "clone", "-q", "r", "clone")
    assert git(root, "status", "--porcelain") == "" and git(root, "rev-parse", "--is-bare-repository") == "false\n"


def test_a_repository_that_lacks_everything(tmp_path: Path) -> None:
    (tmp_path / ".git").mkdir()
    found = masks(tmp_path)
    assert {path for path, (_, _, absent) in found.items() if absent} == {*found} - {".git"}
    assert found[".git/hooks"][0] == "empty-dir" and found[".git/info"] == ("rw-bind", b"", True)


def test_secrets_in_the_configuration_are_not_shown(tmp_path: Path) -> None:
    root = repository(tmp_path / "r")
    git(root, "config", "remote.origin.url", "https://me:hunter2@host/x")
    kind, content, _ = masks(root)[".git/config"]
    assert kind == "ro-data" and b"hunter2" not in content and b"https://host/x" in content


@pytest.mark.parametrize("content", [b"[core\n", b"[a]\nb = " + b"x" * gitfolders.CONFIG_BYTES_MAX])
def test_a_configuration_that_cannot_be_read_is_not_shown(tmp_path: Path, content: bytes) -> None:
    root = repository(tmp_path / "r")
    (root / ".git" / "config").write_bytes(content)
    assert masks(root)[".git/config"] == ("ro-data", b"", False)


def test_links_are_watched(tmp_path: Path) -> None:
    root = repository(tmp_path / "r")
    (root / ".git" / "config").rename(root / "elsewhere")
    (root / ".git" / "config").symlink_to("../elsewhere")
    assert masks(root)[".git/config"][0] == "watch"


def test_the_rest_of_a_rebase_is_watched(tmp_path: Path) -> None:
    """git has to write it, and would execute what stands in it."""
    root = repository(tmp_path / "r")
    assert f".git/{gitfolders.REBASE_STEPS}" not in masks(root)
    (root / ".git" / "rebase-merge").mkdir()
    (root / ".git" / gitfolders.REBASE_STEPS).write_text("exec make\n")
    assert masks(root)[f".git/{gitfolders.REBASE_STEPS}"] == ("watch", b"", False)


def test_working_trees_and_submodules(tmp_path: Path) -> None:
    root = repository(tmp_path / "r")
    git(root, "worktree", "add", "-q", "w")
    repository(tmp_path / "lib")
    git(root, "-c", "protocol.file.allow=always", "submodule", "add", "-q", str(tmp_path / "lib"), "third/lib")
    (root / ".git" / "modules" / "empty").mkdir()
    found = masks(root)
    for path in (".git/worktrees", ".git/worktrees/w", ".git/modules", ".git/modules/third", ".git/modules/third/lib"):
        assert found[path][0] == "rw-bind"
    assert found[".git/worktrees/w/commondir"][0] == found[".git/worktrees/w/gitdir"][0] == "ro-bind"
    assert found[".git/modules/third/lib/hooks"][0] == found[".git/modules/third/lib/config"][0] == "ro-bind"
    with Folder(str(root)) as folder:
        assert sorted(nested(folder, ".git")) == [".git/modules/third/lib", ".git/worktrees/w"]
    with Folder(str(root / ".git")) as folder:
        assert sorted(nested(folder, "")) == ["modules/third/lib", "worktrees/w"]


def test_what_is_nested_without_end_is_an_error(tmp_path: Path) -> None:
    (tmp_path / ".git" / "modules" / "/".join("abcdefghijkl") / "x").mkdir(parents=True)
    with pytest.raises(SandboxError, match="too deep"):
        masks(tmp_path)
    with Folder(str(tmp_path)) as folder:
        assert not list(nested(folder, ".git"))


def test_the_workspace_itself_may_be_a_git_folder(tmp_path: Path) -> None:
    git(tmp_path, "init", "-q", "--bare", ".")
    found = masks(tmp_path, "")
    assert found["hooks"][0] == found["config"][0] == "ro-bind" and "" not in found


@pytest.mark.parametrize(
    ("content", "named"),
    [(b"gitdir: ../x\n", "../x"), (b"gitdir:/x", "/x"), (b"x", None), (None, None), (b"gitdir:\n", None),
     (b"gitdir: " + b"x" * 5000, None)],
)  # fmt: skip
def test_pointer(content: bytes | None, named: str | None) -> None:
    assert pointer(content) == named


def elsewhere(root: Path) -> str | None:
    with Folder(str(root)) as folder:
        return outside(folder)


def test_a_linked_working_tree_belongs_to_its_repository(tmp_path: Path) -> None:
    root = repository(tmp_path / "main")
    git(root, "worktree", "add", "-q", "../w")
    assert elsewhere(tmp_path / "w") == f"{root}/.git"
    with Folder(f"{root}/.git") as folder:
        found = [mask.path for mask in git_masks(folder, "", prefix=f"{root}/.git/")]
    assert found[0] == f"{root}/.git" and f"{root}/.git/worktrees/w/commondir" in found


def test_a_submodule_belongs_to_its_repository(tmp_path: Path) -> None:
    root = repository(tmp_path / "main")
    repository(tmp_path / "lib")
    git(root, "-c", "protocol.file.allow=always", "submodule", "add", "-q", str(tmp_path / "lib"), "lib")
    assert elsewhere(root / "lib") == f"{root}/.git/modules/lib"


def test_no_git_folder_elsewhere(tmp_path: Path) -> None:
    root = repository(tmp_path / "main")
    assert elsewhere(root) is None
    (tmp_path / "w").mkdir()
    (tmp_path / "w" / ".git").write_text("gitdir: ../gone\n")
    assert elsewhere(tmp_path / "w") is None
    (root / "sub").mkdir()
    (root / "sub" / ".git").write_text("gitdir: ../.git\n")
    (root / ".git").rename(root / "git")
    (root / ".git").write_text("gitdir: git\n")
    assert elsewhere(root) is None


@pytest.mark.parametrize("how", ["a repository", "a working tree of another", "a folder", "no commondir", "odd place"])
def test_a_folder_that_does_not_refer_back_is_refused(tmp_path: Path, how: str) -> None:
    """An agent can write a `.git` file that names anything."""
    root = repository(tmp_path / "main")
    git(root, "worktree", "add", "-q", "../w")
    (tmp_path / "evil").mkdir()
    (tmp_path / "any").mkdir()
    tree = root / ".git" / "worktrees" / "w"
    target = {"a repository": root / ".git", "a folder": tmp_path / "any"}.get(how, tree)
    if how == "no commondir":
        (tree / "gitdir").write_text(f"{tmp_path}/evil/.git\n")
        (tree / "commondir").unlink()
    if how == "odd place":
        tree.rename(tmp_path / "any" / "w")
        target = tmp_path / "any" / "w"
        (target / "gitdir").write_text(f"{tmp_path}/evil/.git\n")
    (tmp_path / "evil" / ".git").write_text(f"gitdir: {target}\n")
    with pytest.raises(SandboxError, match="does not refer back"):
        elsewhere(tmp_path / "evil")


def test_a_submodule_of_another_working_tree_is_refused(tmp_path: Path) -> None:
    root = repository(tmp_path / "main")
    git(root, "config", "core.worktree", "../../other")
    (tmp_path / "evil").mkdir()
    (tmp_path / "evil" / ".git").write_text(f"gitdir: {root}/.git\n")
    with pytest.raises(SandboxError, match="does not refer back"):
        elsewhere(tmp_path / "evil")
