"""A whole compartment with its real network, driven as the launcher drives it, as root and as an ordinary user."""

from __future__ import annotations

import os
import select
import shutil
import signal
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from fakes.children import as_person, in_child
from fakes.hosts import a_request
from leasehold.core.errors import SandboxError
from leasehold.node.sandbox import kernel, launch, namespaces, seccomp, system
from leasehold.node.sandbox.launch import Compartment
from leasehold.node.sandbox.mask import SECRET, Mask
from leasehold.node.sandbox.plan import Plan, make_plan

if TYPE_CHECKING:
    from servers.people import Person


@pytest.fixture
def folder(person: Person | None) -> Iterator[Path]:
    """One of this person's."""
    made = Path(tempfile.mkdtemp(prefix="lh-"))
    os.chown(made, *((person.uid, person.gid) if person else (0, 0)))
    yield made
    shutil.rmtree(made)


@contextmanager
def compartment(work: Path, script: str, *masks: Mask) -> Iterator[tuple[Compartment, Plan, int]]:
    """Looked at and ready to go; what it says comes out of the descriptor."""
    host = system.look({"HOME": "/nonexistent", "PATH": "/usr/bin"})
    request = a_request(workspace=str(work), cwd=str(work), command=("/bin/sh", "-c", script), masks=masks)
    plan = make_plan(request, host)
    said, out = os.pipe()
    typed, keyboard = os.pipe()
    network = namespaces.create()
    made = launch.start(plan, {"PATH": "/usr/bin:/bin"}, network, (typed, out, 2), -1)
    os.close(out)
    os.close(typed)
    try:
        network.serve({}, [], {})
        made.wait_until_ready()
        made.verify(plan, host.homes)
        made.verify_mounts(plan)
        yield made, plan, said
    finally:
        made.close()
        network.close()
        os.close(said)
        os.close(keyboard)


def go(made: Compartment) -> None:
    made.go(seccomp.program(os.uname().machine))


def test_an_agent_runs_to_its_end(person: Person | None, folder: Path) -> None:
    def launcher() -> None:
        with compartment(folder, "cat /proc/self/status; echo made > file; exit 3") as (made, _, said):
            assert not made.ended() and select.select([said], [], [], 0)[0] == []
            go(made)
            assert made.wait() == made.wait() == 3 and made.ended()
            status = os.read(said, 65536).decode()
            assert "\nSeccomp:\t2\n" in status and "\nCapEff:\t0000000000000000\n" in status
            assert "\nNoNewPrivs:\t1\n" in status
            assert (folder / "file").stat().st_uid == os.geteuid()
            made.signal(signal.SIGTERM)

    as_person(person, launcher)


def test_a_signal_reaches_the_agent(person: Person | None, folder: Path) -> None:
    def launcher() -> None:
        script = "trap 'echo heard; exit 5' TERM; echo ready; while :; do read x; done"
        with compartment(folder, script) as (made, _, said):
            go(made)
            assert os.read(said, 64) == b"ready\n"
            made.signal(signal.SIGTERM)
            assert made.wait() == 5 and os.read(said, 64) == b"heard\n"

    as_person(person, launcher)


def test_a_protection_that_has_fallen_off_is_noticed(person: Person | None, folder: Path) -> None:
    """Somebody on the host renames another file over one that is hidden: the kernel takes the mount away."""
    for name in ("token", "other"):
        (folder / name).write_text("secret")

    def launcher() -> None:
        mask = Mask(path="token", kind="ro-data", content=b"placeholder", why=SECRET)
        with compartment(folder, "cat token; read x; cat token", mask) as (made, plan, said):
            go(made)
            assert os.read(said, 64) == b"placeholder"
            made.verify_mounts(plan)
            (folder / "other").rename(folder / "token")
            poll = select.poll()
            poll.register(made.mounts_fd, select.POLLPRI)
            assert poll.poll(10_000)
            with pytest.raises(SandboxError, match=r"has changed while the agent ran: .*/token is not mounted"):
                made.verify_mounts(plan)

    as_person(person, launcher)


def test_standard_descriptors_that_are_closed_are_filled() -> None:
    """What is opened next would be the agent's standard input."""

    def launcher(closed: tuple[int, ...]) -> Callable[[], None]:
        def work() -> None:
            for fd in closed:
                os.close(fd)
            kernel.fill_standard_descriptors()
            assert all(os.fstat(fd).st_rdev == Path("/dev/null").stat().st_rdev for fd in closed)
            assert all(os.get_inheritable(fd) for fd in range(3))
            after = os.open("/etc/hostname", os.O_RDONLY)
            assert after > 2
            os.close(after)

        return work

    for closed in ((), (0,), (0, 2), (0, 1, 2)):
        in_child(launcher(closed))
