"""The sandbox on this machine: real bubblewrap, real kernel, small fakes for broker and network (rows of BOUNDARY E).

Most of it is looked at once, by one program inside, as root and as an ordinary user.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from fakes import look_around
from fakes.jail import Jail
from leasehold.node.sandbox.places import HOME
from servers.ca import TestCa

if TYPE_CHECKING:
    from servers.people import Person

CANARY = "canary-5f1d0c"


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


def test_many_masks_and_few_descriptors(jail: Jail) -> None:
    names = [f"f{i}" for i in range(300)]
    for name in names:
        (jail.work / name).write_text(CANARY)
    jail.masks(*((name, "ro-data", "masked\n") for name in names))
    command = jail.command("sh", "-c", "cat f* | sort | uniq -c; ulimit -n")
    limited = ["sh", "-c", 'ulimit -Sn 256; exec "$@"', "sh", *command]
    done = subprocess.run(limited, env=jail.environment(), capture_output=True, text=True, check=False, timeout=60)
    assert done.stdout.split() == ["300", "masked", "256"], done.stderr


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
        # 32 and 33 are glibc's own, and cannot be reset where whoever started the tests ignores them.
        "grep -cE '^Sig(Ign|Blk):.0*[018]{2}0{7}$' /proc/self/status": "2",
        "head -c 3 /etc/ssl/certs/ca-certificates.crt && cmp /etc/ssl/cert.pem /run/leasehold/ca.pem && echo": "---",
    }
    jail.reply(ca_pem=TestCa(jail.base).path.read_text())
    script = "\n".join(f"{{ {command}; }} 2>/dev/null | tr '\\n' ' '; echo" for command in commands)
    lines = jail.run("sh", "-c", script).stdout.splitlines()
    assert [line.strip() for line in lines] == list(commands.values())
