"""The masks of a workspace."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from leasehold.core.errors import ConfigError, SandboxError
from leasehold.node.sandbox import gitfolders, protected, runnable
from leasehold.node.sandbox.beneath import Folder
from leasehold.node.sandbox.protected import Mask, describe, workspace_masks

SECRET = "hunter2-4711-very-secret"


def make(root: Path, *paths: str, text: str = "x") -> None:
    for path in paths:
        place = root / path
        if path.endswith("/"):
            place.mkdir(parents=True, exist_ok=True)
        else:
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_text(text)


def masks(root: Path, **settings: tuple[str, ...]) -> dict[str, Mask]:
    found = workspace_masks(str(root), lambda prefix: f"{prefix}CANARY", **settings)
    assert len({mask.path for mask in found}) == len(found)
    return {mask.path: mask for mask in found}


def kinds(root: Path, **settings: tuple[str, ...]) -> dict[str, str]:
    """Of what exists."""
    return {path: mask.kind for path, mask in masks(root, **settings).items() if not mask.absent}


def test_an_empty_workspace(tmp_path: Path) -> None:
    found = masks(tmp_path)
    assert {*found} == {*runnable.ABSENT}
    assert all(mask.absent and mask.kind == "empty-dir" for mask in found.values())


def test_what_runs_later_is_read_only(tmp_path: Path) -> None:
    make(tmp_path, ".vscode/", ".envrc", "a/.idea/", "a/.pre-commit-config.yaml", "x.code-workspace", "src/a.py")
    found = masks(tmp_path)
    assert kinds(tmp_path) == {
        ".vscode": "ro-bind", ".envrc": "ro-data", "a/.idea": "ro-bind", "a/.pre-commit-config.yaml": "ro-bind",
        "x.code-workspace": "ro-bind",
    }  # fmt: skip
    assert found[".envrc"].why == "runs" and ".envrc" not in describe(found.values())


def test_outer_before_inner(tmp_path: Path) -> None:
    make(tmp_path, ".git/modules/a/HEAD", ".git/hooks/", "b/.git/", "b/.env")
    paths = [*masks(tmp_path)]
    assert paths.index(".git") < paths.index(".git/modules") < paths.index(".git/modules/a")
    assert paths.index(".git/modules/a") < paths.index(".git/modules/a/hooks")
    assert paths.index("b/.git") < paths.index("b/.git/config")


def test_secrets_are_shown_as_placeholders(tmp_path: Path) -> None:
    make(tmp_path, ".env", "a/.npmrc", "a/settings.py", text=f"API_TOKEN={SECRET}\n")
    make(tmp_path, "server.key", ".env.example", "public.pem")
    make(tmp_path, ".vscode/mcp.json", text=f'{{"env": {{"TOKEN": "{SECRET}"}}}}')
    found = masks(tmp_path)
    assert b"API_TOKEN=CANARY" in found[".env"].content and b"API_TOKEN=CANARY" in found["a/.npmrc"].content
    assert b"CANARY" in found[".vscode/mcp.json"].content and found[".vscode"].kind == "ro-bind"
    assert not any(SECRET.encode() in mask.content for mask in found.values())
    assert found["server.key"].kind == "ro-data"
    assert not {"a/settings.py", ".env.example", "public.pem"} & {*found}
    assert describe(found.values()) == [".env", ".vscode/mcp.json", "a/.npmrc", "server.key"]


def test_folders_of_secrets_and_what_cannot_be_looked_into_are_hidden(tmp_path: Path) -> None:
    make(tmp_path, ".ssh/id", "a/.secrets/b/.env")
    os.mkfifo(tmp_path / "pipe")
    assert kinds(tmp_path) == {".ssh": "empty-dir", "a/.secrets": "empty-dir", "pipe": "ro-data"}


def test_links(tmp_path: Path) -> None:
    make(tmp_path, "conf/real.txt", text=f"A={SECRET}\n")
    make(tmp_path, "shared/tasks.json", "scripts/hook.sh", ".claude/", ".git/hooks/")
    (tmp_path / ".env").symlink_to("conf/real.txt")
    (tmp_path / ".env.local").symlink_to("/etc/passwd")
    (tmp_path / ".env.dir").symlink_to("conf")
    (tmp_path / ".vscode").symlink_to("shared")
    (tmp_path / ".idea").symlink_to("/elsewhere")
    (tmp_path / ".zed").symlink_to(".")
    (tmp_path / ".claude" / "up").symlink_to("..")
    (tmp_path / ".claude" / "hook").symlink_to("../scripts/hook.sh")
    (tmp_path / ".git" / "hooks" / "pre-commit").symlink_to("../../scripts/hook.sh")
    (tmp_path / ".git" / "hooks" / "gone").symlink_to("nothing")
    (tmp_path / "node_modules").symlink_to("shared")
    found = kinds(tmp_path)
    assert found["conf/real.txt"] == "ro-data" and ".env" not in found and ".env.local" not in found
    assert found["shared"] == "ro-bind" and found["scripts/hook.sh"] == "ro-bind"
    assert [found[path] for path in (".vscode", ".idea", ".zed", "node_modules")] == ["watch"] * 4
    assert "" not in found and "conf" not in found


def test_hard_links(tmp_path: Path) -> None:
    make(tmp_path, ".env", text=f"A={SECRET}\n")
    make(
        tmp_path,
        "scripts/a.sh",
        "scripts/b.sh",
        "c.json",
        "d.sh",
        ".git/hooks/",
        ".claude/",
        ".vscode/",
        ".git/objects/",
    )
    os.link(tmp_path / ".env", tmp_path / "notes.txt")
    os.link(tmp_path / "scripts/a.sh", tmp_path / ".git/hooks/pre-commit")
    os.link(tmp_path / "scripts/b.sh", tmp_path / ".claude/b.sh")
    os.link(tmp_path / "c.json", tmp_path / ".mcp.json")
    os.link(tmp_path / "d.sh", tmp_path / ".git/objects/d")
    found = masks(tmp_path)
    assert found["notes.txt"].content == found[".env"].content and SECRET.encode() not in found["notes.txt"].content
    assert found["scripts/a.sh"].kind == found["scripts/b.sh"].kind == found["c.json"].kind == "ro-bind"
    assert "d.sh" not in found


def test_repositories_through_links_and_files(tmp_path: Path) -> None:
    make(tmp_path, "real/HEAD", "real/objects/", "real/refs/", "real/config", text="")
    make(tmp_path, "sub/.git", text="gitdir: ../real\n")
    (tmp_path / ".git").symlink_to("real")
    found = kinds(tmp_path)
    assert found[".git"] == "watch" and found["real"] == "rw-bind" and found["real/config"] == "ro-bind"
    assert found["sub/.git"] == "ro-bind"


def test_git_items_that_are_links(tmp_path: Path) -> None:
    make(tmp_path, "hooks/pre-commit", "config", ".git/HEAD")
    (tmp_path / ".git" / "hooks").symlink_to("../hooks")
    (tmp_path / ".git" / "config").symlink_to("../config")
    found = kinds(tmp_path)
    assert found[".git/hooks"] == found[".git/config"] == "watch" and found["hooks"] == found["config"] == "ro-bind"


def test_what_the_configuration_of_git_refers_to(tmp_path: Path) -> None:
    config = "[core]\n\thooksPath = tools/hooks\n[include]\n\tpath = ../team.cfg\n\tpath = ../none.cfg\n\tpath = ~/x\n"
    make(tmp_path, ".git/config", text=config)
    make(tmp_path, "team.cfg", text=f'[include]\npath = more.cfg\n[remote "o"]\nurl = https://a:{SECRET}@h/\n')
    make(
        tmp_path,
        "more.cfg",
        text="[core]\nhooksPath = absent-hooks\n[include]\npath=more.cfg\npath = /etc/x\npath = ..\n",
    )
    make(tmp_path, "tools/hooks/x", "scripts/h.sh")
    (tmp_path / "tools" / "hooks" / "pre-commit").symlink_to("../../scripts/h.sh")
    found = masks(tmp_path)
    assert found["tools/hooks"].kind == found["more.cfg"].kind == found["scripts/h.sh"].kind == "ro-bind"
    assert found["team.cfg"].kind == "ro-data" and SECRET.encode() not in found["team.cfg"].content
    assert found["none.cfg"].absent and found["absent-hooks"].kind == "empty-dir"
    assert not [path for path in found if path.startswith(("/", ".."))]


@pytest.mark.parametrize("path", [".", "..", ".git"])
def test_a_hooks_folder_that_holds_the_repository_is_left_alone(tmp_path: Path, path: str) -> None:
    make(tmp_path, ".git/config", text=f"[core]\nhooksPath = {path}\n")
    assert kinds(tmp_path)[".git"] == "rw-bind"


def test_too_many_hooks_are_an_error(tmp_path: Path) -> None:
    make(tmp_path, *(f".git/hooks/{i}" for i in range(501)))
    with pytest.raises(SandboxError, match="too many hooks"):
        masks(tmp_path)


def test_installed_packages_are_private(tmp_path: Path) -> None:
    make(tmp_path, "node_modules/a/.env", "a/venv/pyvenv.cfg", "package.json", "pyproject.toml", "b/package.json")
    found = masks(tmp_path)
    assert found["node_modules"].kind == found["a/venv"].kind == "private" and not found["node_modules"].absent
    assert found[".venv"].kind == "private" and found[".venv"].absent and "b/node_modules" not in found
    assert "node_modules/a/.env" not in found


def test_patterns(tmp_path: Path) -> None:
    make(tmp_path, "data/x", "data/.env", "a.sqlite", "deploy/run.sh", "deploy/.env", "node_modules/p/x", "l/x")
    (tmp_path / "link.sqlite").symlink_to("l/x")
    settings = {
        "hide": ("data", "*.sqlite", "node_modules/p", "not/there", "later"),
        "read_only": ("deploy/", "none", "l/x", "node_modules/p/x"),
    }
    found = masks(tmp_path, **settings)
    assert found["data"].kind == "empty-dir" and "data/.env" not in found
    assert found["a.sqlite"] == Mask(path="a.sqlite", kind="ro-data", why="hidden")
    assert found["l/x"].kind == "ro-data" and found["deploy"].kind == "ro-bind"
    assert found["deploy/.env"].kind == "ro-data"
    assert found["later"].absent and found["none"].absent and "not/there" not in found
    assert found["node_modules/p"].kind == "empty-dir" and "node_modules/p/x" not in found
    with pytest.raises(ConfigError):
        masks(tmp_path, hide=("/etc",))


def test_nothing_writable_inside_of_something_read_only(tmp_path: Path) -> None:
    make(
        tmp_path,
        ".claude/worktrees/a/.git/config",
        ".claude/node_modules/x",
        ".claude/.env",
        "src/.git/config",
        text="",
    )
    found = kinds(tmp_path, read_only=("src",))
    assert found == {".claude": "ro-bind", ".claude/.env": "ro-data", "src": "ro-bind"}


def test_prose_and_pipelines_are_only_watched(tmp_path: Path) -> None:
    make(tmp_path, "AGENTS.md", ".github/workflows/ci.yml")
    assert kinds(tmp_path) == {"AGENTS.md": "watch", ".github/workflows/ci.yml": "watch"}


def test_too_many_masks_are_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(tmp_path, *(f"d{i}/.env" for i in range(20)))
    monkeypatch.setattr(protected, "MASKS_MAX", 20 + len(runnable.ABSENT))
    assert len(masks(tmp_path)) == protected.MASKS_MAX
    make(tmp_path, "e/.env")
    with pytest.raises(SandboxError, match="more than"):
        masks(tmp_path)


def test_a_linked_working_tree_needs_its_repository(tmp_path: Path) -> None:
    main, tree = tmp_path / "main", tmp_path / "tree"
    environment = {"PATH": os.environ["PATH"], "HOME": "/nonexistent", "GIT_CONFIG_NOSYSTEM": "1"}
    identity = ["-c", "user.name=A", "-c", "user.email=a@example.test"]
    for arguments in (["init", "-q", "main"], ["-C", "main", "commit", "-q", "--allow-empty", "-m", "x"],
                      ["-C", "main", "worktree", "add", "-q", "../tree"]):  # fmt: skip
        subprocess.run(["git", *identity, *arguments], cwd=tmp_path, env=environment, check=True, capture_output=True)
    found = workspace_masks(str(tree), lambda prefix: prefix)
    assert found[0] == Mask(path=f"{main}/.git", kind="rw-bind", why="git")
    assert Mask(path=f"{main}/.git/config", kind="ro-bind", why="git") in found
    assert Mask(path=".git", kind="ro-bind", why="git") in found


def test_things_that_vanish_meanwhile_are_passed_over(tmp_path: Path) -> None:
    with Folder(str(tmp_path)) as folder:
        collected = protected._Masks(folder, lambda prefix: prefix)
        collected._guard("gone", "runs")
        collected._cover("gone", "hidden")
        collected._hooks("gone")
        assert collected.ordered() == []


def test_an_include_that_goes_round_ends(tmp_path: Path) -> None:
    make(tmp_path, ".git/config", text="[include]\npath = ../a\n")
    make(tmp_path, "a", text="[include]\npath = b\n")
    make(tmp_path, "b", text="[include]\npath = a\n")
    assert kinds(tmp_path)["b"] == "ro-bind" and gitfolders.CONFIG_BYTES_MAX
