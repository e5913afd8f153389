"""One look at a whole workspace."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from leasehold.core.errors import SandboxError
from leasehold.node.sandbox import survey
from leasehold.node.sandbox.beneath import Folder
from leasehold.node.sandbox.patterns import compile_pattern
from leasehold.node.sandbox.survey import FOLDER, Survey, same_files


def make(root: Path, *paths: str) -> None:
    """Files, and folders where the path ends in a slash."""
    for path in paths:
        place = root / path
        if path.endswith("/"):
            place.mkdir(parents=True, exist_ok=True)
        else:
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_text("x")


def look(root: Path, **options: object) -> Survey:
    with Folder(str(root)) as folder:
        return Survey(folder, **options)  # type: ignore[arg-type]


def test_repositories(tmp_path: Path) -> None:
    make(tmp_path, ".git/HEAD", ".git/.vscode/", "sub/.GIT/", "file/.git", "bare/HEAD", "bare/objects/", "bare/refs/")
    make(tmp_path, "redirected/HEAD", "redirected/commondir", "none/objects/", "none/refs/")
    (tmp_path / "link").mkdir()
    (tmp_path / "link" / ".git").symlink_to("../.git")
    found = look(tmp_path)
    assert sorted(found.git) == [".git", "bare", "redirected", "sub/.GIT"]
    assert sorted(found.gitfiles) == ["file/.git", "link/.git"] and found.links == {"link/.git"}
    assert found.runs == []


def test_what_runs(tmp_path: Path) -> None:
    make(
        tmp_path,
        ".vscode/tasks.json",
        "a/.idea/",
        "a/b/.envrc",
        "x.code-workspace",
        "src/code.py",
        ".pre-commit-config.yaml",
    )
    make(tmp_path, ".EnvRC", ".claude/.vscode/", "leasehold.toml/")
    (tmp_path / ".zed").symlink_to("/nowhere")
    found = look(tmp_path)
    assert sorted(found.runs) == sorted(
        [".vscode", "a/.idea", "a/b/.envrc", "x.code-workspace", ".pre-commit-config.yaml", ".EnvRC", ".claude",
         "leasehold.toml", ".zed"]
    )  # fmt: skip
    assert ".zed" in found.links


def test_other_names_of_what_lies_in_such_folders(tmp_path: Path) -> None:
    make(tmp_path, ".claude/hooks/a.sh", "b.sh")
    os.link(tmp_path / "b.sh", tmp_path / ".claude" / "hooks" / "b.sh")
    (tmp_path / ".claude" / "c").symlink_to("../b.sh")
    found = look(tmp_path)
    status = (tmp_path / "b.sh").stat()
    assert found.led == [".claude/c"] and found.shared == {(status.st_dev, status.st_ino)}
    with Folder(str(tmp_path)) as folder:
        assert sorted(path for path, _ in same_files(folder, found.shared)) == [".claude/hooks/b.sh", "b.sh"]
        assert same_files(folder, {(status.st_dev + 1, status.st_ino)}) == []


def test_secrets(tmp_path: Path) -> None:
    make(
        tmp_path,
        ".env",
        "a/server.key",
        "a/config/secrets.yml",
        "a/.docker/config.json",
        "a/config.json",
        ".ssh/config",
    )
    make(tmp_path, ".vscode/settings.json", ".vscode/readme.md", "data.json", ".env.example")
    (tmp_path / ".env.local").symlink_to("a/x")
    assert sorted(look(tmp_path).secrets) == [
        (".env", "env"),
        (".env.local", "env"),
        (".ssh", FOLDER),
        (".vscode/settings.json", "text"),
        ("a/.docker/config.json", "note"),
        ("a/config/secrets.yml", "data"),
        ("a/server.key", "not-public"),
    ]


def test_what_is_no_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "sock"))
        assert sorted(look(tmp_path).special) == ["pipe", "sock"]


def test_installed_packages_are_not_looked_into_unless_asked(tmp_path: Path) -> None:
    make(tmp_path, "node_modules/a/.env", "p/node_modules/b/.vscode/", ".venv/pyvenv.cfg", ".venv/lib/x/.envrc")
    make(tmp_path, "vendor/bundle/x", "other/bundle/.envrc")
    (tmp_path / "q").mkdir()
    (tmp_path / "q" / "node_modules").symlink_to("../node_modules")
    found = look(tmp_path)
    installed = [".venv", "node_modules", "p/node_modules", "q/node_modules", "vendor/bundle"]
    assert sorted(found.installed) == installed
    assert found.runs == ["other/bundle/.envrc"] and found.secrets == [("other/bundle/.envrc", "env")]
    entered = look(tmp_path, enter=lambda path: path != "node_modules")
    assert sorted(entered.runs) == [
        ".venv/lib/x/.envrc",
        ".venv/pyvenv.cfg",
        "other/bundle/.envrc",
        "p/node_modules/b/.vscode",
    ]


def test_a_mark_makes_no_folder_a_hiding_place(tmp_path: Path) -> None:
    """Only the programs and packages of an environment with an unusual name are taken to be installed."""
    make(tmp_path, "config/pyvenv.cfg", "config/.env", "config/bin/.env", "config/lib/.env", "config/lib/python3.11/x")
    make(tmp_path, "config/lib/python3.11/.env", "config/src/lib/.env", "conda/conda-meta/", "conda/bin/python")
    found = look(tmp_path)
    assert sorted(found.installed) == ["conda/bin", "config/bin", "config/lib/python3.11"]
    assert sorted(path for path, _ in found.secrets) == [
        "config/.env",
        "config/bin/.env",
        "config/lib/.env",
        "config/src/lib/.env",
    ]
    assert sorted(found.runs) == ["conda/conda-meta", "config/pyvenv.cfg"]


def test_a_workspace_that_is_an_environment(tmp_path: Path) -> None:
    make(tmp_path, "pyvenv.cfg", "bin/python", "lib/python3.11/x", ".env", "src/.env")
    found = look(tmp_path)
    assert sorted(found.installed) == ["bin", "lib/python3.11"] and len(found.secrets) == 2


def test_told(tmp_path: Path) -> None:
    make(
        tmp_path,
        ".github/workflows/ci.yml",
        ".github/x.yml",
        "AGENTS.md",
        "a/CLAUDE.md",
        ".circleci/config.yml",
        "b.md",
    )
    found = look(tmp_path)
    assert sorted(found.told) == [".circleci/config.yml", ".github/workflows/ci.yml", "AGENTS.md", "a/CLAUDE.md"]


def test_bytecode(tmp_path: Path) -> None:
    make(tmp_path, "a/__pycache__/x.cpython-311.pyc", "a/y.pyc", "a/z.py")
    assert sorted(look(tmp_path).bytecode) == ["a/__pycache__/x.cpython-311.pyc", "a/y.pyc"]


def test_patterns(tmp_path: Path) -> None:
    make(tmp_path, "data/x/.env", "a/b.sqlite", "docs/x/.env", "docs/y.md", "c.sqlite/")
    (tmp_path / "l.sqlite").symlink_to("a/b.sqlite")
    found = look(
        tmp_path,
        hide=[compile_pattern("data/"), compile_pattern("*.sqlite")],
        read_only=[compile_pattern("docs"), compile_pattern("*.sqlite")],
    )
    assert sorted(found.hidden) == ["a/b.sqlite", "c.sqlite", "data", "l.sqlite"] and found.read_only == ["docs"]
    assert found.secrets == [("docs/x/.env", "env")] and "l.sqlite" in found.links


def test_limits_are_errors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(tmp_path, "a/b/c/d/.env", "e", "f")
    with pytest.raises(SandboxError, match="cannot be looked at as a whole"):
        look(tmp_path, entries_max=2)
    monkeypatch.setattr(survey, "DEPTH_MAX", 3)
    with pytest.raises(SandboxError, match="folders deep"):
        look(tmp_path)
    assert look(tmp_path, strict=False).unseen == ["a/b/c/d"]
    monkeypatch.setattr(survey, "DEPTH_MAX", 4)
    assert look(tmp_path).secrets == [("a/b/c/d/.env", "env")]


def test_what_changes_meanwhile_is_passed_over(tmp_path: Path) -> None:
    """Listed as a folder, and then gone, or swapped for a link."""
    make(tmp_path, "a/x", "b/.env", "outside/.vscode/")
    (tmp_path / "a" / "link").symlink_to("../outside")
    with Folder(str(tmp_path / "a")) as inner, Folder(str(tmp_path)) as folder:
        found = Survey(folder)
        found.runs.clear()
        found._open(folder.fd, "gone", "gone", "gone", "", 0)
        found._other_names(folder.fd, "gone", "gone")
        found._open(inner.fd, "link", "link", "link", "", 0)
    assert not found.runs
    assert found.secrets == [("b/.env", "env")] and not found.closed


def test_links_are_not_followed(tmp_path: Path) -> None:
    make(tmp_path, "ws/a", "outside/.env", "outside/.vscode/")
    (tmp_path / "ws" / "l").symlink_to("../outside")
    found = look(tmp_path / "ws")
    assert not found.secrets and not found.runs


def test_names_that_only_some_file_systems_tell_apart_count_as_well(tmp_path: Path) -> None:
    """A character that nobody sees, and dots and spaces at the end; a name that is really another stays one."""
    make(tmp_path, "a/server.ke\u200cy", "b/server.key.", "c/server.KEY ", "d/server.kéy", "e/.vscode./", "f/.vscodé/")
    found = look(tmp_path)
    assert sorted(path for path, _ in found.secrets) == ["a/server.ke\u200cy", "b/server.key.", "c/server.KEY "]
    assert found.runs == ["e/.vscode."]
