"""The workspace is given back: mount points, the journal, and what a run leaves that would run later."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from leasehold.core.errors import SandboxError
from leasehold.node.guard import handback, journal, neutralise
from leasehold.node.guard.handback import HandbackReport, Journal, begin, finish, recover, remove_tree
from leasehold.node.sandbox.protected import Mask, workspace_masks

EVIL = "[core]\n\tfsmonitor = touch /tmp/never\n[user]\n\tname = Kept\n"
KEPT = '[user]\n\tname = "Kept"\n'


class Place:
    """A workspace and a state folder. A "run" is what a test writes between start and end."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.ws = root / "ws"
        self.state = root / "state"
        self.ws.mkdir()
        self.state.mkdir()

    def make(self, *paths: str, text: str = "x") -> None:
        for path in paths:
            place = self.ws / path
            if path.endswith("/"):
                place.mkdir(parents=True, exist_ok=True)
            else:
                place.parent.mkdir(parents=True, exist_ok=True)
                place.write_text(text)

    def masks(self, workspace: Path | None = None) -> list[Mask]:
        return workspace_masks(str(workspace or self.ws), lambda prefix: prefix)

    def start(self, task: str = "t1", masks: Sequence[Mask] | None = None) -> Journal:
        return begin(str(self.state), task, str(self.ws), self.masks() if masks is None else masks)

    def tree(self) -> set[str]:
        return {path.relative_to(self.ws).as_posix() for path in self.ws.rglob("*")}

    def journals(self) -> list[str]:
        return [path.name for path in (self.state / "workspaces").glob("*.json")]

    def killed(self, running: Journal) -> None:
        """As ``kill -9`` does: the lock goes, and nothing else happens."""
        running.close()


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def git(folder: Path, *arguments: str) -> None:
    environment = {"PATH": os.environ["PATH"], "HOME": "/nonexistent", "GIT_CONFIG_NOSYSTEM": "1"}
    identity = ["-c", "user.name=A", "-c", "user.email=a@example.test"]
    subprocess.run(["git", *identity, *arguments], cwd=folder, env=environment, check=True, capture_output=True)


def test_mount_points_are_made_and_removed(place: Place) -> None:
    place.make(".git/HEAD", "package.json")
    before = place.tree()
    running = place.start()
    assert {".envrc", ".git/hooks", ".git/info", ".git/info/attributes", "node_modules"} <= place.tree()
    assert (place.ws / ".git/commondir").read_text() == ".\n"
    assert place.journals() == ["t1.json"]
    (overlay,) = running.overlays
    assert overlay.path == "node_modules" and [*Path(overlay.upper).iterdir(), *Path(overlay.work).iterdir()] == []
    report = finish(running)
    assert place.tree() == before and place.journals() == [] and not Path(running.scratch).exists()
    assert report.lines() == [] and report.as_dict() == {
        "task": "t1", "neutralised": [], "found": [], "replaced": [], "discarded": [], "failed": [],
    }  # fmt: skip


def test_the_journal_is_durable_before_the_first_mount_point(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a kill at any moment would leave: each change of the workspace comes after the journal was synchronised."""
    script: list[str] = []
    for name in ("fsync", "mkdir"):
        real = getattr(os, name)

        def recorded(*arguments: object, _real: object = real, _name: str = name, **named: object) -> object:
            if _name == "fsync" or "dir_fd" in named:
                script.append(_name)
            return _real(*arguments, **named)  # type: ignore[operator]

        monkeypatch.setattr(os, name, recorded)
    running = place.start()
    monkeypatch.undo()
    assert script[:2] == ["fsync", "fsync"] and set(script[2:]) == {"mkdir"}
    finish(running)


def test_mount_points_that_are_no_longer_empty_stay(place: Place) -> None:
    place.make(".git/HEAD")
    running = place.start()
    place.make(".vscode/tasks.json", ".git/hooks/pre-commit")
    (place.ws / ".git/commondir").write_text("../evil\n")
    (place.ws / ".idea").rmdir()
    (place.ws / ".idea").mkdir()
    report = finish(running)
    quarantined = {
        ".vscode.leasehold-quarantine",
        ".git/hooks.leasehold-quarantine",
        ".git/commondir.leasehold-quarantine",
    }
    assert quarantined <= place.tree() and not {".vscode", ".git/hooks", ".git/commondir"} & place.tree()
    assert set(report.neutralised) >= {".vscode", ".git/hooks", ".git/commondir"}


def test_a_mount_point_under_another_inode_is_not_ours(place: Place) -> None:
    running = place.start()
    (place.ws / ".idea").rename(place.ws / "moved")
    (place.ws / ".idea").mkdir()
    finish(running)
    assert {"moved", ".idea.leasehold-quarantine"} <= place.tree()


@pytest.mark.parametrize("parent", ["link", "file"])
def test_mount_points_are_not_made_through_links(place: Place, parent: str) -> None:
    (place.root / "outside").mkdir()
    if parent == "link":
        (place.ws / "a").symlink_to("../outside")
    else:
        place.make("a")
    with pytest.raises(SandboxError, match="cannot be protected"):
        place.start(
            masks=[Mask(path=".first", kind="empty-dir", absent=True), Mask(path="a/b", kind="empty-dir", absent=True)]
        )
    assert not list((place.root / "outside").iterdir()) and ".first" not in place.tree() and place.journals() == []


def test_a_workspace_that_changed_meanwhile_does_not_start(place: Place) -> None:
    masks = place.masks()
    place.make(".envrc")
    with pytest.raises(SandboxError, match=r"\.envrc.*meanwhile"):
        place.start(masks=masks)
    assert place.tree() == {".envrc"} and place.journals() == []
    masks = place.masks()
    (place.ws / ".envrc").unlink()
    with pytest.raises(SandboxError, match=r"\.envrc.*gone"):
        place.start(masks=masks)
    with pytest.raises(SandboxError, match="cannot be protected"):
        begin(str(place.state), "t2", str(place.root / "none"), [])
    with pytest.raises(SandboxError, match="cannot be protected"):
        place.start(masks=[Mask(path="/none/.git", kind="rw-bind")])
    assert place.journals() == []


@pytest.mark.parametrize("task", ["", "../x", "a/b", "A"])
def test_a_task_is_a_name(place: Place, task: str) -> None:
    with pytest.raises(SandboxError, match="no task"):
        place.start(task)


def test_what_was_there_stays_as_it_is(place: Place) -> None:
    """The person's own configuration, hooks and settings are nobody else's business."""
    place.make(".git/config", "sub/.git/config", text=EVIL)
    place.make(".git/hooks/pre-commit", ".vscode/tasks.json", "sub/.git/info/attributes", ".github/workflows/ci.yml")
    place.make(".venv/pyvenv.cfg", "c/conda-meta/x")
    place.make("sub/.git/rebase-merge/git-rebase-todo", text="exec mine\n")
    before = place.tree()
    report = finish(place.start())
    assert report.lines() == [] and place.tree() == before


@pytest.mark.parametrize("where", ["new", "a/b/new", ".git/modules/new", ".git/modules/a/new", ".git/worktrees/new"])
def test_new_repositories_are_made_harmless(place: Place, where: str) -> None:
    place.make(".git/HEAD")
    running = place.start()
    at = where if where.startswith(".git") else f"{where}/.git"
    place.make(f"{at}/config", f"{at}/config.worktree", text=EVIL)
    place.make(f"{at}/hooks/pre-commit", f"{at}/info/attributes", f"{at}/commondir", f"{at}/HEAD")
    report = finish(running)
    names = ("config", "config.worktree", "hooks", "info/attributes", "commondir")
    assert set(report.neutralised) == {f"{at}/{name}" for name in names}
    assert (place.ws / at / "config").read_text() == KEPT == (place.ws / at / "config.worktree").read_text()
    assert (place.ws / at / "config.leasehold-quarantine").read_text() == EVIL
    assert not {f"{at}/hooks", f"{at}/commondir", f"{at}/info/attributes"} & place.tree()
    assert f"{at}/hooks.leasehold-quarantine/pre-commit" in place.tree()


def test_harmless_repositories_are_left_alone(place: Place) -> None:
    git(place.ws, "init", "-q", "one")
    running = place.start()
    git(place.ws, "init", "-q", "two")
    git(place.ws / "two", "commit", "-q", "--allow-empty", "-m", "x")
    git(place.ws, "clone", "-q", "two", "three")
    git(place.ws / "two", "worktree", "add", "-q", "../four")
    git(place.ws / "two", "-c", "protocol.file.allow=always", "submodule", "add", "-q", f"{place.ws}/three", "sub")
    report = finish(running)
    assert report.lines() == []
    for name in ("one", "two", "three", "four", "two/sub"):
        git(place.ws / name, "status")


@pytest.mark.parametrize(
    "config",
    [EVIL, "[core\n", "[alias]\nx = !y\n", "[core]\nworktree = ../../..\n", "[core]\nworktree\n",
     '[remote "o"]\nurl = ext::sh -c x\n'],
)  # fmt: skip
def test_bare_repositories_too(place: Place, config: str) -> None:
    running = place.start()
    place.make("b/HEAD", "b/objects/", "b/refs/")
    place.make("b/config", text=config)
    assert finish(running).neutralised == ("b/config",)
    git(place.ws / "b", "config", "--file", "config", "--list")


def test_a_working_tree_may_lie_in_the_workspace_only(place: Place) -> None:
    running = place.start()
    place.make("a/.git/config", text="[core]\nworktree = ../../b\n")
    place.make("c/.git/config", text="[core]\nworktree = ../../../b\n")
    assert finish(running).neutralised == ("c/.git/config",)


def test_a_repository_that_was_replaced_is_new(place: Place) -> None:
    place.make("sub/.git/config", "sub/.git/hooks/x", text=EVIL)
    running = place.start()
    (place.ws / "sub").rename(place.ws / "old")
    place.make("sub/.git/config", "sub/.git/hooks/x", text=EVIL.replace("never", "ever"))
    report = finish(running)
    assert set(report.neutralised) == {"sub/.git/config", "sub/.git/hooks"}


def test_a_configuration_that_was_replaced_keeps_what_it_said(place: Place) -> None:
    """`git config` on the host renames a new file over it."""
    place.make(".git/config", text=EVIL)
    running = place.start()
    (place.ws / ".git/new").write_text(EVIL + "[core]\n\tpager = touch x\n[pull]\n\trebase = true\n")
    (place.ws / ".git/new").rename(place.ws / ".git/config")
    assert finish(running).neutralised == (".git/config",)
    assert "fsmonitor" in (text := (place.ws / ".git/config").read_text()) and "pager" not in text and "rebase" in text


def test_files_and_links_called_git(place: Place, tmp_path: Path) -> None:
    place.make("real/HEAD", "real/config", text=EVIL)
    place.make("kept/.git", text="gitdir: /anywhere\n")
    running = place.start()
    for name, text in {
        "away": f"gitdir: {tmp_path}\n",
        "no": "x",
        "in": "gitdir: ../evil\n",
        "up": "gitdir: ../../x\n",
    }.items():
        place.make(f"{name}/.git", text=text)
    place.make("evil/config", text=EVIL)
    place.make("l/")
    (place.ws / "l/.git").symlink_to(tmp_path)
    report = finish(running)
    assert set(report.neutralised) == {"away/.git", "no/.git", "up/.git", "l/.git", "evil/config"}
    assert (place.ws / "kept/.git").is_file() and (place.ws / "in/.git").is_file()


def test_what_editors_and_shells_run_is_taken_out_of_the_way(place: Place) -> None:
    place.make("a/.vscode/tasks.json")
    running = place.start()
    new = [
        ".aider.conf.yml",
        "b/.envrc",
        "b/.idea/x",
        "b/c/.vscode/tasks.json",
        "x.code-workspace",
        "b/.EnvRC",
        "b/.git /config",
    ]
    place.make(*new)
    report = finish(running)
    assert set(report.neutralised) == {
        ".aider.conf.yml", "b/.envrc", "b/.idea", "b/c/.vscode", "x.code-workspace", "b/.EnvRC", "b/.git /config",
    }  # fmt: skip
    assert not {*new} & place.tree() - {"b/.git /config"} and "a/.vscode/tasks.json" in place.tree()


def test_a_link_that_was_replaced_is_put_back(place: Place) -> None:
    place.make("shared/tasks.json")
    (place.ws / ".vscode").symlink_to("shared")
    (place.ws / ".idea").symlink_to("gone")
    running = place.start()
    (place.ws / ".vscode").unlink()
    place.make(".vscode/tasks.json")
    (place.ws / ".idea").unlink()
    (place.ws / ".idea").symlink_to("elsewhere")
    assert set(finish(running).neutralised) == {".vscode", ".idea"}
    assert str((place.ws / ".vscode").readlink()) == "shared" and str((place.ws / ".idea").readlink()) == "gone"


def test_two_things_in_one_place_are_both_kept(place: Place) -> None:
    place.make("a/.envrc.leasehold-quarantine")
    running = place.start()
    place.make("a/.envrc", text="new")
    finish(running)
    assert (place.ws / "a/.envrc.leasehold-quarantine1").read_text() == "new"


def test_a_name_beside_is_always_found(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(neutralise, "_TRIES", 1)
    place.make("a/.envrc.leasehold-quarantine")
    running = place.start()
    place.make("a/.envrc")
    finish(running)
    assert len([name for name in place.tree() if name.startswith("a/.envrc.leasehold-quarantine-")]) == 1


def test_new_environments_are_none_any_more(place: Place) -> None:
    place.make("old/.venv/pyvenv.cfg", "old/node_modules/x")
    running = place.start()
    place.make(
        "n/.venv/pyvenv.cfg",
        "n/.venv/lib/python3.11/x",
        "n/.venv/.vscode/x",
        "c/conda-meta/x",
        "p/node_modules/q/node_modules/r",
    )
    report = finish(running)
    assert set(report.neutralised) == {"n/.venv/pyvenv.cfg", "n/.venv/.vscode", "c/conda-meta"}
    assert [text.partition(":")[0] for text in report.found] == ["n/.venv", "p/node_modules"]


def test_private_layers_are_discarded(place: Place) -> None:
    place.make("node_modules/x", "a/node_modules/x")
    running = place.start()
    first, second = running.overlays
    Path(first.upper, "evil").mkdir()
    Path(first.upper, "evil", "x").write_text("x")
    report = finish(running)
    assert report.discarded == (first.path,) and not Path(first.upper).exists() and not Path(second.upper).exists()
    assert "not kept" in report.lines()[0]


def test_bytecode_of_the_run_goes(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    place.make("a/__pycache__/old.pyc")
    running = place.start()
    monkeypatch.setattr(neutralise, "_SLACK_NS", 0)
    running.started_ns = time.time_ns() + 10_000_000
    time.sleep(0.05)
    place.make("a/__pycache__/new.pyc", "a/alone.pyc")
    assert finish(running).neutralised == ("a/alone.pyc",)
    assert {"a/__pycache__/old.pyc"} == {path for path in place.tree() if path.endswith(".pyc")}


def test_commands_of_a_rebase_in_progress_are_struck_out(place: Place) -> None:
    place.make(".git/HEAD")
    running = place.start()
    place.make(".git/rebase-merge/git-rebase-todo", text="pick 1 a\nexec evil\n  x evil\nxylophone\n")
    place.make("n/.git/rebase-merge/git-rebase-todo", text="exec x\n" * 200_000)
    place.make("m/.git/rebase-merge/git-rebase-todo", text="pick 1 a\n")
    report = finish(running)
    assert len(report.neutralised) == 2
    todo = (place.ws / ".git/rebase-merge/git-rebase-todo").read_text()
    assert todo == "pick 1 a\n# exec evil\n#   x evil\nxylophone\n"
    assert not (place.ws / "n/.git/rebase-merge/git-rebase-todo").exists()


def test_people_are_told_of_prose_and_pipelines(place: Place) -> None:
    place.make("AGENTS.md", "CLAUDE.md", ".github/workflows/a.yml", "GEMINI.md")
    running = place.start()
    place.make("AGENTS.md", text="changed")
    place.make(".github/workflows/b.yml")
    (place.ws / "GEMINI.md").unlink()
    assert [line.split(";")[0] for line in finish(running).found] == [
        ".github/workflows/b.yml: new",
        "AGENTS.md: changed",
    ]


def test_masks_that_fell_off_are_told(place: Place) -> None:
    place.make(".env", ".npmrc", "server.key", text="token=abcdefghijk\n")
    running = place.start()
    place.make("new", text="A=secret\n")
    (place.ws / "new").rename(place.ws / ".env")
    (place.ws / "server.key").unlink()
    report = finish(running)
    assert report.replaced == (".env",) and "replaced outside" in report.lines()[0]


def test_nothing_hides_behind_a_limit(place: Place) -> None:
    running = place.start()
    deep = "/".join(["d"] * 105)
    place.make(f"{deep}/.vscode/x", "zzz/.vscode/x")
    report = finish(running)
    assert report.neutralised == ("zzz/.vscode",) and any("could not be looked into" in text for text in report.found)


def test_what_fails_is_told_and_the_rest_is_done(place: Place) -> None:
    running = place.start()
    place.make("a/.envrc", "b/.envrc")
    name = ".envrc"
    work = neutralise.Neutraliser(running, journal.Places(str(place.ws), ()))
    work._try(work._hold, f"nowhere/{name}")
    assert work.failed == ["nowhere/.envrc: No such file or directory"]
    assert set(finish(running).neutralised) == {"a/.envrc", "b/.envrc"}


def test_a_workspace_that_has_gone(place: Place) -> None:
    running = place.start()
    place.ws.rename(place.root / "moved")
    report = finish(running)
    assert "No such file" in report.failed[0] and "could not be put right" in report.lines()[0]
    assert place.journals() == []


def test_lines_are_few_and_harmless() -> None:
    report = HandbackReport(task="t", neutralised=tuple(f"a\x1b[2J{i}" for i in range(100)))
    lines = report.lines()
    assert len(lines) == 40 and lines[-1].startswith("and 61 more") and not any("\x1b" in line for line in lines)
    assert json.loads(json.dumps(report.as_dict()))["neutralised"][0] == "a\x1b[2J0"


def test_after_a_kill_everything_is_put_right(place: Place) -> None:
    place.make("package.json", "src/a")
    before = place.tree()
    running = place.start()
    scratch = running.scratch
    place.make("n/.git/config", text=EVIL)
    place.killed(running)
    (report,) = recover(place.state)
    assert report.neutralised == ("n/.git/config",) and report.task == "t1"
    assert place.tree() == before | {"n", "n/.git", "n/.git/config", "n/.git/config.leasehold-quarantine"}
    assert not Path(scratch).exists() and place.journals() == [] and recover(place.state) == []


def test_a_task_that_lives_is_left_alone(place: Place) -> None:
    running, before = place.start(), place.tree()
    assert recover(place.state) == [] and place.tree() == before
    threading.Timer(0.1, place.killed, [running]).start()
    (report,) = recover(place.state, task="t1")  # whoever names it knows that its launcher has gone
    assert report.task == "t1" and place.tree() == set()
    assert recover(place.state, task="t1") == []


def test_a_task_whose_compartment_does_not_end_is_left_for_later(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(handback, "_WAIT_S", 0.1)
    running = place.start()
    assert recover(place.state, task="t1") == []
    finish(running)


@pytest.mark.parametrize("lines", [0, 1])
def test_a_kill_while_it_starts(place: Place, lines: int) -> None:
    """Before the journal is durable nothing was changed; after it, mount points may be there."""
    running = place.start()
    file = Path(running.file)
    text = file.read_text().splitlines(keepends=True)
    assert len(text) == 2
    if lines == 0:
        finish(running)
        file.write_text(text[0][:50])
    else:
        file.write_text(text[0] + text[1][:7])
        place.killed(running)
    assert len(recover(place.state)) == lines
    assert place.tree() == set() and place.journals() == []


def test_a_kill_before_the_layers_were_made(place: Place) -> None:
    place.make("node_modules/")
    running = place.start()
    remove_tree(running.scratch)
    place.killed(running)
    place.killed(running)
    assert [report.discarded for report in recover(place.state)] == [()]


def test_only_folders_of_the_task_are_changed(place: Place) -> None:
    with journal.Places(str(place.ws), (str(place.state),)) as places:
        assert places.find(f"{place.state}/x")[1] == "x" and places.find("x") == (places.workspace, "x")
        with pytest.raises(FileNotFoundError):
            places.find(f"{place.state}2/x")


def test_a_kill_while_it_ends(place: Place) -> None:
    running = place.start()
    with journal.Places(str(place.ws), ()) as places:
        handback._remove_points(running, places)
    journal.note_removed(running)
    place.make(".vscode/")
    place.killed(running)
    (report,) = recover(place.state)
    assert report.neutralised == (".vscode",)


def test_two_tasks_in_one_workspace(place: Place) -> None:
    """The one that ends first must not take the mount points of the other, whose masks would fall off."""
    place.make(".git/HEAD")
    first = place.start("t1")
    before = place.tree()
    second = place.start("t2")
    assert finish(first).lines() == [] and place.tree() == before
    third = place.start("t3")
    assert finish(second).lines() == [] and place.tree() == before
    assert finish(third).lines() == [] and place.tree() == {".git", ".git/HEAD"}


def test_tasks_in_other_workspaces_do_not_matter(place: Place) -> None:
    running = place.start()
    (place.root / "other").mkdir()
    other = begin(str(place.state), "t2", str(place.root / "other"), place.masks(place.root / "other"))
    assert finish(running).lines() == [] and place.tree() == set()
    finish(other)


def test_a_journal_that_is_being_written_is_passed_over(place: Place) -> None:
    running = place.start()
    (place.state / "workspaces" / "t0.json").write_text("")
    finish(running)
    assert place.tree() == set()


def test_two_launchers_do_not_share_a_name(place: Place) -> None:
    running = place.start()
    with pytest.raises(FileExistsError):
        place.start()
    finish(running)


def test_the_state_is_private_and_holds_no_content(place: Place) -> None:
    place.make(".git/config", text='[remote "o"]\nurl = https://me:hunter2@host/\n')
    place.make(".env", text="A=hunter2\n")
    running = place.start()
    file = Path(running.file)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600 and stat.S_IMODE(file.parent.stat().st_mode) == 0o700
    assert "hunter2" not in file.read_text()
    finish(running)


def test_names_that_are_not_text(place: Place) -> None:
    (place.ws / os.fsdecode(b"\xff") / ".vscode").mkdir(parents=True)
    running = place.start()
    place.killed(running)
    (report,) = recover(place.state)
    assert report.lines() == []


def test_a_linked_working_tree_and_its_repository(place: Place) -> None:
    git(place.root, "init", "-q", "main")
    git(place.root / "main", "commit", "-q", "--allow-empty", "-m", "x")
    place.ws.rmdir()
    git(place.root / "main", "worktree", "add", "-q", str(place.ws))
    common = place.root / "main" / ".git"
    before = {path.relative_to(common).as_posix() for path in common.rglob("*")}
    running = place.start()
    assert running.elsewhere == (str(common),) and (common / "commondir").read_text() == ".\n"
    git(place.ws, "worktree", "add", "-q", "inner")
    (common / "worktrees" / "inner" / "config.worktree").write_text(EVIL)
    (common / "modules" / "m").mkdir(parents=True)
    (common / "modules" / "m" / "config").write_text(EVIL)
    report = finish(running)
    assert set(report.neutralised) == {f"{common}/worktrees/inner/config.worktree", f"{common}/modules/m/config"}
    after = {path.relative_to(common).as_posix() for path in common.rglob("*")}
    assert not {path for path in before - after if not path.endswith(".lock")} and "commondir" not in after


def test_a_tree_of_an_agent_is_removed_whatever_it_is(tmp_path: Path) -> None:
    root = tmp_path / "t"
    root.mkdir()
    fd = os.open(root, os.O_RDONLY)
    for _ in range(1500):
        os.mkdir("d", dir_fd=fd)
        inner = os.open("d", os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = inner
    os.close(fd)
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "f").write_text("x")
    (root / "l").symlink_to(tmp_path / "outside")
    (root / "closed").mkdir()
    (root / "closed" / "f").write_text("x")
    (root / "closed").chmod(0)
    remove_tree(str(root))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["outside"] and (tmp_path / "outside" / "f").exists()
    remove_tree(str(root))
    (tmp_path / "t.gone" / "x" / "y").mkdir(parents=True)  # a kill while it was removed
    remove_tree(str(root))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["outside"]


def test_layers_that_cannot_be_removed_are_told(place: Place) -> None:
    place.make("node_modules/")
    running = place.start()
    Path(f"{running.scratch}.gone").write_text("in the way")
    report = finish(running)
    assert len(report.failed) == 1 and place.journals() == []
