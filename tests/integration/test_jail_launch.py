"""Starting bubblewrap, and looking at what came of it; in this process, as root."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NoReturn, cast

import pytest

from fakes.hosts import a_request
from fakes.launcher import EmptyNetwork
from leasehold.core.errors import SandboxError
from leasehold.node.sandbox import kernel, launch, system
from leasehold.node.sandbox.plan import HOSTNAME, Effect, Plan, make_plan


def test_what_bubblewrap_cannot_do_is_an_error(tmp_path: Path) -> None:
    """Not there, not started, failed, or never finished: each time nothing runs and nothing is left."""
    (tmp_path / "work").mkdir()
    host = system.look({"HOME": str(tmp_path / "home"), "PATH": "/usr/bin"})
    plan = make_plan(a_request(workspace=f"{tmp_path}/work", cwd="/gone", command=("touch", "/x")), host)
    network = cast("Any", EmptyNetwork(tmp_path))
    with pytest.raises(SandboxError, match="not installed"):
        launch.start(plan, {}, network, (0, 1, 2), -1, ("/nonexistent/bwrap",))
    compartment = launch.start(plan, {}, cast("Any", Unreachable()), (0, 1, 2), -1)
    with pytest.raises(SandboxError, match="not started: FileNotFoundError"):
        compartment.wait_until_ready()
    compartment.close()
    unreadable = record_with(plan, effects=(Effect(op="copy", dest="/x", source="/gone"),))
    with pytest.raises(SandboxError, match="cannot be started"):
        launch.start(unreadable, {}, network, (0, 1, 2), -1)
    failing = record_with(plan, effects=(Effect(op="ro-bind", dest="/x", source="/gone"),))
    compartment = launch.start(failing, {}, network, (0, 1, 2), -1)
    with pytest.raises(SandboxError, match="failed with status 1"):
        compartment.wait_until_ready()
    compartment.close()
    powerful = record_with(plan, options=(*plan.options, "--cap-add", "CAP_SYS_CHROOT"))
    compartment = launch.start(powerful, {}, network, (0, 1, 2), -1)
    with pytest.raises(SandboxError, match=r"not ready after 0\.3 s"):
        compartment.wait_until_ready(0.3)
    compartment.close()
    compartment.close()
    assert compartment.ended()
    compartment.signal(signal.SIGTERM)


def test_kernel_calls_that_fail_are_errors() -> None:
    with pytest.raises(OSError, match="setns: Bad file descriptor"):
        kernel._call("setns", -1, 0)


def child_code(child: Callable[[], None]) -> int:
    """The exit code of ``child`` in a forked process."""
    pid = os.fork() or _run(child)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def _run(child: Callable[[], None]) -> NoReturn:
    child()
    os._exit(0)


def exits(code: int) -> Callable[[], NoReturn]:
    return partial(os._exit, code)


def test_going_on_as_init() -> None:
    own = os.getpid()

    def elsewhere(launcher: int, child: Callable[[], NoReturn]) -> None:
        kernel._call("unshare", 0x20000000)
        kernel.go_on_as_init(launcher, child)

    def first() -> NoReturn:
        os._exit(os.getpid())

    def killed() -> NoReturn:
        os.setresuid(65534, 65534, 65534)
        os.kill(os.getpid(), signal.SIGKILL)
        os._exit(9)

    assert child_code(lambda: kernel.go_on_as_init(own, exits(3))) == 3
    assert child_code(lambda: elsewhere(own, first)) == 1
    assert child_code(lambda: elsewhere(own, exits(4))) == 4
    assert child_code(lambda: elsewhere(1, exits(4))) == 125
    assert child_code(lambda: elsewhere(own, killed)) == 9
    dead = os.fork() or _run(exits(0))
    gone = os.pidfd_open(dead)
    os.waitpid(dead, 0)
    assert child_code(lambda: kernel._as_init(gone, exits(4))) == 125
    os.close(gone)


class Unreachable:
    """A network that cannot be entered."""

    def enter(self, before_drop: object) -> None:
        raise FileNotFoundError("no such namespace")


def weakened(plan: Plan) -> Iterator[tuple[str, Plan, str]]:
    """Plans that show or allow more than they should, and what the probe says of each."""
    place = Effect(op="ro-bind", dest="/etc/shadow", source="/etc/shadow")
    last = plan.effects[-2:]

    def with_effects(*effects: Effect) -> Plan:
        return record_with(plan, effects=effects)

    yield "place", with_effects(*plan.effects[:-2], place, *last), "/etc/shadow can be seen"
    host = Effect(op="ro-bind", dest="/mnt", source="/")
    yield "host", with_effects(*plan.effects[:-2], host, *last), "/mnt is mounted"
    yield "writable", with_effects(*plan.effects[:-1]), "/ is writable"
    yield "proc", with_effects(*(e for e in plan.effects if e.dest != "/proc/sys")), "/proc/sys is not mounted"
    for name in ("ipc", "uts", "cgroup"):
        options = tuple(
            option for option in plan.options if option not in (f"--unshare-{name}", "--hostname", HOSTNAME)
        )
        yield name, record_with(plan, options=options), f"the {name} namespace is the host's"


def record_with(plan: Plan, **changes: Any) -> Plan:
    fields = ("options", "effects", "command", "mounts", "allowed")
    return Plan(**{name: getattr(plan, name) for name in fields} | changes)


def test_e14_e17_every_weakened_plan_is_seen_before_anything_runs(tmp_path: Path) -> None:
    """The plan that is carried out differs from the one that it is compared with. Root only: it could do the most."""
    host = system.look({"HOME": str(tmp_path / "home"), "PATH": "/usr/bin"})
    (tmp_path / "work").mkdir()
    request = a_request(workspace=f"{tmp_path}/work", cwd=f"{tmp_path}/work", command=("touch", "started"))
    plan = make_plan(request, host)
    said = {}
    wanted = {}
    for name, weak, complaint in weakened(plan):
        compartment = launch.start(weak, {"PATH": "/usr/bin"}, cast("Any", EmptyNetwork(tmp_path)), (0, 1, 2), -1)
        try:
            compartment.wait_until_ready()
            compartment.verify(plan, host.homes)
            said[name] = "nothing"
        except SandboxError as error:
            said[name] = complaint if complaint in error.message else error.message
        finally:
            compartment.close()
        wanted[name] = complaint
    assert said == wanted
    assert list((tmp_path / "work").iterdir()) == []
