"""A person at a terminal: keys, sizes, job control, and a terminal that is as it was afterwards."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import shlex
import signal
import struct
import termios
import time
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import pytest

from fakes.jail import Jail

if TYPE_CHECKING:
    pass

SHELL = ["bash", "--norc", "--noprofile", "--noediting", "-i"]
TIOCGPTN = 0x80045430
CTRL_C, CTRL_D, CTRL_Z = "\x03", "\x04", "\x1a"


class Screen:
    """A terminal with a command in it. ``shown`` is what it has printed and nobody has waited for."""

    def __init__(self, command: list[str], environment: dict[str, str]) -> None:
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            os.execvpe(command[0], command, environment)  # noqa: S606 (a list, no shell)
        self.shown = ""
        self.resize(24, 80)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.hang_up()

    def resize(self, rows: int, columns: int) -> None:
        fcntl.ioctl(self.fd, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def settings(self) -> list[Any]:
        return termios.tcgetattr(self.fd)

    def type(self, text: str) -> None:
        os.write(self.fd, text.encode())

    def wait_for(self, text: str, seconds: float = 15) -> str:
        """Everything up to ``text`` and with it."""
        until = time.monotonic() + seconds
        while text not in self.shown:
            assert time.monotonic() < until and self.read(0.1), f"{text!r} was not shown, but {self.shown!r}"
        before, found, self.shown = self.shown.partition(text)
        return before + found

    def read(self, seconds: float) -> bool:
        """Read what comes for a while; false when the terminal has been closed."""
        if select.select([self.fd], [], [], seconds)[0]:
            try:
                data = os.read(self.fd, 65536)
            except OSError:
                return False
            self.shown += data.decode(errors="replace")
            return bool(data)
        return True

    def end(self) -> int:
        """The exit code of the command, when it has ended."""
        until = time.monotonic() + 20
        while self.read(0.1):
            assert time.monotonic() < until, f"it did not end: {self.shown!r}"
        code = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        self.pid = 0
        return code

    def hang_up(self) -> None:
        """Close the terminal, and see the command end."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1
        if self.pid:
            until = time.monotonic() + 5
            while os.waitpid(self.pid, os.WNOHANG)[0] == 0:
                if time.monotonic() > until:
                    os.kill(self.pid, signal.SIGKILL)
                time.sleep(0.01)
            self.pid = 0


def screen(jail: Jail, *command: str) -> Screen:
    return Screen(jail.command(*command), jail.environment())


def shell(jail: Jail) -> Screen:
    """A shell of the person's, outside."""
    command = jail.command(*SHELL)
    at = command.index("--workspace")
    del command[at - 4 : command.index("--") + 1]
    made = Screen(command, jail.environment() | {"PS1": "outside> "})
    made.wait_for("outside> ")
    return made


def line(jail: Jail, *command: str) -> str:
    """What a person types to run a command in a compartment."""
    full = jail.command(*command)
    return shlex.join(full[full.index("--workspace") - 4 :])


def test_an_interactive_shell_works_as_without(jail: Jail) -> None:
    with screen(jail, *SHELL) as at:
        at.wait_for("task 7f3k")
        at.resize(33, 77)
        at.type("tty; stty size; echo $((6*7))\n")
        shown = at.wait_for("42\r\n")
        assert "/dev/console\r\n33 77\r\n" in shown
        at.type("sleep 60\n")
        time.sleep(0.3)
        at.type(CTRL_C)
        at.type("echo code $?\n")
        at.wait_for("code 130")
        at.type("sleep 61\n")
        time.sleep(0.3)
        at.type(CTRL_Z)
        at.wait_for("Stopped")
        at.type("fg\n")
        at.wait_for("fg\r\n")
        time.sleep(0.3)
        at.type(CTRL_C)
        at.type("echo code $?\n")
        at.wait_for("code 130")
        at.type("exit 7\n")
        assert at.end() == 7
        assert "task 7f3k ended" in at.shown


def test_e13_the_agents_terminal_is_not_the_persons(jail: Jail) -> None:
    probe = """
import fcntl, os, termios
print("device", os.fstat(0).st_rdev, os.fstat(1).st_rdev, os.fstat(2).st_rdev)
for request, argument in ((termios.TIOCSTI, b"x"), (0x541C, b"\\x03")):
    try:
        fcntl.ioctl(0, request, argument)
        print("typed")
    except OSError as error:
        print("refused", error.errno)
print("others", [n for n in os.listdir("/dev/pts") if n != "ptmx"], os.getsid(0) != os.getpid())
fcntl.ioctl(0, termios.TIOCGWINSZ, bytes(8))
print("done")
"""
    with screen(jail, "python3", "-c", probe) as at:
        shown = at.wait_for("done")
        theirs = Path(f"/dev/pts/{pts_number(at.fd)}").stat().st_rdev
        devices = shown.split("device ")[1].splitlines()[0].split()
        assert str(theirs) not in devices and len(set(devices)) == 1
        assert shown.count("refused 1") == 2 and "typed" not in shown
        assert "others [] True" in shown
        assert at.end() == 0


def pts_number(master: int) -> int:
    (number,) = struct.unpack("I", fcntl.ioctl(master, TIOCGPTN, bytes(4)))
    return int(number)


def test_keys_reach_a_full_screen_program_raw_and_the_terminal_is_restored(jail: Jail) -> None:
    program = "import os, sys, tty; tty.setraw(0); print('ready', flush=True); print(repr(os.read(0, 9)), flush=True)"
    with screen(jail, "python3", "-c", program) as at:
        before = at.settings()
        at.wait_for("ready")
        assert not at.settings()[3] & termios.ICANON
        at.type("\x03\x1a\x1b[A")
        at.wait_for("b'\\x03\\x1a\\x1b[A'")
        at.wait_for("secrets that entered")
        assert at.settings() == before
        assert at.end() == 0


def test_a_killed_agent_leaves_a_usable_terminal(jail: Jail) -> None:
    (jail.lh / "die").write_text("")
    with screen(jail, "python3", "-c", "import tty, time; tty.setraw(0); print('\\x1b[?1049h'); time.sleep(60)") as at:
        before = at.settings()
        at.wait_for("\x1b[?1049h")
        at.wait_for("\x1b[?1049l\x1b[?25h")
        at.wait_for("error: broker-gone")
        assert at.settings() == before
        assert at.end() == 125


@pytest.mark.parametrize("how", ["key", "by itself"])
def test_ctrl_z_stops_the_whole_job_and_fg_goes_on(jail: Jail, how: str) -> None:
    script = "echo ready; kill -STOP $$; cat" if how == "by itself" else "echo ready; exec cat"
    with shell(jail) as at:
        before = at.settings()
        at.type(line(jail, "sh", "-c", script) + "\n")
        at.wait_for("\r\nready")
        if how == "key":
            at.type("one\n")
            at.wait_for("one\r\none")
            at.type(CTRL_Z)
        at.wait_for("Stopped")
        at.wait_for("outside> ")
        assert at.settings() == before
        at.type("fg\n")
        at.wait_for("fg\r\n")
        time.sleep(0.3)
        at.type("two\n")
        at.wait_for("two\r\ntwo")
        at.type(CTRL_D)
        at.wait_for("ended after")
        at.wait_for("outside> ")
        at.type("echo code $?\n")
        at.wait_for("code 0")


def test_in_the_background_it_runs_and_reads_nothing(jail: Jail) -> None:
    with shell(jail) as at:
        at.type(line(jail, "sh", "-c", "sleep 0.5; echo from-behind") + " &\n")
        at.wait_for("task 7f3k ·")
        at.type("echo typed\n")
        at.wait_for("\r\ntyped\r\n")
        at.wait_for("from-behind\r")
        at.wait_for("ended after")


def test_in_the_background_of_a_pipeline_the_keys_stay_the_shells(jail: Jail) -> None:
    with shell(jail) as at:
        at.type(f"{line(jail, 'sh', '-c', 'sleep 1; echo done')} > {jail.base}/out &\n")
        at.wait_for("docs.test")
        at.type("echo typed\n")
        at.wait_for("\r\ntyped\r\n")
        at.wait_for("ended after")
    assert Path(jail.base, "out").read_text() == "done\n"


def test_with_only_a_keyboard(jail: Jail) -> None:
    with shell(jail) as at:
        command = "read line; echo got $line; tty <&1; read more || echo end"
        at.type(f"{line(jail, 'sh', '-c', command)} > {jail.base}/out\n")
        at.wait_for("docs.test")
        time.sleep(0.5)
        at.type("a line\n")
        time.sleep(0.3)
        at.type(CTRL_D)
        at.wait_for("ended after")
    assert Path(jail.base, "out").read_text() == "got a line\nnot a tty\nend\n"


def test_with_only_a_screen(jail: Jail) -> None:
    with shell(jail) as at:
        script = "cat; stty -F /dev/stdout size; trap 'echo caught; exit 5' INT; while :; do sleep 0.1; done"
        at.type(f"echo piped | {line(jail, 'sh', '-c', script)}\n")
        at.wait_for("docs.test")
        at.wait_for("piped\r\n24 80\r\n")
        time.sleep(0.2)
        at.type(CTRL_C)
        at.wait_for("caught")
        at.wait_for("ended after")
        at.type("echo code $?\n")
        at.wait_for("code 5")


def test_a_pager_in_the_same_pipeline_keeps_its_keyboard(jail: Jail) -> None:
    pager = "import os, tty; t = os.open('/dev/tty', 2); tty.setraw(t); print('pager\\r'); k = b''\n"
    pager += "while len(k) < 6: k += os.read(t, 6)\nprint(k, '\\r')\nos.system('stty sane < /dev/tty')"
    with shell(jail) as at:
        at.type(f"{line(jail, 'sleep', '2')} | python3 -c {shlex.quote(pager)}\n")
        at.wait_for("pager")
        at.wait_for("docs.test")
        time.sleep(0.3)
        for key in "abcdef":
            at.type(key)
            time.sleep(0.05)
        at.wait_for("b'abcdef'")


def test_a_terminal_that_goes_away_ends_the_agent(jail: Jail) -> None:
    at = screen(jail, "sh", "-c", "echo ready; sleep 60")
    at.wait_for("ready")
    os.close(at.fd)
    at.fd = -1
    until = time.monotonic() + 10
    while not (ended := os.waitpid(at.pid, os.WNOHANG))[0]:
        assert time.monotonic() < until
        time.sleep(0.02)
    at.pid = 0
    assert os.waitstatus_to_exitcode(ended[1]) in (-signal.SIGHUP, 128 + signal.SIGHUP)


def test_much_output_and_much_input(jail: Jail) -> None:
    with screen(jail, "sh", "-c", "stty -echo; echo ready; head -n 2000 | wc -c; seq 200000; echo finished") as at:
        at.wait_for("ready")
        for _ in range(20):
            at.type(("x" * 79 + "\n") * 100)
        at.wait_for("160000")
        shown = at.wait_for("finished", 30)
        assert shown.count("\n") == 200001
        assert at.end() == 0
