"""The compartment's network with the real gate in real namespaces, as root and as an ordinary user; no Envoy."""

from __future__ import annotations

import os
import resource
import select
import signal
import socket
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from fakes.children import as_person, in_child, run_and_exit
from leasehold.core.errors import SandboxError
from leasehold.inside import gate
from leasehold.node.sandbox import namespaces, netlink
from leasehold.node.sandbox.namespaces import Network

if TYPE_CHECKING:
    from servers.people import Person

NAMES = {"api.forge.test": "198.18.0.2"}
QUERY = b"\0\1\0\0\0\1\0\0\0\0\0\0\3api\5forge\4test\0\0\1\0\1"
DESCRIPTORS = Path("/proc/self/fd")
_CLONE_NEWNET = 0x40000000


def inside(network: Network, work: Callable[[], object]) -> None:
    """``work`` where the agent would be."""

    def enter() -> None:
        network.enter()
        work()

    in_child(enter)


def until_ended(network: Network) -> None:
    """The gate ends when the launcher does, which it sees at its socket."""
    network._control.shutdown(socket.SHUT_RDWR)
    assert select.select([network.gate_fd], [], [], 10)[0]


def status(pid: int) -> dict[str, str]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


def ask(kind: socket.SocketKind, data: bytes, port: int, address: str = "127.0.0.1") -> bytes:
    with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, kind) as sock:
        sock.settimeout(10)
        sock.connect((address, port))
        sock.sendall(data)
        return sock.recv(4096)


def framed(query: bytes) -> bytes:
    return len(query).to_bytes(2, "big") + query


def test_all_that_exists_are_the_names_and_the_ports(person: Person | None, tmp_path: Path) -> None:
    """As the agent sees it; and what the gate itself may do."""
    with socket.socket(socket.AF_UNIX) as envoy:
        envoy.bind(f"{tmp_path}/envoy")
        envoy.listen(8)
        envoy.settimeout(10)
        for path in (tmp_path, tmp_path.parent, tmp_path.parent.parent):
            path.chmod(0o755)
        (tmp_path / "envoy").chmod(0o777)

        def through(target: tuple[str, int], data: bytes = b"ping") -> bytes:
            """What arrives at Envoy, which answers ``pong``; and that the answer arrives."""
            with socket.create_connection(target, timeout=10) as client:
                client.sendall(data)
                if data.startswith(b"CONNECT"):
                    assert client.recv(4096) == b"HTTP/1.1 200 OK\r\n\r\n"
                    client.sendall(b"ping")
                upstream, _ = envoy.accept()
                with upstream:
                    upstream.settimeout(10)
                    got = upstream.recv(4096)
                    upstream.sendall(b"pong")
                assert client.recv(4096) == b"pong" and client.recv(4096) == b""
                return got

        def agent() -> None:
            assert socket.if_nameindex() == [(1, "lo")]
            answer = ask(socket.SOCK_DGRAM, QUERY, 53)
            assert answer[3] & 15 == 0 and answer.endswith(socket.inet_aton("198.18.0.2"))
            assert ask(socket.SOCK_STREAM, framed(QUERY), 53) == framed(answer)
            unknown = ask(socket.SOCK_DGRAM, QUERY.replace(b"api", b"ape"), 53)
            assert unknown[3] & 15 == 3 and len(unknown) == len(QUERY)
            for address in ("198.18.0.2", "203.0.113.9", "2001:db8::1", "127.0.0.1"):
                assert through((address, 443)) == b"ping"
                with pytest.raises(ConnectionRefusedError):
                    ask(socket.SOCK_STREAM, b"", 80, address)
            assert through(("127.0.0.1", 3128), b"CONNECT api.forge.test:443 HTTP/1.1\r\n\r\n") == b"ping"
            refused = ask(socket.SOCK_STREAM, b"CONNECT evil.test:443 HTTP/1.1\r\n\r\n", 3128)
            assert refused.startswith(b"HTTP/1.1 403 ")

        def launcher() -> None:
            network = namespaces.create()
            assert network.mode == ("relay" if person else "netns")
            network.serve(NAMES, [443], {"443": f"{tmp_path}/envoy"})
            its = status(network._pid)
            assert {its[f"Cap{name}"] for name in ("Inh", "Prm", "Eff", "Bnd", "Amb")} == {"0" * 16}
            assert its["NoNewPrivs"] == "1"
            inside(network, agent)
            assert network.denied_names() == {"ape.forge.test": 1, "evil.test": 1}
            until_ended(network)
            assert network.denied_names() == {}
            network.close()
            network.close()

        as_person(person, launcher)


def test_what_enters_keeps_nothing_of_the_namespace(person: Person | None) -> None:
    """An ordinary user has every capability there for a moment, in which mounts are made."""
    seen: list[str] = []

    def agent() -> None:
        own = status(os.getpid())
        if person is not None:
            assert int(own["CapEff"], 16) == int(own["CapBnd"], 16) == 0 and own["NoNewPrivs"] == "1"
            assert int(seen[0], 16)
            with pytest.raises(OSError, match="not permitted"):
                netlink.make_everything_local()

    def launcher() -> None:
        network = namespaces.create()

        def enter() -> None:
            network.enter(lambda: seen.append(status(os.getpid())["CapEff"]))
            agent()

        in_child(enter)
        network.close()
        with pytest.raises(ChildProcessError):
            os.waitpid(-1, 0)

    as_person(person, launcher)


def test_the_gate_holds_nothing_but_its_sockets() -> None:
    secret = os.memfd_create("secret")
    os.set_inheritable(secret, True)
    network = namespaces.create()
    try:
        network.serve(NAMES, [], {})
        files = [str(path.readlink()) for path in Path(f"/proc/{network._pid}/fd").iterdir()]
        assert not [name for name in files if "memfd" in name]
        assert {name.partition(":")[0] for name in files} <= {"/dev/null", "socket", "anon_inode"}
    finally:
        network.close()
        os.close(secret)


def test_a_gate_that_was_never_asked_ends_with_its_launcher() -> None:
    network = namespaces.create()
    until_ended(network)
    with pytest.raises(SandboxError, match="network failed: "):
        network.serve(NAMES, [443], {})
    network.close()


def test_a_connection_that_says_nothing_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gate, "_HEAD_TIMEOUT_S", 0.0)
    network = namespaces.create()
    network.serve(NAMES, [], {})
    inside(network, lambda: _is_ended(3128))
    until_ended(network)
    network.close()


def _is_ended(port: int) -> None:
    with socket.create_connection(("127.0.0.1", port), timeout=10) as client:
        assert client.recv(16) == b""


def test_envoys_listener_in_the_namespace_is_waited_for() -> None:
    """As root, where Envoy listens there itself."""
    network = namespaces.create()

    def listen() -> None:
        netns = os.open(f"/proc/{network._pid}/ns/net", os.O_RDONLY)
        namespaces._check(namespaces._libc().setns(netns, _CLONE_NEWNET), "setns")
        with socket.create_server(("127.0.0.1", 443)):
            network.serve(NAMES, [443], {})

    in_child(listen)
    until_ended(network)
    network.close()


def refused(network: Network, reason: str, *arguments: object) -> None:
    """It says why, serves nobody, and has ended."""
    with pytest.raises(SandboxError, match=f"the compartment's network failed: {reason}"):
        network.serve(*arguments)  # type: ignore[arg-type]  # some are wrong on purpose
    assert select.select([network.gate_fd], [], [], 10)[0]
    network.close()


def test_without_envoy_nothing_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gate, "_PROBE_S", 0.05)
    refused(namespaces.create(), "TimeoutError: nothing listens on port 443", NAMES, [443], {})


def test_without_one_of_its_listeners_nothing_starts() -> None:
    refused(namespaces.create(), "OSError: .*in use", NAMES, [53], {"53": "/nowhere"})
    refused(namespaces.create(), "ValueError: ", NAMES, ["https"], {})


def test_a_gate_that_does_not_answer_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(namespaces, "_ANSWER_TIMEOUT_S", 0.1)
    network = namespaces.create()
    os.kill(network._pid, signal.SIGSTOP)
    with pytest.raises(SandboxError, match="network failed: TimeoutError"):
        network.serve(NAMES, [], {})
    network.close()


def test_a_gate_that_never_comes_up_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(namespaces, "_ANSWER_TIMEOUT_S", 0.1)

    def launcher() -> None:
        os.register_at_fork(after_in_child=lambda: os.kill(os.getpid(), signal.SIGSTOP))
        fails("timed out")

    in_child(launcher)


def fails(reason: str) -> None:
    """Making the network does, and leaves no process and no descriptor."""
    before = len(list(DESCRIPTORS.iterdir()))
    with pytest.raises(SandboxError, match=f"network cannot be made: {reason}"):
        namespaces.create()
    assert len(list(DESCRIPTORS.iterdir())) == before
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, 0)


def test_without_a_namespace_nothing_starts() -> None:
    """root without capabilities, as in a container that keeps them."""

    def launcher() -> None:
        namespaces.drop_privileges()
        fails("PermissionError: .*unshare a network namespace: Operation not permitted$")

    in_child(launcher)


def test_a_gate_that_ends_at_once_is_noticed() -> None:
    def launcher() -> None:
        os.register_at_fork(after_in_child=lambda: os.kill(os.getpid(), signal.SIGKILL))
        fails("it ended")

    in_child(launcher)


def test_half_of_the_namespaces_is_none(ordinary_user: Person) -> None:
    """The launcher runs short of descriptors just when the two arrive."""

    def fill_up() -> None:
        highest = max(int(path.name) for path in DESCRIPTORS.iterdir())
        resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 1, highest + 1))
        try:
            while True:
                os.dup(0)
        except OSError:
            return

    def launcher() -> None:
        os.register_at_fork(after_in_parent=fill_up)
        with pytest.raises(SandboxError, match="network cannot be made: it ended"):
            namespaces.create()
        with pytest.raises(ChildProcessError):
            os.waitpid(-1, 0)

    as_person(ordinary_user, launcher)


def test_a_gate_whose_launcher_has_gone_ends() -> None:
    ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, its:
        pid = os.fork() or run_and_exit(lambda: namespaces._confine(its, os.getpid(), root=True))
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 1
        its.close()
        assert ours.recv(16) == b""


def test_what_the_kernel_refuses_is_an_error() -> None:
    with pytest.raises(OSError, match="setns: Bad file descriptor"):
        namespaces._check(namespaces._libc().setns(-1, _CLONE_NEWNET), "setns")

    def again() -> None:
        namespaces._check(namespaces._libc().unshare(_CLONE_NEWNET), "unshare")
        netlink.make_everything_local()
        with pytest.raises(FileExistsError, match="rtnetlink request 24: File exists"):
            netlink.make_everything_local()

    in_child(again)
