"""First process of a compartment with a terminal: makes the terminal the session's, and minds job control.

It runs inside, holds nothing, and is started as ``session.py CONTROL -- COMMAND…``. The command gets a process group
of its own in the foreground, so that Ctrl-Z stops it as it would without us; that it has stopped is told to the
launcher by one byte on descriptor ``CONTROL``, which the command does not get.
"""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import sys
import termios

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

STOPPED = b"s"
NOT_EXECUTABLE, NOT_FOUND = 126, 127


def main(argv: list[str]) -> int:
    """Run the command; its exit code, or 128 + n when signal n ended it."""
    control, command = int(argv[0]), argv[2:]
    os.set_inheritable(control, False)
    os.setsid()
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)
    pid = os.fork() or _command(command)
    while True:
        _, status = os.waitpid(pid, os.WUNTRACED)
        if not os.WIFSTOPPED(status):
            code = os.waitstatus_to_exitcode(status)
            return code if code >= 0 else 128 - code
        os.write(control, STOPPED)


def _command(command: list[str]) -> NoReturn:
    """In the child: a process group of its own, in the foreground, then the command."""
    os.setpgid(0, 0)
    # A background process that takes the terminal would be stopped by this signal.
    signal.signal(signal.SIGTTOU, signal.SIG_IGN)
    os.tcsetpgrp(0, os.getpgrp())
    for number in (signal.SIGTTOU, signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(number, signal.SIG_DFL)
    os._exit(_execute(command))


def _execute(command: list[str]) -> int:
    try:
        os.execvp(command[0], command)  # noqa: S606 (the agent's command, as a list)
    except OSError as error:
        if error.errno == errno.ENOEXEC:
            os.execv("/bin/sh", ["sh", *command])  # noqa: S606 (a script without #!, as every shell treats it)
        os.write(2, f"error: {command[0]}: {error.strerror}\n".encode(errors="replace"))
        return NOT_FOUND if error.errno == errno.ENOENT else NOT_EXECUTABLE


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
