"""Work in forked processes, which may change their user, namespaces and limits, and what fails in them."""

from __future__ import annotations

import ctypes
import os
import traceback
from collections.abc import Callable
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    from servers.people import Person

_PR_SET_DUMPABLE = 4


def in_child(work: Callable[[], object]) -> None:
    """Run ``work`` in a forked process; what fails there fails here."""
    pid = os.fork() or run_and_exit(work)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def run_and_exit(work: Callable[[], object]) -> NoReturn:
    """In a forked child: ``work``, then the end of the process, with 0 if nothing failed."""
    code = 1
    try:
        work()
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def as_person(person: Person | None, work: Callable[[], object]) -> None:
    """:func:`in_child`, with this person's rights."""

    def become() -> None:
        if person is not None:
            os.setgroups([])
            os.setresgid(person.gid, person.gid, person.gid)
            os.setresuid(person.uid, person.uid, person.uid)
            # A program that this user starts is the user's; one that changes its user is not, before its next exec.
            ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 1, 0, 0, 0)
        work()

    in_child(become)
