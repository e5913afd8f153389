"""The first process of a compartment with a terminal, run here without a compartment."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from leasehold.inside.session import STOPPED


@contextmanager
def session(*command: str) -> Iterator[tuple[subprocess.Popen[bytes], int, int]]:
    """The process, the terminal's other end, and the end of ``control`` that the launcher would have."""
    master, slave = os.openpty()
    told, control = os.pipe()
    arguments = [sys.executable, "-m", "leasehold.inside.session", str(control), "--", *command]
    process = subprocess.Popen(arguments, stdin=slave, stdout=slave, stderr=slave, pass_fds=[control])
    os.close(slave)
    os.close(control)
    try:
        yield process, master, told
    finally:
        process.kill()
        process.wait()
        os.close(master)
        os.close(told)


def output(master: int) -> str:
    said = b""
    while True:
        try:
            said += os.read(master, 65536)
        except OSError:
            return said.decode()


@pytest.mark.parametrize(
    ("command", "code", "said"),
    [
        (["sh", "-c", "exit 3"], 3, ""),
        (["sh", "-c", "kill -KILL $$"], 137, ""),
        (["/gone"], 127, "error: /gone: No such file or directory\r\n"),
        (["/etc"], 126, "error: /etc: Permission denied\r\n"),
        (["sh", "-c", "ps -o pid= -o pgid= -o tpgid= -p $$ | awk '{print ($1==$2 && $2==$3)}'"], 0, "1\r\n"),
        (
            ["sh", "-c", "grep -cE '^SigIgn:.0*[018]{2}0{7}$' /proc/self/status; ls /proc/self/fd | wc -l"],
            0,
            "1\r\n4\r\n",
        ),
    ],
)
def test_commands(command: list[str], code: int, said: str) -> None:
    with session(*command) as (process, master, _):
        assert output(master) == said
        assert process.wait(10) == code


def test_a_script_without_an_interpreter_is_one_for_the_shell(tmp_path: Path) -> None:
    script = tmp_path / "script"
    script.write_text("exit 4\n")
    script.chmod(0o755)
    with session(str(script)) as (process, _, _):
        assert process.wait(10) == 4


def test_a_stop_is_told(tmp_path: Path) -> None:
    with session("sh", "-c", "echo $$; kill -STOP $$; exit 6") as (process, master, told):
        assert os.read(told, 10) == STOPPED
        assert process.poll() is None
        os.kill(int(os.read(master, 100)), signal.SIGCONT)
        assert process.wait(10) == 6
        assert os.read(told, 10) == b""


def test_keys_reach_the_command_as_signals() -> None:
    with session("sh", "-c", "echo ready; sleep 60") as (process, master, told):
        assert os.read(master, 100) == b"ready\r\n"
        time.sleep(0.1)
        os.write(master, b"\x1a")
        assert os.read(told, 10) == STOPPED
        os.killpg(os.tcgetpgrp(master), signal.SIGCONT)
        os.write(master, b"\x03")
        assert process.wait(10) == 130
