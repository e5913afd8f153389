"""A terminal of the agent's own, between it and the person's.

The agent never holds a descriptor of the person's terminal: with one it could read what is typed after it was put into
the background, change its settings, or type for the person. It gets a new pseudo terminal, and the launcher copies.
What the person's terminal answers to a query of the agent's is copied there like every other input.

With keyboard and screen both a terminal, the person's is in raw mode: every key reaches the agent's terminal, and that
makes the signals. With only one of them (a pipeline), it stays as it is, and the signals come through the launcher.
"""

from __future__ import annotations

import fcntl
import os
import select
import signal
import termios
import tty

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

_CHUNK = 65536
_OFLAG, _LFLAG, _CC = 1, 3, 6
# For a terminal whose program was killed: main screen, no mouse reports, no bracketed paste, a visible cursor.
_RESET = b"\x1b[?1000;1002;1003;1006l\x1b[?2004l\x1b[?1049l\x1b[?25h\x1b[0m\r\n"
_WAIT_S = 0.1


class Terminal:
    """The agent's terminal and the person's. Without a terminal among ``given``, all of this does nothing.

    ``given``: the person's standard descriptors. ``standard``: what becomes the agent's. ``full``: keyboard and screen
    are terminals. ``control``: the descriptor for inside/session.py, when ``full``.
    """

    def __init__(self, given: tuple[int, int, int] = (0, 1, 2)) -> None:
        terminals = [os.isatty(fd) for fd in given]
        self.full = terminals[0] and terminals[1]
        self.standard = given
        self._input = given[0]
        self.control = self._stopped = self._master = self._slave = -1
        self._keyboard = terminals[0]
        self._screen = next((given[at] for at in (1, 2, 0) if terminals[at]), -1)
        self._saved: list[Any] = []
        self._raw = False
        self._pending = b""
        if self._screen >= 0:
            self._master, self._slave = os.openpty()
            os.set_blocking(self._master, False)
            first, second, third = (self._slave if terminals[at] else given[at] for at in (0, 1, 2))
            self.standard = (first, second, third)
            self._saved = termios.tcgetattr(self._screen)
            termios.tcsetattr(self._slave, termios.TCSANOW, self._settings())
            self.resize()
        if self.full:
            self._stopped, self.control = os.pipe2(os.O_CLOEXEC)

    def _settings(self) -> list[Any]:
        """As the person's terminal is set; where that does its own echo and line ends, without a second one."""
        settings = list(self._saved)
        if not self.full:
            settings[_OFLAG] &= ~termios.OPOST
            settings[_LFLAG] &= ~termios.ECHO
        return settings

    def resize(self) -> None:
        """Give the agent's terminal the size of the person's; the kernel tells the agent (SIGWINCH)."""
        if self._master >= 0:
            try:
                size = fcntl.ioctl(self._screen, termios.TIOCGWINSZ, b"\0" * 8)
            except OSError:
                return  # the person's terminal has gone
            fcntl.ioctl(self._master, termios.TIOCSWINSZ, size)

    def foreground(self) -> int | None:
        """The process group that signals of the agent's terminal go to; ``None`` when it has no such thing."""
        return os.tcgetpgrp(self._master) if self.full and self._master >= 0 else None

    def attach(self) -> None:
        """Leave the agent's side to the agent, and take the keyboard if this job is in the foreground."""
        self._close_agents_side()
        if self.full and not self._raw and not _in_background(self._input):
            try:
                tty.setraw(self._input, termios.TCSADRAIN)
            except termios.error:
                return  # the person's terminal has gone
            self._raw = True
            self.resize()

    def detach(self) -> None:
        """Give the person's terminal back as it was; what it still answers to the agent is thrown away."""
        if self._raw:
            self._raw = False
            before = signal.signal(signal.SIGTTOU, signal.SIG_IGN)
            try:
                termios.tcsetattr(self._input, termios.TCSAFLUSH, self._saved)
            except termios.error:
                return  # the person's terminal has gone
            finally:
                signal.signal(signal.SIGTTOU, before)

    def watched(self) -> dict[int, int]:
        """Descriptors to poll, and for what."""
        fds = {}
        if self._master >= 0:
            fds[self._master] = select.POLLIN | (select.POLLOUT if self._pending else 0)
            if self._keyboard and not self._pending and (self._raw or not self.full):
                fds[self._input] = select.POLLIN
        if self._stopped >= 0:
            fds[self._stopped] = select.POLLIN
        return fds

    def ready(self, fd: int, events: int, suspend: Callable[[], None]) -> None:
        """Handle one descriptor of :meth:`watched`. ``suspend`` is called when the agent has been stopped."""
        if fd == self._stopped:
            if os.read(fd, _CHUNK):
                suspend()
            else:
                self._stopped = _close(fd)
        elif fd == self._master:
            if events & select.POLLOUT:
                self._pending = self._pending[os.write(fd, self._pending) :]
            if events & ~select.POLLOUT:
                self._copy_output()
        else:
            self._copy_keyboard()

    def close(self, *, killed: bool = False) -> None:
        """Copy what is left of the output and restore the person's terminal; idempotent.

        ``killed``: the agent could not undo the modes that it had set.
        """
        self._close_agents_side()
        while self._copy_output():
            pass
        if killed and self._raw:
            _write_all(self._screen, _RESET)
        self.detach()
        self._master, self._stopped = _close(self._master), _close(self._stopped)

    def _close_agents_side(self) -> None:
        self._slave, self.control = _close(self._slave), _close(self.control)

    def _copy_output(self) -> bool:
        """Copy what the agent has written; false when there is nothing for now, or will be nothing more."""
        if self._master < 0:
            return False
        try:
            data = os.read(self._master, _CHUNK)
        except BlockingIOError:
            return False
        except OSError:  # EIO: nobody has the agent's side open any more
            self._master = _close(self._master)
            return False
        _write_all(self._screen, data)
        return True

    def _copy_keyboard(self) -> None:
        if not self.full and (_in_background(self._input) or _taken(self._input)):
            # Another job, or a pager in the same pipeline, has the keyboard: it is not ours to read.
            select.select([], [], [], _WAIT_S)
            return
        try:
            data = os.read(self._input, 4096)
        except OSError:  # the terminal has gone
            data, self._keyboard = b"", False
        if not data:
            # The end of the input (Ctrl-D), or the terminal has gone.
            self._keyboard = self._keyboard and not self.full and os.isatty(self._input)
            data = b"" if self.full else termios.tcgetattr(self._master)[_CC][termios.VEOF]
        self._pending += data


def _taken(terminal: int) -> bool:
    """Whether a program reads the terminal key by key."""
    try:
        return not termios.tcgetattr(terminal)[_LFLAG] & termios.ICANON
    except termios.error:  # it has gone
        return False


def _in_background(terminal: int) -> bool:
    """Whether another job has the terminal; one that is not our session's has no jobs."""
    try:
        return os.tcgetpgrp(terminal) != os.getpgrp()
    except OSError:
        return False


def _close(fd: int) -> int:
    if fd >= 0:
        os.close(fd)
    return -1


def _write_all(fd: int, data: bytes) -> None:
    """Write to the person's terminal, whoever else has made it non-blocking; one that has gone swallows all."""
    while data:
        try:
            data = data[os.write(fd, data) :]
        except BlockingIOError:
            select.select([], [fd], [])
        except OSError:
            return
