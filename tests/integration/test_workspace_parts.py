"""Parts of the workspace's protection that need root, or another process, but not the whole product."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from leasehold.core.errors import SandboxError
from leasehold.node.guard.handback import begin, finish
from leasehold.node.sandbox.beneath import Folder
from leasehold.node.sandbox.gitfolders import outside
from leasehold.node.sandbox.overlay import Overlay, lay
from leasehold.node.sandbox.protected import workspace_masks
from leasehold.node.sandbox.survey import Survey
from servers.people import Person

SECRET = "hunter2-4711-very-secret"


def git(folder: Path, *arguments: str) -> None:
    identity = ("-c", "user.name=Me", "-c", "user.email=me@example.test", "-c", "safe.directory=*")
    subprocess.run(["git", *identity, *arguments], cwd=folder, check=True, capture_output=True)


def make(root: Path, *paths: str, text: str = "") -> None:
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text)


def tree(root: Path) -> dict[str, str]:
    files = (path for path in root.rglob("*") if path.is_file())
    return {path.relative_to(root).as_posix(): path.read_text() for path in files}


def in_thread(work: Callable[[], None]) -> None:
    """A thread can have a mount namespace of its own."""
    failed: list[BaseException] = []

    def guarded() -> None:
        try:
            work()
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=guarded)
    thread.start()
    thread.join()
    if failed:
        raise failed[0]


@contextmanager
def acting_as(person: Person) -> Iterator[Path]:
    """This process with the person's rights, and a folder of the person's."""
    folder = Path(tempfile.mkdtemp(prefix="lh-"))
    os.chown(folder, person.uid, person.gid)
    os.setegid(person.gid)
    os.seteuid(person.uid)
    try:
        yield folder
    finally:
        os.seteuid(0)
        os.setegid(0)
        shutil.rmtree(folder)


@pytest.mark.parametrize("layer", ["on disk", "in memory", "none"])
def test_a_layer_never_lets_a_change_through(tmp_path: Path, layer: str) -> None:
    """Also with a name that overlayfs would take for two, and where it cannot be mounted."""
    packages = tmp_path / "ws" / "a,b:c" / "node_modules"
    make(packages, ".bin/tool", text="mine")
    scratch = tmp_path / "scratch"
    (scratch / "0").mkdir(parents=True)
    if layer == "on disk":
        (scratch / "0" / "upper").mkdir()
        (scratch / "0" / "work").mkdir()
    base = scratch / ("0" if layer != "none" else "gone")
    overlay = Overlay(path="a,b:c/node_modules", upper=f"{base}/upper", work=f"{base}/work")

    def agent() -> None:
        lay(str(tmp_path / "ws"), [overlay])
        if layer == "none":
            with pytest.raises(OSError, match="Read-only"):
                (packages / ".bin" / "tool").write_text("evil")
            return
        (packages / ".bin" / "tool").write_text("evil")
        make(packages, "new/x", text="new")
        assert tree(packages) == {".bin/tool": "evil", "new/x": "new"}

    in_thread(agent)
    assert tree(packages) == {".bin/tool": "mine"}
    assert any(path.is_file() for path in scratch.rglob("*")) is (layer == "on disk")


def test_without_packages_there_is_no_namespace(tmp_path: Path) -> None:
    before = Path("/proc/thread-self/ns/mnt").readlink()
    in_thread(lambda: lay(str(tmp_path), []))
    assert Path("/proc/thread-self/ns/mnt").readlink() == before


def test_where_nothing_can_be_mounted_nothing_starts(tmp_path: Path) -> None:
    overlay = Overlay(path="gone", upper="/nonexistent/upper", work="/nonexistent/work")
    with pytest.raises(OSError, match="gone"):
        in_thread(lambda: lay(str(tmp_path), [overlay]))


def test_what_a_user_cannot_look_into_is_hidden(ordinary_user: Person) -> None:
    """The folder's owner could open it again from inside."""
    with acting_as(ordinary_user) as folder:
        make(folder, "closed/.env", ".git/hooks/x", ".env", "notes")
        os.link(folder / ".env", folder / "again")
        (folder / "closed").chmod(0)
        masks = {m.path: m for m in workspace_masks(str(folder), lambda prefix: prefix)}
        assert masks["closed"].kind == "empty-dir" and masks["again"].kind == "ro-data"
        state = folder.with_name(f"{folder.name}-state")
        os.seteuid(0)
        state.mkdir(mode=0o700)
        os.chown(state, ordinary_user.uid, ordinary_user.gid)
        os.seteuid(ordinary_user.uid)
        running = begin(str(state), "t1", str(folder), [*masks.values()])
        make(folder, "new/x")
        (folder / "new").chmod(0)
        report = finish(running)
        (folder / "closed").chmod(0o700)
    shutil.rmtree(state)
    assert [text.partition(":")[0] for text in report.found] == ["closed", "new"]


def test_a_repository_that_a_user_cannot_read_is_an_error(ordinary_user: Person, tmp_path: Path) -> None:
    with acting_as(ordinary_user) as folder:
        make(folder, "ws/.git", text="gitdir: ../closed\n")
        (folder / "closed").mkdir(mode=0)
        with Folder(str(folder / "ws")) as workspace, pytest.raises(SandboxError, match="cannot be read"):
            outside(workspace)


def test_somebody_elses_repository_is_refused(tmp_path: Path) -> None:
    git(tmp_path, "init", "-q", "main")
    git(tmp_path / "main", "commit", "-q", "--allow-empty", "-m", "x")
    git(tmp_path / "main", "worktree", "add", "-q", "../tree")
    with Folder(str(tmp_path / "tree")) as folder:
        assert outside(folder) == str(tmp_path / "main/.git")
        os.chown(tmp_path / "main/.git", 12345, 12345)
        with pytest.raises(SandboxError, match="somebody else"):
            outside(folder)


def test_f1_a_swapped_folder_leads_nobody_outside(tmp_path: Path) -> None:
    """Another process swaps a folder for a link all the time; what lies outside is never looked at or touched."""
    (tmp_path / "outside").mkdir()
    make(tmp_path / "outside", ".env", ".git/config", ".vscode/x", text=f"A={SECRET}\n")
    make(tmp_path / "ws", "a/.env", text="A=inside-value\n")
    before = tree(tmp_path / "outside")
    swap = "import os\nwhile 1: os.rename('a', 'b'); os.symlink('../outside', 'a'); os.unlink('a'); os.rename('b', 'a')"
    with subprocess.Popen(["python3", "-c", swap], cwd=tmp_path / "ws") as swapping:
        try:
            until = time.monotonic() + 3
            while time.monotonic() < until:
                for mask in workspace_masks(str(tmp_path / "ws"), lambda prefix: prefix):
                    assert not mask.path.startswith(("a/.git", "a/.vscode", "b/.git", "b/.vscode"))
        finally:
            swapping.kill()
    assert tree(tmp_path / "outside") == before


def test_a_large_workspace_starts_in_time(tmp_path: Path) -> None:
    """50,000 files: the look costs about 1 µs a file. The bound is for machines that are busy."""
    for number in range(500):
        folder = tmp_path / f"d{number // 20}" / f"s{number % 20}"
        folder.mkdir(parents=True)
        for name in range(100):
            os.mknod(folder / f"file_{name}.py")
    times = []
    for _ in range(3):
        started = time.perf_counter()
        with Folder(str(tmp_path)) as opened:
            Survey(opened)
        times.append(time.perf_counter() - started)
    print(f"a look at 50,000 files: {min(times) * 1000:.0f} ms")
    assert min(times) < 0.5
    shutil.rmtree(tmp_path)
