"""One run from its start to its end: exit codes, signals, who dies when, and what is left."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from fakes.jail import Jail


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


def test_a_defect_of_ours_is_no_exit_code_of_the_commands(jail: Jail) -> None:
    (jail.lh / "reply.json").write_text('{"ok": true}')
    done = jail.run("true")
    assert done.returncode == 125
    assert "Traceback" in done.stderr and "error: internal: KeyError" in done.stderr


def test_json_summary(jail: Jail) -> None:
    done = jail.run("sh", "-c", "echo out; exit 4", options=["--json"])
    assert (done.returncode, done.stdout) == (4, "out\n")
    summary = json.loads(done.stderr)
    assert summary["exit_code"] == 4 and summary["unknown_names"] == {"telemetry.test": 2}
    assert summary["notes"] == ["the access has expired", "handed back"]


def test_options_reach_the_broker(jail: Jail) -> None:
    options = [
        "--task",
        "why",
        "--class",
        "ci",
        "--grant",
        "a",
        "--grant",
        "b",
        "--expose",
        "c",
        "--ttl",
        "15m",
        "--profile",
        "aider",
    ]
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
        "expose": ["c"],
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


def test_a_broker_that_ends_during_the_start_is_the_reason_given(jail: Jail) -> None:
    (jail.lh / "die-early").write_text("")
    (jail.lh / "no-network").write_text("")
    done = jail.run("touch", "started")
    assert done.returncode == 125 and "error: broker-gone" in done.stderr
    assert not (jail.work / "started").exists()


@pytest.mark.parametrize("how", ["rename", "unlink"])
def test_f2_a_protection_that_falls_off_ends_the_agent(jail: Jail, how: str) -> None:
    """Somebody on the host replaces a protected file, and the kernel takes the mount away."""
    (jail.work / ".env").write_text("SECRET=canary\n")
    jail.masks((".env", "ro-data", "SECRET=placeholder\n"))
    launcher = jail.start("sh", "-c", "cat .env; touch ready; while :; do cat .env; sleep 0.01; done >> said")
    wait_for(jail.work / "ready")
    time.sleep(0.2)
    if how == "rename":
        (jail.base / "new").write_text("SECRET=canary\n")
        (jail.base / "new").rename(jail.work / ".env")
    else:
        (jail.work / ".env").unlink()
    _, err = launcher.communicate(timeout=20)
    assert launcher.returncode == 125
    assert f"has changed while the agent ran: {jail.work}/.env is not mounted".encode() in err


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
