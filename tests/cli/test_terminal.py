"""The commands on a terminal: values are not echoed, colours come and go, columns are aligned."""

from __future__ import annotations

import io
import os
import pty
import re
import select
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from fakes.vault_broker import VaultBroker
from leasehold.broker.vault.store import Vault
from leasehold.cli import output
from leasehold.core.errors import ConfigError
from leasehold.core.secret import Secret

CHECKOUT = Path(__file__).parents[2]


class Terminal:
    """``leasehold`` on a terminal of its own."""

    def __init__(self, folder: Path, *arguments: str, **variables: str) -> None:
        environment = {
            "PATH": "/usr/bin:/bin",
            "HOME": str(folder),
            "XDG_RUNTIME_DIR": str(folder / "run"),
            "PYTHONPATH": str(CHECKOUT / "src"),
            "TERM": "xterm",
            "LANG": "C.UTF-8",
            **variables,
        }
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            os.execve(sys.executable, [sys.executable, "-m", "leasehold", *arguments], environment)  # noqa: S606  it is this very Python
        self.shown = ""

    def until(self, text: str) -> None:
        """Read until ``text`` is shown."""
        until = time.monotonic() + 20
        while text not in self.shown and time.monotonic() < until:
            self._read(until)
        assert text in self.shown, self.shown

    def end(self) -> int:
        """Read to the end; the exit code."""
        until = time.monotonic() + 20
        while self._read(until):
            pass
        os.close(self.fd)
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])

    def _read(self, until: float) -> bool:
        assert select.select([self.fd], [], [], max(0.0, until - time.monotonic()))[0], self.shown
        try:
            part = os.read(self.fd, 65536)
        except OSError:
            return False
        self.shown += part.decode().replace("\r\n", "\n")
        return bool(part)


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """A home folder with a broker."""
    (tmp_path / "run" / "leasehold").mkdir(parents=True, mode=0o700)
    vault = Vault(tmp_path / "vault", Secret(b"k" * 32), lambda: 97_445)
    broker = VaultBroker(tmp_path / "run" / "leasehold" / "broker.sock", vault, {})
    yield tmp_path
    broker.stop()


def test_a_value_is_asked_for_and_not_shown(folder: Path) -> None:
    terminal = Terminal(folder, "secret", "set", "forge-token")
    terminal.until("value of forge-token (not shown): ")
    os.write(terminal.fd, b"s3cr3t\n")
    assert terminal.end() == 0
    assert terminal.shown == "value of forge-token (not shown): \nstored forge-token\n"
    assert Vault(folder / "vault", Secret(b"k" * 32), lambda: 0).get("forge-token").reveal() == b"s3cr3t"


def test_no_answer_is_no_value(folder: Path) -> None:
    terminal = Terminal(folder, "secret", "set", "forge-token", NO_COLOR="1")
    terminal.until("(not shown): ")
    os.write(terminal.fd, b"\x04")
    assert terminal.end() == 2
    assert "error: usage: the value is empty\nhint: pipe it in: " in terminal.shown


def test_an_interrupt_ends_the_question(folder: Path) -> None:
    terminal = Terminal(folder, "secret", "set", "forge-token")
    terminal.until("(not shown): ")
    os.write(terminal.fd, b"\x03")
    assert terminal.end() == 130
    assert "Traceback" not in terminal.shown


def test_a_terminal_gets_columns_and_colours(folder: Path) -> None:
    Vault(folder / "vault", Secret(b"k" * 32), lambda: 97_445).set("forge-token", Secret(b"x"))
    terminal = Terminal(folder, "secret", "list")
    assert terminal.end() == 0
    assert terminal.shown == "\x1b[1mNAME         CHANGED\x1b[0m\nforge-token  1970-01-02T03:04:05Z\n"


@pytest.mark.parametrize(
    ("variables", "coloured"),
    [({}, True), ({"NO_COLOR": ""}, True), ({"NO_COLOR": "1"}, False), ({"TERM": "dumb"}, False)],
)
def test_colours_can_be_switched_off(folder: Path, variables: dict[str, str], coloured: bool) -> None:
    terminal = Terminal(folder, "secret", "rm", "gone", **variables)
    assert terminal.end() == 1
    word = "\x1b[31merror:\x1b[0m" if coloured else "error:"
    assert terminal.shown.startswith(f"{word} secret-unavailable: the vault has no secret 'gone'\nhint: ")


def test_help_is_as_wide_as_the_terminal(folder: Path) -> None:
    wide, narrow = (Terminal(folder, "run", "--help", COLUMNS=columns) for columns in ("200", "40"))
    assert (wide.end(), narrow.end()) == (0, 0)
    assert max(map(len, wide.shown.splitlines())) > 80
    assert len(narrow.shown.splitlines()) > len(wide.shown.splitlines())


def test_what_others_wrote_cannot_move_the_cursor(capsys: pytest.CaptureFixture[str]) -> None:
    output.table(("A", "B"), [("x\ty", "\x1b[2J\u202e")])
    output.note("a\nb")
    output.error(ConfigError("m\x1b[0m", hint="h\r"), as_json=False)
    shown = capsys.readouterr()
    assert shown.out == "x\\ty\t\\x1b[2J\\u202e\n"
    assert shown.err == "note: a\\nb\nerror: config-invalid: m\\x1b[0m\nhint: h\\r\n"


def test_a_value_given_as_json_stays_what_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    output.dump({"a": "\x1bä\n"})
    output.error(ConfigError("m", hint="h"), as_json=True)
    shown = capsys.readouterr()
    assert shown.out == '{"a": "\\u001bä\\n"}\n'
    assert shown.err == '{"error": {"code": "config-invalid", "message": "m", "hint": "h"}}\n'


def test_what_is_no_terminal_has_no_colour() -> None:
    assert output.paint("x", output.RED, io.StringIO()) == "x"


def test_a_launcher_that_fails_for_a_reason_nobody_thought_of_is_125(folder: Path) -> None:
    """Also then: a command of its own may end with 1."""
    (folder / "sitecustomize.py").write_text(
        "import signal\ndef no(*_): raise ZeroDivisionError\nsignal.getsignal = no\n"
    )
    terminal = Terminal(folder, "run", "--", "true", PYTHONPATH=f"{folder}:{CHECKOUT / 'src'}")
    assert terminal.end() == 125
    assert "ZeroDivisionError" in terminal.shown
    assert re.search(r"^Traceback", terminal.shown, re.MULTILINE)


def test_an_interrupt_is_130(folder: Path) -> None:
    terminal = Terminal(folder, "secret", "set", "forge-token")
    terminal.until("(not shown): ")
    os.kill(terminal.pid, signal.SIGINT)
    assert terminal.end() == 130
