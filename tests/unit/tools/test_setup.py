"""What set-up says when it cannot help, and that it leaves alone what is there."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from types import ModuleType

import pytest

SCRIPT = Path(__file__).parents[3] / "tools" / "setup.py"


@pytest.fixture
def setup() -> ModuleType:
    spec = importlib.util.spec_from_file_location("leasehold_setup", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


MISSING = {"no-such-program": ("one-package", "another"), "sh": ("dash",)}


def test_an_ordinary_user_is_told_what_is_missing_and_how_to_get_it(
    setup: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(setup.SetupError) as caught:
        setup._system(MISSING)
    assert caught.value.message == "these programs are missing: no-such-program"
    assert caught.value.hint.endswith("apt-get install --no-install-recommends another one-package")


def test_without_apt_the_packages_are_named(setup: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    monkeypatch.setattr(setup, "_PLACES", ())
    with pytest.raises(setup.SetupError, match="no-such-program, sh") as caught:
        setup._system(MISSING)
    assert caught.value.hint.endswith("on Debian they are in another dash one-package")


def test_what_is_there_is_left_alone(setup: ModuleType) -> None:
    assert setup._system({"sh": ("dash",)}) is False


def test_a_command_that_fails_shows_its_last_words(setup: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(setup.SetupError, match="trying failed with status 3"):
        setup._call(["sh", "-c", "seq 100; echo last words >&2; exit 3"], "trying")
    said = capsys.readouterr().err.splitlines()
    assert said[-1] == "  | last words"
    assert len(said) == 25


def test_an_interpreter_in_a_private_home_is_not_for_everybody(setup: ModuleType) -> None:
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        home = Path(folder)
        (home / "link").symlink_to("/bin/sh")
        (home / "own").write_bytes(b"")
        (home / "own").chmod(0o755)
        home.chmod(0o755)
        assert setup._open_to_all(home / "own")
        home.chmod(0o700)
        assert not setup._open_to_all(home / "own")
        assert setup._open_to_all(home / "link")


def test_the_chosen_interpreter_can_be_run_by_every_user(setup: ModuleType) -> None:
    chosen = setup._interpreter()
    assert setup._open_to_all(Path(chosen))
    assert not setup._is_recent("/bin/false")
    assert setup._can_make_environments(chosen)


def test_no_interpreter_is_an_error_that_says_where_it_looked(
    setup: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(setup, "PYTHON_MIN", (9, 99))
    with pytest.raises(setup.SetupError, match=r"Python 9\.99 or later"):
        setup._interpreter()


def test_a_wrong_goal_is_a_usage_error() -> None:
    done = subprocess.run([sys.executable, SCRIPT, "everything"], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("usage: python3 tools/setup.py check|test|run")
