"""The agent's terminal and the person's, with the person's made here."""

from __future__ import annotations

import fcntl
import os
import select
import signal
import struct
import termios
import threading
from collections.abc import Callable, Iterator
from typing import NoReturn

import pytest

from leasehold.node.sandbox.terminal import Terminal, _write_all


class Person:
    """``master``: what the person types and sees; ``slave``: what the launcher has; ``pipe``: what is no terminal."""

    def __init__(self) -> None:
        self.master, self.slave = os.openpty()
        self.read, self.pipe = os.pipe()

    def close(self) -> None:
        for fd in (self.master, self.slave, self.read, self.pipe):
            if fd >= 0:
                os.close(fd)

    def leave(self) -> None:
        os.close(self.master)
        self.master = -1


@pytest.fixture
def person() -> Iterator[Person]:
    made = Person()
    yield made
    made.close()


def never() -> None:
    raise AssertionError("nothing has been stopped")


def turn(terminal: Terminal) -> None:
    """One turn of the launcher's loop."""
    poll = select.poll()
    watched = terminal.watched()
    for fd, events in watched.items():
        poll.register(fd, events)
    for fd, events in poll.poll(200):
        terminal.ready(fd, events, never)


def test_without_a_terminal_nothing_is_done(person: Person) -> None:
    given = (person.read, person.pipe, person.pipe)
    terminal = Terminal(given)
    assert (terminal.standard, terminal.full, terminal.control) == (given, False, -1)
    assert terminal.watched() == {} and terminal.foreground() is None
    terminal.resize()
    terminal.attach()
    terminal.detach()
    terminal.close(killed=True)


def test_a_keyboard_alone(person: Person) -> None:
    terminal = Terminal((person.slave, person.pipe, person.pipe))
    agent = os.dup(terminal.standard[0])
    assert terminal.standard[1:] == (person.pipe, person.pipe) and not terminal.full
    settings = termios.tcgetattr(agent)
    assert not settings[3] & termios.ECHO and settings[3] & termios.ICANON and not settings[1] & termios.OPOST
    terminal.attach()
    os.write(person.master, b"line\n")
    turn(terminal)
    turn(terminal)
    assert os.read(agent, 100) == b"line\n"
    os.write(person.master, b"\x04")
    turn(terminal)
    turn(terminal)
    assert os.read(agent, 100) == b""
    assert person.slave in terminal.watched()
    person.leave()
    turn(terminal)
    assert person.slave not in terminal.watched()
    turn(terminal)
    assert os.read(agent, 100) == b""
    terminal.close()
    os.close(agent)


def test_a_keyboard_that_another_program_has_taken_is_left_alone(person: Person) -> None:
    terminal = Terminal((person.slave, person.pipe, person.pipe))
    settings = termios.tcgetattr(person.slave)
    settings[3] &= ~termios.ICANON
    termios.tcsetattr(person.slave, termios.TCSANOW, settings)
    os.write(person.master, b"q")
    turn(terminal)
    assert os.read(person.slave, 10) == b"q"
    terminal.close()


def test_in_the_background_the_keyboard_is_left_alone(person: Person) -> None:
    def work(_terminal: Terminal, _agent: int) -> None:
        pid = os.fork() or _in_background(person)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0

    assert with_a_terminal(person, work) == 0


def _in_background(person: Person) -> NoReturn:
    os.setpgid(0, 0)
    terminal = Terminal((person.slave, person.pipe, person.pipe))
    os.write(person.master, b"not for us\n")
    turn(terminal)
    other = Terminal((person.slave, person.slave, person.slave))
    other.attach()
    raw = not termios.tcgetattr(person.slave)[3] & termios.ICANON
    os._exit(1 if raw else 0)


def test_a_keyboard_that_cannot_be_read_has_ended(person: Person) -> None:
    writable = os.open(os.ttyname(person.slave), os.O_WRONLY | os.O_NOCTTY)
    terminal = Terminal((writable, person.pipe, person.pipe))
    os.write(person.master, b"x\n")
    turn(terminal)
    assert writable not in terminal.watched()
    terminal.close()
    os.close(writable)


def test_a_screen_alone(person: Person) -> None:
    fcntl.ioctl(person.slave, termios.TIOCSWINSZ, struct.pack("HHHH", 11, 22, 0, 0))
    terminal = Terminal((person.read, person.slave, person.slave))
    agent = os.dup(terminal.standard[1])
    terminal.attach()
    assert struct.unpack("HHHH", fcntl.ioctl(agent, termios.TIOCGWINSZ, bytes(8)))[:2] == (11, 22)
    os.write(agent, b"seen\n")
    turn(terminal)
    assert os.read(person.master, 100) == b"seen\r\n"
    os.write(agent, b"late\n")
    os.close(agent)
    terminal.close(killed=True)
    assert os.read(person.master, 100) == b"late\r\n"
    assert terminal.watched() == {}


def test_the_end_of_the_agents_side_is_noticed(person: Person) -> None:
    terminal = Terminal((person.read, person.slave, person.slave))
    terminal.attach()
    turn(terminal)
    assert terminal.watched() == {}
    terminal.close()


def test_the_persons_terminal_goes_away(person: Person) -> None:
    terminal = Terminal((person.slave, person.slave, person.slave))
    agent = os.dup(terminal.standard[1])
    terminal.attach()
    person.leave()
    terminal.resize()
    os.write(agent, b"unseen\n")
    turn(terminal)
    terminal.close()
    os.close(agent)


def with_a_terminal(person: Person, work: Callable[[Terminal, int], None]) -> int:
    """The exit code of ``work`` in a process whose terminal is the person's: 0 when nothing was raised."""
    pid = os.fork() or _in_session(person, work)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def _in_session(person: Person, work: Callable[[Terminal, int], None]) -> NoReturn:
    try:
        os.setsid()
        fcntl.ioctl(person.slave, termios.TIOCSCTTY, 0)
        terminal = Terminal((person.slave, person.slave, person.slave))
        work(terminal, os.dup(terminal.standard[0]))
    except BaseException as error:
        os.write(2, f"{error!r}\n".encode())
        os._exit(1)
    os._exit(0)


def test_keyboard_and_screen(person: Person) -> None:
    def work(terminal: Terminal, agent: int) -> None:
        before = termios.tcgetattr(person.slave)
        assert terminal.full and terminal.control >= 0 and person.slave not in terminal.watched()
        assert termios.tcgetattr(agent) == before
        terminal.attach()
        assert not termios.tcgetattr(person.slave)[3] & termios.ICANON
        os.write(person.master, b"x\n")
        turn(terminal)
        turn(terminal)
        assert os.read(agent, 10) == b"x\n"
        assert terminal.foreground() == 0
        turn(terminal)  # the echo, and control, which nobody has any more
        assert os.read(person.master, 100) == b"x\r\n"
        terminal.detach()
        assert termios.tcgetattr(person.slave) == before
        terminal.attach()
        terminal.close(killed=True)
        assert b"\x1b[?1049l" in os.read(person.master, 200)
        assert termios.tcgetattr(person.slave) == before

    assert with_a_terminal(person, work) == 0


def test_a_stop_is_passed_on(person: Person) -> None:
    def work(terminal: Terminal, _agent: int) -> None:
        stopped: list[int] = []
        control = os.dup(terminal.control)
        terminal.attach()
        os.write(control, b"s")
        for fd, events in terminal.watched().items():
            if select.select([fd], [], [], 0)[0]:
                terminal.ready(fd, events, lambda: stopped.append(1))
        assert stopped == [1]
        terminal.close()

    assert with_a_terminal(person, work) == 0


def test_raw_and_then_the_terminal_goes_away(person: Person) -> None:
    def work(terminal: Terminal, _agent: int) -> None:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        terminal.attach()
        os.close(person.master)
        turn(terminal)
        assert person.slave not in terminal.watched()
        terminal.detach()
        terminal.attach()
        terminal.attach()
        terminal.close()

    pid = os.fork() or _in_session(person, work)
    person.leave()
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def test_writing_waits_for_a_slow_terminal_and_forgets_one_that_has_gone(person: Person) -> None:
    os.set_blocking(person.pipe, False)
    data = bytes(300_000)
    got: list[int] = []

    def drain() -> None:
        while sum(got) < len(data):
            got.append(len(os.read(person.read, 65536)))

    reader = threading.Thread(target=drain)
    reader.start()
    _write_all(person.pipe, data)
    reader.join()
    assert sum(got) == len(data)
    os.close(person.read)
    person.read = -1
    _write_all(person.pipe, b"nobody reads this")
