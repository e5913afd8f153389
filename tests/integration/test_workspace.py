"""The workspace through the whole product: real bubblewrap, git and overlays; as root and as an ordinary user."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from leasehold.core.secret import Secret
from leasehold.node.guard.canaries import find_canaries
from leasehold.node.guard.redaction import search

if TYPE_CHECKING:
    from servers.harness import Leasehold

SECRET = "hunter2-4711-very-secret"
_IDENTITY = ("-c", "user.name=Me", "-c", "user.email=me@example.test", "-c", "safe.directory=*")
_WAIT_S = 20.0


@pytest.fixture(params=["leasehold", "leasehold_of_user"])
def lh(request: pytest.FixtureRequest) -> Leasehold:
    """The product, run by root and by an ordinary user."""
    found: Leasehold = request.getfixturevalue(request.param)
    return found


def make(root: Path, files: dict[str, str]) -> None:
    for path, text in files.items():
        place = root / path
        place.parent.mkdir(parents=True, exist_ok=True)
        if path.endswith("/"):
            place.mkdir(exist_ok=True)
        else:
            place.write_text(text)


def owned(lh: Leasehold, root: Path) -> Path:
    """Everything in ``root`` is the person's."""
    if lh.person is not None:
        for path in (root, *root.rglob("*")):
            os.chown(path, lh.person.uid, lh.person.gid, follow_symlinks=False)
    return root


def git(folder: Path, *arguments: str, check: bool = True) -> str:
    command = ["git", *_IDENTITY, "-c", "protocol.file.allow=always", *arguments]
    done = subprocess.run(command, cwd=folder, check=False, capture_output=True, text=True)
    assert not check or done.returncode == 0, done.stderr
    return done.stdout


def sh(lh: Leasehold, folder: Path, script: str) -> str:
    done = lh.run("sh", "-c", script, workspace=folder)
    return done.stdout + done.stderr


def wait_for(condition: Callable[[], bool]) -> None:
    until = time.monotonic() + _WAIT_S
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.02)


def tree(root: Path) -> dict[str, str]:
    """Every file with its content, every link with its target, every folder."""
    found = {}
    for path in root.rglob("*"):
        name = path.relative_to(root).as_posix()
        if path.is_symlink():
            found[name] = f"-> {path.readlink()}"
        else:
            found[name] = path.read_text(errors="replace") if path.is_file() else "/"
    return found


def test_f7_packages_are_installed_into_a_layer_of_the_task(lh: Leasehold) -> None:
    folder = lh.workspace("packages")
    make(
        folder,
        {
            "package.json": "{}",
            "node_modules/.bin/tool": "mine\n",
            "node_modules/lib/index.js": "mine\n",
            ".venv/pyvenv.cfg": "home = /usr/bin\n",
            ".venv/bin/python": "mine\n",
            ".venv/lib/python3.11/site-packages/a.py": "mine\n",
            "app/node_modules/x": "mine\n",
        },
    )
    before = tree(owned(lh, folder))
    script = (
        "echo evil > node_modules/.bin/tool; mv node_modules/lib node_modules/old; mkdir node_modules/lib;"
        " echo evil > .venv/lib/python3.11/site-packages/evil.pth; rm .venv/bin/python; echo evil > .venv/bin/python;"
        " rm -rf app/node_modules; mv node_modules away; rmdir app/node_modules;"
        " cat node_modules/.bin/tool .venv/bin/python .venv/lib/python3.11/site-packages/evil.pth; ls node_modules"
    )
    out = sh(lh, folder, script)
    assert out.count("evil\n") == 3 and "old\n" in out and "busy" in out
    assert tree(folder) == before
    assert all(
        f"not kept: what was installed in {name}" in out for name in ("node_modules", ".venv", "app/node_modules")
    )
    again = sh(lh, folder, "cat node_modules/.bin/tool")
    assert "mine" in again and "not kept" not in again
    state = lh.base / "state" / "leasehold" / "layers"
    assert not state.exists() or not list(state.iterdir())


def test_f7_also_where_nothing_was_installed_yet(lh: Leasehold) -> None:
    folder = lh.workspace("fresh")
    make(folder, {"pyproject.toml": "", "package.json": "{}"})
    script = (
        "python3 -m venv --without-pip .venv && .venv/bin/python -c 'print(6 * 7)';"
        " mkdir node_modules/.bin && echo evil > node_modules/.bin/x && cat node_modules/.bin/x;"
        " git init -q . && git status"
    )
    out = sh(lh, owned(lh, folder), script)
    assert "42\n" in out and "evil\n" in out and "not kept: what was installed in .venv" in out
    assert {name for name in tree(folder) if not name.startswith(".git")} == {"pyproject.toml", "package.json"}
    # An environment in an unexpected place stays, but is none any more.
    out = sh(lh, folder, "python3 -m venv --without-pip other/.venv")
    assert "made harmless: other/.venv/pyvenv.cfg" in out and "look at: other/.venv" in out
    assert not (folder / "other/.venv/pyvenv.cfg").exists()


def test_every_name_of_a_secret_shows_the_same(lh: Leasehold) -> None:
    folder = lh.workspace("names")
    make(
        folder,
        {".env": f"API_KEY={SECRET}\nPORT=80\n", "conf/real": f"A={SECRET}\n", "hook.sh": "mine\n", ".git/hooks/": ""},
    )
    os.link(folder / ".env", folder / "notes.txt")
    os.link(folder / "hook.sh", folder / ".git/hooks/pre-commit")
    (folder / ".env.local").symlink_to("conf/real")
    (folder / ".vscode").symlink_to("editor")
    make(folder, {"editor/tasks.json": "mine\n"})
    before = tree(owned(lh, folder))
    script = (
        "cat .env notes.txt conf/real .env.local; grep -r hunter2 . /proc/self/root$PWD; echo evil > hook.sh;"
        " echo evil > editor/tasks.json; rm .vscode; mkdir .vscode; echo evil > .vscode/tasks.json; mv conf conf2;"
        " cat conf2/real"
    )
    out = sh(lh, folder, script)
    assert "hunter2" not in out and out.count("API_KEY=") == 2 and "PORT=80" in out and len(find_canaries(out)) == 2
    after = tree(folder)
    quarantined = {name for name in after if "quarantine" in name}
    assert {name.partition("/")[0] for name in quarantined} == {".vscode.leasehold-quarantine"}
    moved = {name.replace("conf2", "conf"): text for name, text in after.items() if name not in quarantined}
    assert moved == before


def test_e6_the_other_end_of_a_socket_or_pipe_is_outside(lh: Leasehold) -> None:
    folder = lh.workspace("sockets")
    os.mkfifo(folder / ".env")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(folder / "db.sock"))
        (folder / "db.sock").chmod(0o777)
        server.listen()
        owned(lh, folder)
        script = """
import socket
try:
    socket.socket(socket.AF_UNIX).connect("db.sock")
    print("REACHED")
except OSError as error:
    print(type(error).__name__)
print(open(".env").read())
ours = socket.socket(socket.AF_UNIX)
ours.bind("ours.sock")
ours.listen()
socket.socket(socket.AF_UNIX).connect("ours.sock")
print("its own works")
"""
        done = lh.run("timeout", "20", "python3", "-c", script, workspace=folder)
    assert "REACHED" not in done.stdout and "its own works" in done.stdout


def test_hide_and_read_only(lh: Leasehold) -> None:
    folder = lh.workspace("patterns")
    make(
        folder,
        {
            "leasehold.toml": '[sandbox]\nhide = ["data", "*.sqlite", "later"]\nread_only = ["deploy/", "**/*.lock"]\n',
            "data/x": SECRET,
            "a/b.sqlite": SECRET,
            "deploy/run.sh": "mine\n",
            "a/uv.lock": "mine\n",
            "a/free": "mine\n",
        },
    )
    before = tree(owned(lh, folder))
    script = (
        "grep -r hunter2 .; ls data; cat deploy/run.sh a/uv.lock; echo evil > deploy/run.sh; echo evil > a/uv.lock;"
        " echo evil > deploy/new; mkdir -p later/x; mv deploy away; rm -rf data; mv data y; echo changed > a/free"
    )
    out = sh(lh, folder, script)
    assert "hunter2" not in out and out.count("mine\n") == 2
    assert tree(folder) == before | {"a/free": "changed\n"}


def test_a_bad_pattern_is_an_error(leasehold: Leasehold) -> None:
    folder = leasehold.workspace("bad")
    make(folder, {"leasehold.toml": '[sandbox]\nhide = ["../x"]\n'})
    done = leasehold.run("true", workspace=folder)
    assert done.returncode == 125 and "sandbox.hide" in done.stderr


def test_a_linked_working_tree_works_and_its_repository_is_protected(lh: Leasehold, tmp_path: Path) -> None:
    base = lh.workspace("trees")
    mark = base / "mark"
    make(base, {"main/file": "1\n"})
    git(base / "main", "init", "-q")
    git(base / "main", "add", "file")
    git(base / "main", "commit", "-q", "-m", "first")
    git(base / "main", "config", "remote.origin.url", f"https://me:{SECRET}@git.forge.test/x.git")
    git(base / "main", "worktree", "add", "-q", "../tree")
    owned(lh, base)
    common = base / "main/.git"
    script = (
        "echo 2 > file && git -c user.name=A -c user.email=a@example.test commit -qam second && git log --oneline;"
        f" cat {common}/config; ls {base}/main; git config core.fsmonitor 'touch {mark}';"
        f" echo x > {common}/hooks/pre-commit;"
        f" printf '[core]\\n\\tfsmonitor = touch {mark}\\n' > {common}/worktrees/tree/config.worktree;"
        f" echo ../../../evil > {common}/worktrees/tree/commondir; mv {common} {base}/main/moved;"
        f" git worktree add -q inner && printf '[alias]\\n\\tx = !y\\n' > {common}/worktrees/inner/config.worktree"
    )
    out = sh(lh, base / "tree", script)
    assert " second" in out and "hunter2" not in out and "git.forge.test/x.git" in out
    assert "file" not in out.splitlines() and f"made harmless: {common}/worktrees/inner/config.worktree" in out
    assert " second" in git(base / "tree", "log", "--oneline")
    git(base / "main", "status")
    git(base / "tree", "status")
    assert not mark.exists() and not (common / "commondir").exists() and "hunter2" in (common / "config").read_text()
    assert not (common / "hooks/pre-commit").exists()


def test_a_git_file_that_names_something_else_does_not_start(leasehold: Leasehold) -> None:
    base = leasehold.workspace("liar")
    make(base, {"private/x": "", "tree/x": ""})
    git(base / "private", "init", "-q")
    (base / "tree/.git").write_text("gitdir: ../private/.git\n")
    done = leasehold.run("git", "status", workspace=base / "tree")
    assert done.returncode == 125 and "does not refer back" in done.stderr


def test_f5_submodules_old_and_new(lh: Leasehold) -> None:
    base = lh.workspace("modules")
    git(base, "init", "-q", "lib")
    git(base / "lib", "commit", "-q", "--allow-empty", "-m", "x")
    git(base, "init", "-q", "ws")
    git(base / "ws", "submodule", "add", "-q", str(base / "lib"), "third/lib")
    git(base / "ws", "commit", "-q", "-m", "x")
    owned(lh, base)
    mark = base / "mark"
    evil = f"git config core.fsmonitor 'touch {mark}'; git config core.hooksPath {base}/ws/evil"
    script = (
        f"mkdir evil; printf '#!/bin/sh\\ntouch {mark}\\n' > evil/pre-commit; chmod +x evil/pre-commit;"
        f" (cd third/lib; {evil}; echo x > .git/x); echo x > .git/modules/third/lib/hooks/pre-commit;"
        " for from in .git .git/modules .git/modules/third .git/info; do"
        ' python3 -c "import os, sys; os.rename(sys.argv[1], sys.argv[1] + str(2))" $from && echo RENAMED; done;'
        " git init -q new; (cd new; git -c user.name=A -c user.email=a@example.test commit -q --allow-empty -m x);"
        " git -c protocol.file.allow=always submodule add -q ./new other 2>&1;"
        " git update-index --add --cacheinfo 160000,$(git -C new rev-parse HEAD),new;"
        f" (cd new; {evil}); (cd other && {evil});"
        " echo done"
    )
    out = sh(lh, base / "ws", script)
    assert "done\n" in out and "made harmless: new/.git/config" in out and "RENAMED" not in out
    for folder in ("", "third/lib", "new"):
        git(base / "ws" / folder, "status")
        git(base / "ws" / folder, "commit", "-q", "--allow-empty", "-m", "mine")
    git(base / "ws", "submodule", "foreach", "git", "status", check=False)
    assert not mark.exists()


def test_what_runs_later_cannot_come_into_being_even_for_a_moment(lh: Leasehold) -> None:
    folder = lh.workspace("absent")
    git(folder, "init", "-q")
    before = tree(owned(lh, folder))
    names = ".vscode .idea .claude .envrc .mcp.json .husky .devcontainer leasehold.toml .pre-commit-config.yaml"
    script = (
        f"for name in {names} .git/hooks/new .git/config.worktree .git/info/attributes; do"
        " for way in 'echo x >' 'rm -rf' 'rmdir' 'mkdir -p' 'mv aside' 'ln -sf /tmp' 'touch x; mv -T x'; do"
        ' mkdir -p aside; sh -c "$way $name" 2>/dev/null; done; echo x 2>/dev/null > $name/x;'
        " [ -s $name ] && [ ! -d $name ] && echo MADE $name;"
        ' [ -n "$(ls -A $name/ 2>/dev/null)" ] && echo FILLED $name; done;'
        " rm -rf aside x; git status --porcelain; echo end"
    )
    assert sh(lh, folder, script).splitlines()[0] == "end"
    assert tree(folder) == before


def test_two_runs_in_one_workspace_protect_each_other(lh: Leasehold) -> None:
    folder = lh.workspace("two")
    git(folder, "init", "-q")
    before = tree(owned(lh, folder))
    first = lh.start(
        "sh", "-c",
        "touch up; while [ ! -e go ]; do sleep 0.05; done; mkdir -p .vscode; echo evil > .vscode/tasks.json;"
        " echo evil > .envrc;"
        " echo ../x > .git/commondir; echo evil > .git/hooks/pre-commit; rm up go",
        workspace=folder,
    )  # fmt: skip
    wait_for((folder / "up").exists)
    second = lh.run("sh", "-c", "rmdir .idea .vscode; rm -rf .zed .git/hooks; ls -d .vscode", workspace=folder)
    assert ".vscode" in second.stdout and "harmless" not in second.stderr
    (folder / "go").write_text("")
    owned(lh, folder)
    _, errors = first.communicate(timeout=30)
    assert b"harmless" not in errors and first.returncode == 0
    assert tree(folder) == before


def test_a_mask_that_falls_off_ends_the_run(lh: Leasehold) -> None:
    """An editor saves by renaming; then the kernel takes the mask away in every namespace."""
    folder = lh.workspace("falls")
    make(folder, {".env": f"A={SECRET}\n"})
    owned(lh, folder)
    running = lh.start("sh", "-c", "touch up; sleep 30", workspace=folder)
    wait_for((folder / "up").exists)
    make(folder, {"new": f"A=new-{SECRET}\n"})
    (folder / "new").rename(folder / ".env")
    _, errors = running.communicate(timeout=20)
    assert running.returncode == 125 and b".env" in errors


def test_what_a_run_leaves_is_searched(lh: Leasehold) -> None:
    folder = lh.workspace("search")
    git(folder, "init", "-q")
    owned(lh, folder)
    sh(
        lh, folder,
        f"printf {SECRET} | base64 > a; printf {SECRET} | rev > b; printf {SECRET} > c; git add c && rm c; echo x > d",
    )  # fmt: skip
    found = search(str(folder), {"forge": Secret(SECRET.encode())})
    assert {(f.path.partition("/")[0], f.form) for f in found.findings} == {
        ("a", "base64"),
        ("b", "reversed"),
        (".git", "raw, compressed"),
    }
    assert SECRET not in repr(found)


def test_json_names_what_was_found(leasehold: Leasehold) -> None:
    folder = leasehold.workspace("json")
    done = leasehold.run("sh", "-c", "mkdir -p a; echo x > a/.envrc", workspace=folder, options=("--json",))
    assert any("made harmless: a/.envrc" in note for note in json.loads(done.stderr.splitlines()[-1])["notes"])
