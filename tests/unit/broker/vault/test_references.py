"""References at use: from wherever the value is, into memory and nowhere else."""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from leasehold.broker.vault import references
from leasehold.broker.vault.references import resolve
from leasehold.broker.vault.store import Vault
from leasehold.core.errors import SecretUnavailable
from leasehold.core.limits import LIMITS, Limits
from leasehold.core.secret import Secret

VALUE = b"s3cr3t-value"


@pytest.fixture
def vault(tmp_path: Path) -> Vault:
    return Vault(tmp_path / "state" / "vault", Secret(b"k" * 32), lambda: 0)


Ask = Callable[..., bytes]


@pytest.fixture
def ask(vault: Vault) -> Ask:
    def value(reference: str, *, reachable: tuple[str, ...] = (), **variables: str) -> bytes:
        return resolve(reference, vault, variables.get, reachable).reveal()

    return value


@pytest.fixture
def refused(ask: Ask) -> Callable[..., str]:
    def message(reference: str, **more: object) -> str:
        with pytest.raises(SecretUnavailable) as caught:
            ask(reference, **more)
        error = caught.value
        assert VALUE.decode() not in error.message + error.hint
        assert error.hint
        assert error.__context__ is None
        return error.message

    return message


def write(path: Path, content: bytes, mode: int = 0o600) -> Path:
    path.write_bytes(content)
    path.chmod(mode)
    return path


def script(path: Path, text: str) -> str:
    """A program of the test's own, as a reference."""
    return f"command:{write(path, f'#!/bin/sh{chr(10)}{text}'.encode(), 0o700)}"


def test_of_the_vault(ask: Ask, vault: Vault, refused: Callable[..., str]) -> None:
    vault.set("forge", Secret(VALUE))
    assert ask("vault:forge") == VALUE
    assert refused("vault:gone") == "the vault has no secret 'gone'"


def test_of_the_environment(ask: Ask, refused: Callable[..., str]) -> None:
    assert ask("env:FORGE", FORGE=VALUE.decode()) == VALUE
    assert ask("env:FORGE", FORGE="\udcff") == b"\xff"
    assert refused("env:OTHER", FORGE="x") == "the variable OTHER is not set where leasehold was started"
    assert refused("env:FORGE", FORGE="") == "env:FORGE: the value is empty"


@pytest.mark.parametrize("end", [b"", b"\n", b"\r\n"])
def test_of_a_file(ask: Ask, tmp_path: Path, end: bytes) -> None:
    assert ask(f"file:{write(tmp_path / 'f', VALUE + end)}") == VALUE


def test_of_a_file_in_the_home_folder(ask: Ask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    write(tmp_path / "f", VALUE, 0o400)
    assert ask("file:~/f") == VALUE


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o660, 0o602])
def test_a_file_of_others_is_refused(refused: Callable[..., str], ask: Ask, tmp_path: Path, mode: int) -> None:
    path = write(tmp_path / "f", VALUE, mode)
    assert f"must be a file that nobody else may read (it is uid {os.getuid()}'s, mode {mode:04o})" in refused(
        f"file:{path}"
    )
    path.chmod(0o600)
    assert ask(f"file:{path}") == VALUE


def test_a_file_of_somebody_else_is_refused() -> None:
    def status(uid: int) -> os.stat_result:
        return os.stat_result((stat.S_IFREG | 0o600, 1, 1, 1, uid, 0, 0, 0, 0, 0))

    assert "uid 4242" in references._unfit(status(4242))
    assert references._unfit(status(os.getuid())) == references._unfit(status(0)) == ""


def test_what_is_no_file_is_refused(refused: Callable[..., str], tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo", 0o600)
    assert "must be an ordinary file" in refused(f"file:{tmp_path}/fifo")
    assert "must be an ordinary file" in refused(f"file:{tmp_path}")
    assert "cannot be read: No such file or directory" in refused(f"file:{tmp_path}/gone")


def test_a_file_in_a_workspace_is_refused(refused: Callable[..., str], ask: Ask, tmp_path: Path) -> None:
    """Whatever way leads there, and whatever way leads to the workspace."""
    workspace, outside = tmp_path / "work", tmp_path / "work-other"
    for folder in (workspace, outside):
        (folder / "deep").mkdir(parents=True)
        write(folder / "deep" / "f", VALUE)
    (outside / "link").symlink_to(workspace / "deep" / "f")
    (tmp_path / "alias").symlink_to(workspace)
    for path in (workspace / "deep" / "f", outside / "link", tmp_path / "alias" / "deep" / "f"):
        assert "lies in a workspace" in refused(f"file:{path}", reachable=(str(workspace),))
        assert "lies in a workspace" in refused(f"file:{path}", reachable=("/nowhere", str(tmp_path / "alias")))
        assert "lies in a workspace" in refused(f"file:{path}", reachable=("/",))
    assert ask(f"file:{outside}/deep/f", reachable=(str(workspace),)) == VALUE


BAD_VALUES = {
    b"": "the value is empty",
    b"\n": "the value is empty",
    b"a\nb": "the value has several lines",
    b"a\r\nX-Injected: b": "the value has several lines",
    b"a\n\n": "the value has several lines",
    b"a\rb": "the value has several lines",
    b"a\0b": "the value has control characters",
    b"a\x1b[2Jb": "the value has control characters",
    b"x" * (LIMITS.secret_bytes_max + 1): f"at most {LIMITS.secret_bytes_max} are expected",
    b"x" * (LIMITS.secret_bytes_max * 2): f"at most {LIMITS.secret_bytes_max} are expected",
}


@pytest.mark.parametrize("content", BAD_VALUES, ids=lambda content: repr(content[:20]))
def test_what_cannot_stand_in_a_header_is_refused(refused: Callable[..., str], tmp_path: Path, content: bytes) -> None:
    assert BAD_VALUES[content] in refused(f"file:{write(tmp_path / 'f', content)}")


def test_the_longest_value_with_its_line_end(ask: Ask, tmp_path: Path) -> None:
    longest = b"x" * LIMITS.secret_bytes_max
    path = write(tmp_path / "f", longest + b"\r\n")
    assert ask(f"file:{path}") == longest
    assert ask(f"command:/bin/cat {tmp_path}/f") == longest


def test_of_a_command(ask: Ask) -> None:
    assert ask("command:printf %s 'a b'") == b"a b"
    assert ask("command:echo $HOME `id` * ; id") == b"$HOME `id` * ; id"


def test_a_command_gets_little(ask: Ask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORGE_TOKEN", VALUE.decode())
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin")
    monkeypatch.setenv("GNUPGHOME", "/keys")
    found = ask(
        script(tmp_path / "p", "echo $(env | cut -d= -f1 | sort) $(pwd) $(cat | wc -c) $(ls /proc/self/fd | wc -l)")
    )
    assert VALUE not in found
    names = found.decode().split()
    assert names[-3:] == ["/", "0", "4"]
    assert set(names[:-3]) <= {*references._COMMAND_ENVIRONMENT, "PATH", "PWD", "_", "OLDPWD", "SHLVL"}
    assert "GNUPGHOME" in names
    assert ask(script(tmp_path / "p", "echo $PATH")).decode() == references.COMMAND_PATH


def test_a_command_is_not_looked_for_in_the_callers_path(
    refused: Callable[..., str], ask: Ask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A workspace's virtual environment stands there, and an agent writes to it."""
    script(tmp_path / "printf", "echo from the workspace")
    script(tmp_path / "only-here", "echo from the workspace")
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert ask("command:printf x") == b"x"
    assert refused("command:only-here") == "there is no program 'only-here' in the system's folders"


def test_a_program_in_a_workspace_is_refused(refused: Callable[..., str], ask: Ask, tmp_path: Path) -> None:
    workspace = tmp_path / "work"
    workspace.mkdir()
    reference = script(workspace / "p", "echo x")
    (tmp_path / "link").symlink_to(workspace / "p")
    assert "lies in a workspace" in refused(reference, reachable=(str(workspace),))
    assert "lies in a workspace" in refused(f"command:{tmp_path}/link", reachable=(str(workspace),))
    assert ask(f"command:{tmp_path}/link", reachable=(str(tmp_path / "other"),)) == b"x"


def test_a_program_in_the_home_folder(ask: Ask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    script(tmp_path / "p", "echo x")
    assert ask("command:~/p") == b"x"


def test_a_command_that_fails_is_told_without_its_words(refused: Callable[..., str], tmp_path: Path) -> None:
    reference = script(tmp_path / "p", f"echo {VALUE.decode()}; echo {VALUE.decode()} >&2; exit 3")
    assert refused(f"{reference} {VALUE.decode()}") == f"the command '{tmp_path}/p' ended with exit code 3"
    assert "exit code -15" in refused(script(tmp_path / "q", "kill $$"))
    assert (
        refused(script(tmp_path / "r", "echo a; echo b"))
        == f"command:{tmp_path}/r: the value has several lines, one is expected"
    )


def test_a_command_that_cannot_be_started_is_told(refused: Callable[..., str], tmp_path: Path) -> None:
    write(tmp_path / "p", b"\x7fELF nonsense", 0o700)
    assert refused(f"command:{tmp_path}/p") == f"the command '{tmp_path}/p' cannot be started: Exec format error"
    write(tmp_path / "q", b"", 0o600)
    assert "there is no program" in refused(f"command:{tmp_path}/q")


def test_a_command_that_writes_for_ever_is_ended(refused: Callable[..., str]) -> None:
    assert "writes more than a secret may have" in refused("command:yes")


def short_limits(monkeypatch: pytest.MonkeyPatch) -> None:

    monkeypatch.setattr(references, "LIMITS", Limits(secret_command_timeout_s=0.3))


def running(mark: str) -> list[str]:
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            found += [path.parent.name] if mark.encode() in path.read_bytes() else []
        except OSError:
            continue
    return found


def test_a_command_that_hangs_is_ended_with_what_it_started(
    refused: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    short_limits(monkeypatch)
    mark = "86391"
    began = time.monotonic()
    assert "took longer than 0.3 s" in refused(script(tmp_path / "p", f"sleep {mark} & sleep {mark}"))
    assert "took longer than 0.3 s" in refused(script(tmp_path / "q", f"exec >&-; sleep {mark}"))
    assert time.monotonic() - began < 10
    until = time.monotonic() + 5
    while running(mark) and time.monotonic() < until:
        time.sleep(0.01)
    assert running(mark) == []


def test_a_command_that_leaves_somebody_behind_is_not_waited_for(ask: Ask, tmp_path: Path) -> None:
    mark = "86392"
    began = time.monotonic()
    assert ask(script(tmp_path / "p", f"sleep {mark} & echo x")) == b"x"
    assert time.monotonic() - began < 10
    until = time.monotonic() + 5
    while running(mark) and time.monotonic() < until:
        time.sleep(0.01)
    assert running(mark) == []


def test_what_is_no_reference_is_refused(refused: Callable[..., str]) -> None:
    assert "expected a reference to a secret" in refused(VALUE.decode())
    assert "expected a reference to a secret" in refused(f"token:{VALUE.decode()}")


def test_nothing_of_a_value_is_left_on_disk(ask: Ask, tmp_path: Path) -> None:
    source = write(tmp_path / "f", VALUE)
    ask(f"file:{source}")
    ask(f"command:cat {source}")
    ask("env:X", X=VALUE.decode())
    source.unlink()
    assert [path for path in tmp_path.rglob("*") if path.is_file() and VALUE in path.read_bytes()] == []
