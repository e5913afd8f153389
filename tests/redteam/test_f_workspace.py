"""BOUNDARY area F: a workspace that runs later, outside; with real bubblewrap and real git."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path

    from servers.harness import Leasehold

_SECRET = "hunter2-4711-very-secret"
_PWNED = "pwned-outside"


@pytest.fixture
def project(leasehold: Leasehold) -> Path:
    """A repository with a hook, secrets and a nested repository."""
    folder = leasehold.workspace("project")
    _git(folder, "init", "-q")
    _git(folder, "config", "remote.origin.url", f"https://me:{_SECRET}@git.forge.test/acme/web.git")
    (folder / ".git" / "hooks" / "pre-commit").write_text("#!/bin/sh\nexit 0\n")
    (folder / "nested").mkdir()
    _git(folder / "nested", "init", "-q")
    (folder / ".env").write_text(f"# {_SECRET}\nexport API_KEY={_SECRET}\nOTHER='{_SECRET}'\n")
    (folder / ".env.example").write_text("API_KEY=\n")
    (folder / "deploy.pem").write_text(f"-----BEGIN PRIVATE KEY-----\n{_SECRET}\n-----END PRIVATE KEY-----\n")
    (folder / ".npmrc").write_text(f"//registry.example/:_authToken={_SECRET}\n")
    (folder / "sub").mkdir()
    (folder / "sub" / "secrets.yml").write_text(f"password: {_SECRET}\n")
    (folder / "code.py").write_text("print(1)\n")
    return folder


def _git(folder: Path, *arguments: str) -> str:
    command = ["git", "-c", "user.name=Me", "-c", "user.email=me@example.test", *arguments]
    return subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True).stdout


def _names(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


def _sh(leasehold: Leasehold, folder: Path, script: str) -> str:
    done = leasehold.run("sh", "-c", script, workspace=folder)
    return done.stdout + done.stderr


def _outside(folder: Path, *, check: bool = True) -> None:
    """What a person does next, with the git that they have."""
    (folder / "code.py").write_text("print(2)\n")
    person = ["git", "-c", "user.name=Me", "-c", "user.email=me@example.test"]
    for arguments in (
        ["status"],
        ["-C", "nested", "status"],
        ["add", "code.py"],
        ["commit", "-q", "-m", "by a person"],
    ):
        subprocess.run([*person, *arguments], cwd=folder, check=check, capture_output=True)


def test_f_work_goes_on_as_usual(leasehold: Leasehold, project: Path) -> None:
    script = (
        "git -c user.name=A -c user.email=a@example.test add code.py"
        " && git -c user.name=A -c user.email=a@example.test commit -q -m work && git log --oneline"
        " && echo new > file && mkdir dir && mv file dir/ && git status --porcelain && cat .env.example"
    )
    out = _sh(leasehold, project, script)
    assert " work" in out and "?? dir/" in out and "API_KEY=" in out
    assert "?? .envrc" not in out and "?? .mcp.json" not in out
    assert (project / "dir" / "file").read_text() == "new\n"
    _outside(project)
    assert sorted(_names(project)) == sorted(
        [".env", ".env.example", ".git", ".npmrc", "code.py", "deploy.pem", "dir", "nested", "sub"]
    )


def test_f_secrets_in_the_workspace_read_as_placeholders(leasehold: Leasehold, project: Path) -> None:
    script = "cat .env deploy.pem .npmrc sub/secrets.yml .git/config; grep -r hunter2 . ; git remote -v; ls -a"
    out = _sh(leasehold, project, script)
    assert "hunter2" not in out
    assert "API_KEY=" in out and "OTHER=" in out and "git.forge.test/acme/web.git" in out
    assert _SECRET in (project / ".env").read_text() and _SECRET in (project / ".npmrc").read_text()


def test_f1_a_link_leads_no_writer_of_ours_outside(leasehold: Leasehold, project: Path, tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.mkdir()
    (target / "config").write_text("[core]\n\tfsmonitor = keep\n")
    _sh(
        leasehold,
        project,
        f"mkdir evil; ln -s {target} evil/.git; ln -s {target} .vscode2; ln -s /etc/shadow .env.local",
    )
    _sh(leasehold, project, f"mkdir two; mkdir two/.git; ln -s {target}/config two/.git/config; cat .env.local")
    assert (target / "config").read_text() == "[core]\n\tfsmonitor = keep\n"
    assert sorted(_names(target)) == ["config"]


def test_f2_a_link_in_the_place_of_a_folder_is_not_mounted(leasehold: Leasehold, project: Path, tmp_path: Path) -> None:
    (tmp_path / "private").write_text(_SECRET)
    (project / ".claude").symlink_to(tmp_path)
    out = _sh(leasehold, project, "cat .claude/private; ls -la .claude/")
    assert _SECRET not in out


@pytest.mark.parametrize(
    "script",
    [
        "printf '#!/bin/sh\\necho x > {mark}\\n' > .git/hooks/pre-commit; chmod +x .git/hooks/pre-commit",
        "printf '#!/bin/sh\\necho x > {mark}\\n' > .git/hooks/post-index-change; chmod +x .git/hooks/*",
        "git config core.fsmonitor 'touch {mark}'; git config core.hooksPath /tmp",
        "printf '[core]\\n\\tfsmonitor = touch {mark}\\n' >> .git/config",
        "mv .git .git2; mkdir .git; cp -r .git2/* .git/; printf '[core]\\nfsmonitor = touch {mark}\\n' >> .git/config",
        "rm -rf .git; git init -q .; git config core.fsmonitor 'touch {mark}'",
        "mkdir c; printf '[core]\\n\\tfsmonitor = touch {mark}\\n' > c/config; echo ../c > .git/commondir",
        "echo '* filter=x' | tee .git/info/attributes .gitattributes; git config filter.x.clean 'touch {mark}'",
        "cd nested && git config core.fsmonitor 'touch {mark}'",
        "rm -rf nested && git init -q nested && cd nested && git config core.fsmonitor 'touch {mark}'",
        "mv nested old && git init -q nested && git -C nested config core.fsmonitor 'touch {mark}'",
        "printf '[include]\\n\\tpath = ../evil\\n' > .git/config.worktree; git config extensions.worktreeConfig true",
    ],
)
def test_f4_git_outside_runs_nothing_that_came_from_inside(
    leasehold: Leasehold, project: Path, tmp_path: Path, script: str
) -> None:
    mark = tmp_path / _PWNED
    _sh(leasehold, project, script.replace("{mark}", str(mark)))
    # Deleting the repository is within the agent's rights; then git outside has nothing to say.
    _outside(project, check=not script.startswith("rm -rf .git"))
    assert not mark.exists()


def test_f5_a_repository_made_inside_is_harmless_outside(leasehold: Leasehold, project: Path, tmp_path: Path) -> None:
    mark = tmp_path / _PWNED
    script = (
        f"git init -q fresh && cd fresh && git config core.fsmonitor 'touch {mark}' && git config user.name Kept"
        f" && git config alias.status '!touch {mark}' && printf '#!/bin/sh\\ntouch {mark}\\n' > .git/hooks/pre-commit"
        " && chmod +x .git/hooks/pre-commit && git -c core.fsmonitor=false status"
    )
    out = _sh(leasehold, project, script)
    assert "made harmless: fresh/.git/config" in out and "made harmless: fresh/.git/hooks" in out
    fresh = project / "fresh"
    assert "Kept" in (fresh / ".git" / "config").read_text()
    (fresh / "x").write_text("x")
    _git(fresh, "add", "x")
    _git(fresh, "commit", "-q", "-m", "x")
    assert not mark.exists()


_RUN_LATER = (
    ".envrc",
    ".vscode/tasks.json",
    ".claude/settings.json",
    ".mcp.json",
    ".husky/pre-commit",
    "leasehold.toml",
    ".idea/workspace.xml",
    ".devcontainer/devcontainer.json",
)


@pytest.mark.parametrize("path", _RUN_LATER)
def test_f7_what_editors_and_shells_run_cannot_be_made(leasehold: Leasehold, project: Path, path: str) -> None:
    folder = path.rpartition("/")[0] or "."
    ways = (
        f"mkdir -p {folder}; echo x > {path}",
        f"rm -rf {path.partition('/')[0]}; mkdir -p {folder}; echo x > {path}",
        f"echo x > y; mv y {path}",
        f"mkdir -p q; echo x > q/z; mv -T q {path.partition('/')[0]}",
    )
    for way in ways:
        _sh(leasehold, project, way)
        assert not (project / path).is_file(), way
    assert "ok" in _sh(leasehold, project, "mkdir -p .other && echo ok > .other/x && cat .other/x")


def test_f7_what_is_there_can_be_read_and_not_changed(leasehold: Leasehold, project: Path) -> None:
    (project / ".vscode").mkdir()
    (project / ".vscode" / "tasks.json").write_text("{}")
    (project / ".envrc").write_text("echo mine\n")
    out = _sh(leasehold, project, "cat .vscode/tasks.json; echo x > .vscode/tasks.json; echo x >> .envrc; rm -f .envrc")
    assert "{}" in out and "Read-only" in out
    assert (project / ".vscode" / "tasks.json").read_text() == "{}"
    assert (project / ".envrc").exists()


def test_f12_the_agent_cannot_widen_its_own_grants(leasehold: Leasehold, project: Path) -> None:
    (project / "leasehold.toml").write_text("[grants.api]\nmethods = ['GET']\n")
    _sh(leasehold, project, "printf '[grants.api]\\n[grants.forge]\\n' > leasehold.toml; rm leasehold.toml")
    assert "[grants.forge]" not in (project / "leasehold.toml").read_text()
    done = leasehold.run("true", workspace=project, options=("--json",))
    assert [c["name"] for c in json.loads(done.stderr.strip().splitlines()[-1])["credentials"]] == ["api"]


def test_f_a_killed_launcher_leaves_no_mount_point(leasehold: Leasehold, project: Path) -> None:
    before = sorted(_names(project))
    running = leasehold.start(
        "sh", "-c", "git init -q late; git -C late config alias.x '!y'; touch up; sleep 60", workspace=project
    )
    until = time.monotonic() + 20
    while not (project / "up").exists() and time.monotonic() < until:
        time.sleep(0.05)
    assert (project / ".envrc").exists()
    running.send_signal(signal.SIGKILL)
    running.communicate(timeout=20)
    while (project / ".envrc").exists() and time.monotonic() < until:
        time.sleep(0.05)
    time.sleep(0.3)
    assert sorted(_names(project)) == sorted([*before, "up", "late"])
    assert "alias" not in (project / "late" / ".git" / "config").read_text()
    assert leasehold.run("true", workspace=project).returncode == 0
