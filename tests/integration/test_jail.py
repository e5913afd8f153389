"""The sandbox on this machine: real bubblewrap, real kernel, small fakes for broker and network (rows of BOUNDARY E).

Most of it is looked at once, by one program inside, as root and as an ordinary user.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, cast

import pytest

from fakes import look_around
from fakes.hosts import a_request
from fakes.jail import Jail
from fakes.launcher import EmptyNetwork
from leasehold.core.errors import SandboxError
from leasehold.node.sandbox import kernel, launch, system
from leasehold.node.sandbox.places import HOME
from leasehold.node.sandbox.plan import HOSTNAME, Effect, Plan, make_plan
from servers.ca import TestCa

if TYPE_CHECKING:
    from servers.people import Person

CANARY = "canary-5f1d0c"
PEOPLE = ["root", "ordinary"]


@pytest.fixture(scope="module", params=PEOPLE)
def person(request: pytest.FixtureRequest) -> Person | None:
    return None if request.param == "root" else request.getfixturevalue("ordinary_user")


@pytest.fixture
def jail(person: Person | None) -> Iterator[Jail]:
    with Jail(person) as made:
        yield made


@pytest.fixture(scope="module")
def seen(person: Person | None) -> Iterator[dict[str, Any]]:
    """What :mod:`fakes.look_around` finds inside, with canaries laid out and descriptors left open outside."""
    with Jail(person) as jail:
        for place in HOME:
            path = jail.home / place
            path.parent.mkdir(parents=True, exist_ok=True)
            if not path.is_dir():
                path.write_text(f"{CANARY}\n")
        outside = jail.base / "outside"
        outside.write_text(CANARY)
        (jail.home / ".gitconfig").write_text(f"[user]\nname = Ann\n[http]\nextraheader = {CANARY}\n")
        (jail.work / "look.py").write_text(Path(look_around.__file__).read_text())
        (jail.work / "to-home").symlink_to(jail.home)
        (jail.work / "to-outside").symlink_to(outside)
        listeners = [listen(str(jail.base / "host.sock")), listen("\0lh-test-abstract")]
        fds = [os.open(outside, os.O_RDONLY) for _ in range(40)] + [os.open("/", os.O_PATH)]
        named = (str(jail.base / "host.sock"), "@lh-test-abstract", "/run/docker.sock", "/run/dbus/system_bus_socket")
        done = jail.run(
            *("python3", "look.py", CANARY[::-1], *named),
            env={"AWS_SECRET_ACCESS_KEY": CANARY, "SSH_AUTH_SOCK": "/tmp/ssh-x", "LC_TIME": "C", "DISPLAY": ":0"},
            pass_fds=fds,
        )
        for fd in fds:
            os.close(fd)
        for listener in listeners:
            listener.close()
        assert done.returncode == 0, done.stderr
        yield json.loads(done.stdout) | {"jail": jail}


def listen(address: str) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(address)
    if not address.startswith("\0"):
        Path(address).chmod(0o777)
    listener.listen()
    return listener


def test_e1_no_process_says_a_secret_and_the_pid_namespace_is_its_own(seen: dict[str, Any]) -> None:
    assert [at for at in seen["found"] if at.startswith("/proc")] == []
    assert set(seen["descriptors"]) == {"1", "2"}
    assert seen["environ"]["LC_TIME"] == "C"


def test_e4_no_descriptor_is_inherited(seen: dict[str, Any]) -> None:
    for process, fds in seen["descriptors"].items():
        numbers = [int(fd.split("=")[0]) for fd in fds]
        assert numbers[:3] == [0, 1, 2]
        more = [fd for fd in fds[3:] if process != "1" or "eventfd" not in fd]
        assert more == []


def test_e4_standard_descriptors_are_always_ours(jail: Jail) -> None:
    """With 0, 1 or 2 closed outside, the next descriptor that the launcher opens must not become the agent's."""
    command = jail.command("sh", "-c", "readlink /proc/self/fd/0 /proc/self/fd/2 > fds")
    closed = subprocess.run(["sh", "-c", 'exec "$@" <&- 2>&-', "sh", *command], env=jail.environment(), check=False)
    assert closed.returncode == 0
    assert (jail.work / "fds").read_text() == "/dev/null\n/dev/null\n"


DENIED = {
    "EPERM": """ptrace process_vm_readv kcmp pidfd_getfd keyctl add_key request_key bpf perf_event_open userfaultfd
    unshare-user unshare-net unshare-time setns mount umount chroot open_tree fsopen mount_setattr name_to_handle_at
    open_by_handle_at quotactl swapon reboot init_module kexec_load acct lookup_dcookie syslog
    personality-no-randomize tiocsti tioclinux tiocsti-high-bits""",
    "ENOSYS": "io_uring_setup clone3 new-call",
    "ok": "pidfd_open unshare-files personality-query tiocgwinsz getpid",
}


@pytest.mark.parametrize("answer", DENIED)
def test_e5_e13_system_calls(seen: dict[str, Any], answer: str) -> None:
    wrong = {name: seen["calls"][name] for name in DENIED[answer].split() if seen["calls"][name] != answer}
    assert wrong == {}


def test_every_call_that_was_tried_is_asserted(seen: dict[str, Any]) -> None:
    assert set(seen["calls"]) == {name for names in DENIED.values() for name in names.split()}


def test_e6_e7_no_socket_of_the_host(seen: dict[str, Any]) -> None:
    found, base = seen["sockets"], seen["jail"].base
    assert found[f"{base}/host.sock"] == "ENOENT"
    assert found["@lh-test-abstract"] == "ECONNREFUSED"
    assert found["/run/docker.sock"] == found["/run/dbus/system_bus_socket"] == "ENOENT"
    assert not {"SSH_AUTH_SOCK", "DISPLAY", "XDG_RUNTIME_DIR", "DBUS_SESSION_BUS_ADDRESS"} & set(seen["environ"])


def test_e9_e10_the_filter_asks_no_supervisor(seen: dict[str, Any]) -> None:
    assert seen["status"]["Seccomp"].strip() == "2"


def test_e14_no_privilege_is_left(seen: dict[str, Any], person: Person | None) -> None:
    status = {name: value.strip() for name, value in seen["status"].items()}
    assert {status[name] for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")} == {"0" * 16}
    assert status["NoNewPrivs"] == "1"
    assert seen["uid"] == (person.uid if person else 0)
    assert seen["core"] == [0, 0]
    assert seen["session"] == 1


def test_e15_nothing_of_the_kernel_is_writable(seen: dict[str, Any]) -> None:
    assert seen["writable"] == []
    assert seen["dev-chmod"] in ("EPERM", "EROFS") and seen["dev-write"] == "ok"
    assert seen["kernel"] == {"kcore": 0, "kmsg": 0, "timer_list": 0, "keys": 0}


def test_e22_writable_places_are_private_and_the_rest_is_read_only(seen: dict[str, Any]) -> None:
    home = f"{seen['jail'].home}/x"
    writable = {at for at, answer in seen["writes"].items() if answer == "ok"}
    assert writable == {"/tmp/x", "/var/tmp/x", "/dev/shm/x", "x", home}
    assert (seen["jail"].work / "x").exists()
    assert not any(Path(at).exists() for at in ("/tmp/x", "/var/tmp/x", "/dev/shm/x", home))


def test_files_that_run_as_their_owner_cannot_be_made(seen: dict[str, Any]) -> None:
    assert (seen["chmod-set-id"], seen["open-set-id"]) == ("EPERM", "EPERM")
    assert (seen["chmod"], seen["open"]) == ("ok", "ok")


def test_e23_socket_families(seen: dict[str, Any]) -> None:
    odd = {"netlink", "packet", "alg", "vsock", "bluetooth", "x25", "key", "can"}
    assert {seen["sockets"][name] for name in odd} == {"EAFNOSUPPORT"}
    assert seen["sockets"]["sctp"] == "EPROTONOSUPPORT"
    assert seen["sockets"]["raw"] != "ok"
    assert {seen["sockets"][name] for name in ("unix", "inet", "inet6", "udp", "pair")} == {"ok"}


def test_e24_e25_no_place_of_credentials_can_be_reached(seen: dict[str, Any]) -> None:
    assert seen["found"] == []
    assert set(seen["root"]) <= {
        *("bin", "dev", "etc", "home", "lib", "lib32", "lib64", "libx32", "proc", "root", "run", "sbin", "sys"),
        *("tmp", "usr", "var"),
    }


def test_e24_the_search_would_have_found_a_canary(jail: Jail) -> None:
    (jail.work / "look.py").write_text(Path(look_around.__file__).read_text())
    (jail.home / ".cargo/bin").mkdir(parents=True)
    (jail.home / ".cargo/bin/tool").write_text(CANARY)
    done = jail.run("python3", "look.py", CANARY[::-1])
    assert f"{jail.home}/.cargo/bin/tool" in json.loads(done.stdout)["found"]


def test_what_bubblewrap_cannot_do_is_an_error(tmp_path: Path) -> None:
    """Not there, not started, failed, or never finished: each time nothing runs and nothing is left."""
    (tmp_path / "work").mkdir()
    host = system.look({"HOME": str(tmp_path / "home"), "PATH": "/usr/bin"})
    plan = make_plan(a_request(workspace=f"{tmp_path}/work", cwd="/gone", command=("touch", "/x")), host)
    network = cast("Any", EmptyNetwork(tmp_path))
    with pytest.raises(SandboxError, match="not installed"):
        launch.start(plan, {}, network, (0, 1, 2), -1, ("/nonexistent/bwrap",))
    with pytest.raises(SandboxError, match="not started: FileNotFoundError"):
        launch.start(plan, {}, cast("Any", Unreachable()), (0, 1, 2), -1)
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

    def enter(self) -> None:
        raise FileNotFoundError("no such namespace")


# --- from the start to the end -----------------------------------------------------------------------------------


def test_exit_codes_and_standard_streams(jail: Jail) -> None:
    done = jail.run("sh", "-c", "cat; echo err >&2; exit 3", input="in\udcff\n")
    assert (done.returncode, done.stdout) == (3, "in\udcff\n")
    assert "\nerr\n" in done.stderr and "task 7f3k ended after" in done.stderr
    assert jail.run("sh", "-c", "kill -TERM $$").returncode == 143
    assert jail.run("sh", "-c", "kill -SEGV $$").returncode == 139
    assert list(jail.work.iterdir()) == []
    assert [message["exit_code"] for message in jail.told("task.close")] == [3, 143, 139]


def test_commands_that_cannot_be_executed(jail: Jail) -> None:
    (jail.work / "plain").write_text("x")
    (jail.work / "broken").write_text("#!/nonexistent/interpreter\n")
    (jail.work / "broken").chmod(0o755)
    (jail.work / "script").write_text("exit 5\n")
    (jail.work / "script").chmod(0o755)
    (jail.base / "outside").write_text("#!/bin/sh\n")
    (jail.base / "outside").chmod(0o755)
    for command, code in (("gone", 127), (f"{jail.base}/outside", 127), (f"{jail.work}/plain", 126)):
        done = jail.run(command)
        assert done.returncode == code and "error: command-not-" in done.stderr and "hint: " in done.stderr
        assert not (jail.lh / "finished").exists()
    assert jail.run(f"{jail.work}/broken").returncode == 126
    assert jail.run(f"{jail.work}/script").returncode == 5
    assert jail.run().returncode == 125


def test_what_fails_before_the_start_means_no_start(jail: Jail) -> None:
    (jail.lh / "no-network").write_text("")
    done = jail.run("touch", "started")
    assert done.returncode == 125
    assert "error: sandbox-unavailable: the network does not answer\nhint: a fake\n" in done.stderr
    assert not (jail.work / "started").exists()
    assert jail.told("task.started") == [] and len(jail.told("task.close")) == 1
    assert (jail.lh / "finished").exists()


def test_an_error_of_the_brokers_is_passed_on(jail: Jail) -> None:
    error = {"code": "grant-refused", "message": "no such grant", "hint": "look"}
    (jail.lh / "reply.json").write_text(json.dumps({"error": error}))
    done = jail.run("true", options=["--json"])
    assert done.returncode == 125
    assert json.loads(done.stderr) == {"error": error}


def test_json_summary(jail: Jail) -> None:
    done = jail.run("sh", "-c", "echo out; exit 4", options=["--json"])
    assert (done.returncode, done.stdout) == (4, "out\n")
    summary = json.loads(done.stderr)
    assert summary["exit_code"] == 4 and summary["unknown_names"] == {"telemetry.test": 2}
    assert summary["notes"] == ["the access has expired", "handed back"]


def test_options_reach_the_broker(jail: Jail) -> None:
    options = ["--task", "why", "--class", "ci", "--grant", "a", "--grant", "b", "--ttl", "15m", "--profile", "aider"]
    assert jail.run("true", options=options).returncode == 0
    (opened,) = jail.told("task.open")
    del opened["java"]
    assert opened == {
        "op": "task.open",
        "class": "ci",
        "profile": "aider",
        "purpose": "why",
        "workspace": str(jail.work),
        "ttl_s": 900,
        "grants": ["a", "b"],
        "config": str(jail.lh / "config.toml"),
        "mode": "relay",
    }


@pytest.mark.parametrize(
    ("options", "said"),
    [(["--ttl", "soon"], "--ttl"), (["--workspace", "/gone"], "not a folder"), (["--profile", "x"], "no profile")],
)
def test_wrong_usage(jail: Jail, options: list[str], said: str) -> None:
    done = jail.run("true", options=options)
    assert done.returncode == 125 and "error: usage" in done.stderr and said in done.stderr


def test_workspaces_that_show_too_much(jail: Jail) -> None:
    for workspace in (jail.home, jail.base, Path("/"), jail.lh, Path("/tmp"), Path("/etc")):
        done = jail.run("true", options=["--workspace", str(workspace)])
        assert done.returncode == 125 and "error: sandbox-unavailable: the workspace" in done.stderr


def wait_for(path: Path, *, seconds: float = 10) -> None:
    until = time.monotonic() + seconds
    while not path.exists():
        assert time.monotonic() < until, f"{path} did not appear"
        time.sleep(0.01)


def processes(command: str) -> list[int]:
    """Processes of this machine with ``command`` in their command line."""
    found = []
    for process in Path("/proc").iterdir():
        try:
            line = (process / "cmdline").read_bytes() if process.name.isdigit() else b""
        except OSError:
            continue
        if command.encode() in line:
            found.append(int(process.name))
    return found


def is_named(pid: int, name: str) -> bool:
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip() == name
    except OSError:
        return False


def alive(marker: str) -> list[str]:
    """The processes with ``marker`` in their command line, but for ourselves."""
    return [str(pid) for pid in processes(marker) if pid != os.getpid()]


def test_signals_are_for_the_agent(jail: Jail) -> None:
    script = "trap 'echo term; exit 9' TERM; trap 'echo int' INT; touch ready; while :; do sleep 0.05; done"
    launcher = jail.start("sh", "-c", script)
    wait_for(jail.work / "ready")
    launcher.send_signal(signal.SIGINT)
    time.sleep(0.3)
    launcher.send_signal(signal.SIGTERM)
    out, err = launcher.communicate(timeout=20)
    assert (launcher.returncode, out) == (9, b"int\nterm\n")
    assert b"task 7f3k ended" in err


def size_after(path: Path, seconds: float) -> int:
    time.sleep(seconds)
    return path.stat().st_size


def test_a_stopped_launcher_stops_the_agent(jail: Jail) -> None:
    launcher = jail.start("sh", "-c", "while :; do echo . >> ticks; sleep 0.02; done", process_group=0)
    ticks = jail.work / "ticks"
    wait_for(ticks)
    launcher.send_signal(signal.SIGTSTP)
    before = size_after(ticks, 0.3)
    assert Path(f"/proc/{launcher.pid}/stat").read_text().split()[2] == "T"
    assert size_after(ticks, 0.2) == before
    launcher.send_signal(signal.SIGCONT)
    assert size_after(ticks, 0.3) > before
    launcher.send_signal(signal.SIGTERM)
    launcher.communicate(timeout=20)
    assert launcher.returncode == 143


@pytest.mark.parametrize(("file", "said"), [("die", b"error: broker-gone"), ("cut", b"error: sandbox-unavailable")])
def test_without_broker_or_network_the_agent_is_ended(jail: Jail, file: str, said: bytes) -> None:
    (jail.lh / file).write_text("")
    marker = f"77.{os.getpid()}"
    launcher = jail.start("sh", "-c", f"(setsid sleep {marker} &) ; trap '' TERM INT HUP; sleep {marker}")
    out, err = launcher.communicate(timeout=20)
    assert (launcher.returncode, out) == (125, b"")
    assert said in err
    assert alive(marker) == []
    assert (jail.lh / "finished").exists()


def test_a_broker_that_ends_at_the_very_end_changes_no_exit_code(jail: Jail) -> None:
    (jail.lh / "die-at-close").write_text("")
    done = jail.run("sh", "-c", "exit 6")
    assert done.returncode == 6
    assert done.stderr.endswith(
        "leasehold  the broker ended, and all access with it; the agent does not run on without\n"
    )


def test_a_broker_that_hangs_up_ends_the_agent(jail: Jail) -> None:
    (jail.lh / "hang-up").write_text("")
    done = jail.run("sleep", "60")
    assert done.returncode == 125 and "error: broker-gone" in done.stderr


def test_signals_that_are_ignored_outside_stay_so(jail: Jail) -> None:
    command = jail.command("sh", "-c", "touch ready; sleep 0.6; echo survived")
    nohup = ["sh", "-c", "trap '' HUP; exec \"$@\"", "sh", *command]
    with subprocess.Popen(nohup, env=jail.environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE) as launcher:
        wait_for(jail.work / "ready")
        launcher.send_signal(signal.SIGHUP)
        assert launcher.communicate(timeout=20)[0] == b"survived\n"
    assert launcher.returncode == 0


def test_an_interrupt_before_the_start_leaves_nothing(jail: Jail) -> None:
    (jail.lh / "slow").write_text("")
    launcher = jail.start("touch", "started")
    wait_for(jail.lh / "serving")
    launcher.send_signal(signal.SIGINT)
    launcher.communicate(timeout=20)
    assert launcher.returncode == 130
    assert not (jail.work / "started").exists() and (jail.lh / "finished").exists()


def test_what_the_agent_leaves_running_ends_with_it(jail: Jail) -> None:
    marker = f"78.{os.getpid()}"
    done = jail.run("sh", "-c", f"setsid nohup sleep {marker} >/dev/null 2>&1 & exit 0")
    assert done.returncode == 0
    assert alive(marker) == []


def test_the_launcher_is_above_everything(jail: Jail) -> None:
    """The compartment's pid namespace lies in another one, whose init dies with the launcher: no window is left."""
    marker = f"80.{os.getpid()}"
    launcher = jail.start("sleep", marker)
    until = time.monotonic() + 10
    while not (found := [pid for pid in processes(f"sleep\0{marker}") if is_named(pid, "sleep")]):
        assert time.monotonic() < until
        time.sleep(0.02)
    status = Path(f"/proc/{found[0]}/status").read_text()
    assert len(status.split("NSpid:")[1].splitlines()[0].split()) == 3
    launcher.kill()
    launcher.communicate(timeout=20)


@pytest.mark.parametrize("delay_ms", range(20, 200, 20))
def test_a_killed_launcher_leaves_nothing(jail: Jail, delay_ms: int) -> None:
    marker = f"79.{os.getpid()}.{delay_ms}"
    launcher = jail.start("sleep", marker)
    time.sleep(delay_ms / 1000)
    launcher.kill()
    launcher.communicate(timeout=20)
    until = time.monotonic() + 5
    while alive(marker) and time.monotonic() < until:
        time.sleep(0.02)
    assert alive(marker) == []


# --- what is laid over the workspace and the home ------------------------------------------------------------------


def test_masks(jail: Jail) -> None:
    for name in (".git/hooks", "bin"):
        (jail.work / name).mkdir(parents=True)
    (jail.work / ".env").write_text(f"KEY={CANARY}\n")
    (jail.work / "bin/tool").write_text(CANARY)
    (jail.work / "code").write_text("code")
    jail.masks(
        (".git", "rw-bind", ""),
        (".git/hooks", "ro-bind", ""),
        (".env", "ro-data", "KEY=placeholder\n"),
        ("bin", "empty-dir", ""),
    )
    script = """
    cat .env; ls bin; cat code; echo x > .git/config && echo wrote
    for path in .git/hooks/pre-commit .env bin/new; do (echo x > $path) 2>/dev/null && echo wrote $path; done
    for path in .git .git/hooks .env bin; do mv $path moved 2>/dev/null && echo moved $path; done
    rm -rf .git/hooks bin .env 2>/dev/null; ln -sf /tmp/x .env 2>/dev/null; true
    """
    done = jail.run("sh", "-c", script)
    assert done.stdout == "KEY=placeholder\ncodewrote\n"
    assert (jail.work / ".env").read_text() == f"KEY={CANARY}\n"
    assert (jail.work / "bin/tool").read_text() == CANARY
    assert list((jail.work / ".git/hooks").iterdir()) == []


@pytest.mark.parametrize("kind", ["rw-bind", "ro-bind", "ro-data", "empty-dir"])
def test_e17_a_mask_that_would_land_elsewhere_keeps_the_agent_from_starting(jail: Jail, kind: str) -> None:
    """A folder of the path has become a link: sources are not followed, and a mount elsewhere is seen."""
    (jail.work / "real/x").mkdir(parents=True)
    (jail.work / "moved").symlink_to("real")
    (jail.work / "real/file").write_text("x")
    jail.masks(("moved/file" if kind == "ro-data" else "moved/x", kind, ""))
    done = jail.run("touch", "started")
    assert done.returncode == 125 and "error: sandbox-unavailable" in done.stderr
    assert not (jail.work / "started").exists()


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


def test_tools_are_shown_read_only_and_without_their_tokens(jail: Jail) -> None:
    node = jail.home / ".nvm/versions/node/v1"
    for folder in (node / "bin", node / "etc", jail.home / "own", jail.base / "sdk", jail.base / "other"):
        folder.mkdir(parents=True)
        (folder / "tool").write_text("#!/bin/sh\necho tool\n")
        (folder / "tool").chmod(0o755)
    (node / "etc/npmrc").write_text(CANARY)
    jail.reply(sandbox={"hide": [], "read_only": [], "tools": [str(jail.base / "sdk")], "env": ["MINE"]})
    script = f"""
    tool; {jail.base}/sdk/tool; cat {node}/etc/npmrc; (echo x > {node}/bin/tool) 2>/dev/null || echo read-only
    ls {jail.base}/other 2>/dev/null; echo $MINE; echo $PATH
    """
    path = f"{node}/bin:{jail.home}/own:{jail.base}/other:{jail.base}/sdk:/usr/bin:/bin"
    done = jail.run("sh", "-c", script, env={"PATH": path, "MINE": "passed"})
    shown = f"/run/leasehold/bin:{node}/bin:{jail.home}/own:{jail.base}/sdk:/usr/bin:/bin"
    assert done.stdout == f"tool\ntool\nread-only\npassed\n{shown}\n"


def test_home_is_thrown_away_and_a_profiles_folder_stays(jail: Jail) -> None:
    script = f"cd {jail.home} && echo kept > .claude/notes && echo lost > lost && cat .gitconfig && ls -A"
    (jail.home / ".gitconfig").write_text("[user]\nname = Ann\n[credential]\nhelper = store\n")
    done = jail.run("sh", "-c", script, options=["--profile", "claude"])
    assert '[user]\n\tname = "Ann"\n' in done.stdout and "credential" not in done.stdout.replace(".credentials", "")
    again = jail.run("sh", "-c", f"cat {jail.home}/.claude/notes; ls {jail.home}", options=["--profile", "claude"])
    assert again.stdout == "kept\n"
    assert sorted(path.name for path in jail.home.iterdir()) == [".gitconfig"]
    other = jail.run("sh", "-c", f"ls -A {jail.home}", options=["--profile", "generic"])
    assert ".claude" not in other.stdout


def test_tools_of_the_system_run(jail: Jail) -> None:
    commands = {
        "curl --version | head -c 4": "curl",
        "git init -q repo && git -C repo status -s && echo git": "git",
        "python3 -c 'import ssl, sqlite3; print(ssl.create_default_context() and 1)'": "1",
        "node -e 'console.log(require(\"os\").cpus().length > 0)'": "true",
        "java -version 2>&1 | grep -c Server": "1",
        "perl -e 'print 7'": "7",
        "getent hosts localhost | wc -l": "1",
        "bash -lc 'echo $PATH' | grep -c ^/run/leasehold/bin": "1",
        "id -un": str(jail.person.name if jail.person else "root"),
        "hostname": "leasehold",
        "leasehold grants --json | python3 -c 'import json, sys; print(json.load(sys.stdin)[\"task\"])'": "7f3k",
        "leasehold run -- true 2>&1 | head -n 1": "error: usage: there is no such command inside a compartment",
        "mktemp -d | cut -c 1-5": "/tmp/",
        "grep -cE '^Sig(Ign|Blk):.0*$' /proc/self/status": "2",
        "head -c 3 /etc/ssl/certs/ca-certificates.crt && cmp /etc/ssl/cert.pem /run/leasehold/ca.pem && echo": "---",
    }
    jail.reply(ca_pem=TestCa(jail.base).path.read_text())
    script = "\n".join(f"{{ {command}; }} 2>/dev/null | tr '\\n' ' '; echo" for command in commands)
    lines = jail.run("sh", "-c", script).stdout.splitlines()
    assert [line.strip() for line in lines] == list(commands.values())
