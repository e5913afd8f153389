"""The gate's parts, each on sockets of this process. All together is tried in ``tests/integration/test_network.py``."""

from __future__ import annotations

import os
import resource
import selectors
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from leasehold.inside.gate import Gate, Waiting

QUESTION = b"\0\1\0\0\0\1\0\0\0\0\0\0\3api\5forge\4test\0\0\1\0\1"
ANSWER = b"\0\1\x84\x80\0\1\0\1\0\0\0\0" + QUESTION[12:] + b"\xc0\x0c\0\1\0\1\0\0\0\x3c\0\4\x7f\0\0\1"
DESCRIPTORS = Path("/proc/self/fd")


@pytest.fixture
def gate() -> Iterator[Gate]:
    ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, its:
        made = Gate(its)
        made._names = {"api.forge.test": "127.0.0.1"}
        yield made
        for key in list(made._selector.get_map().values()):
            key.fileobj.close()  # type: ignore[union-attr]  # only sockets are registered
        made._selector.close()


def turn(gate: Gate) -> None:
    """What is ready now, once."""
    for key, events in gate._selector.select(0):
        key.data(events)


def waiting(gate: Gate, ready: Callable[[Waiting], None]) -> socket.socket:
    """The other end of a connection that the gate has accepted."""
    client, near = socket.socketpair()
    near.setblocking(False)
    client.settimeout(10)
    Waiting(gate, near, ready)
    return client


def listening(gate: Gate, address: str, accepted: Callable[[socket.socket], object]) -> tuple[str, int]:
    gate._listen(address, 0, accepted)
    (key,) = gate._selector.get_map().values()
    assert isinstance(key.fileobj, socket.socket)
    return "127.0.0.1", key.fileobj.getsockname()[1]


@contextmanager
def few_descriptors(left: int) -> Iterator[None]:
    """In this process only ``left`` more can be opened."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    highest = max(int(path.name) for path in DESCRIPTORS.iterdir())
    taken = []
    resource.setrlimit(resource.RLIMIT_NOFILE, (highest + left + 1, hard))
    try:
        while True:
            try:
                taken.append(os.dup(0))
            except OSError:
                break
        for fd in taken[len(taken) - left :]:
            os.close(fd)
        del taken[len(taken) - left :]
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for fd in taken:
            os.close(fd)


def test_a_flood_of_queries_is_answered_in_portions(gate: Gate) -> None:
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client,
    ):
        server.bind(("127.0.0.1", 0))
        server.setblocking(False)
        client.connect(server.getsockname())
        client.setblocking(False)
        for _ in range(65):
            client.send(QUESTION)
        gate._datagrams(server)
        assert [client.recv(512) for _ in range(64)] == [ANSWER] * 64
        with pytest.raises(BlockingIOError):
            client.recv(512)
        gate._datagrams(server)
        assert client.recv(512) == ANSWER


def test_a_query_that_deserves_no_reply_or_cannot_get_one_is_passed_over(gate: Gate, tmp_path: Path) -> None:
    with ExitStack() as stack:
        server, gone, client = (stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)) for _ in range(3))
        for name, sock in (("server", server), ("gone", gone), ("client", client)):
            sock.bind(f"{tmp_path}/{name}")
            sock.setblocking(False)
        gone.sendto(QUESTION, f"{tmp_path}/server")
        gone.close()
        client.sendto(b"short", f"{tmp_path}/server")
        client.sendto(QUESTION, f"{tmp_path}/server")
        gate._datagrams(server)
        assert client.recv(512) == ANSWER
        with pytest.raises(BlockingIOError):
            client.recv(512)


def test_the_names_that_are_counted_are_limited(gate: Gate) -> None:
    for number in range(1001):
        gate._count(f"{number}.test")
    gate._count("7.test")
    assert len(gate._denied) == 1000 and gate._denied["7.test"] == 2 and "1000.test" not in gate._denied


def test_a_query_over_tcp_in_pieces(gate: Gate) -> None:
    with waiting(gate, gate._dns_stream) as client:
        framed = len(QUESTION).to_bytes(2, "big") + QUESTION
        for piece in (framed[:1], framed[1:9], framed[9:]):
            client.send(piece)
            turn(gate)
        assert client.recv(512) == len(ANSWER).to_bytes(2, "big") + ANSWER
        assert client.recv(512) == b"" and not gate._deadlines


@pytest.mark.parametrize("data", [b"\x10\x01", b"\0\5short", b"\0\0"], ids=["too long", "no header", "empty"])
def test_over_tcp_what_is_no_query_ends_the_connection(gate: Gate, data: bytes) -> None:
    with waiting(gate, gate._dns_stream) as client:
        client.send(data)
        turn(gate)
        assert client.recv(512) == b"" and not gate._deadlines


def test_connect_leads_to_the_address_of_the_name(gate: Gate) -> None:
    with socket.create_server(("127.0.0.1", 0)) as envoy, waiting(gate, gate._proxy_head) as client:
        port = envoy.getsockname()[1]
        gate._ports = {port: ""}
        client.sendall(f"CONNECT api.forge.test:{port} HTTP/1.1\r\n".encode())
        turn(gate)
        assert len(gate._deadlines) == 1
        client.sendall(b"\r\n")
        turn(gate)
        turn(gate)
        upstream, _ = envoy.accept()
        with upstream:
            upstream.settimeout(10)
            assert client.recv(512) == b"HTTP/1.1 200 OK\r\n\r\n"
            client.sendall(b"hello")
            turn(gate)
            assert upstream.recv(512) == b"hello" and not gate._deadlines


def test_a_refused_head_is_answered_and_only_unknown_names_are_counted(gate: Gate) -> None:
    gate._ports = {443: ""}
    for target, status in (("evil.test:443", 403), ("api.forge.test:22", 403), ("-:443", 403)):
        with waiting(gate, gate._proxy_head) as client:
            client.sendall(f"CONNECT {target} HTTP/1.1\r\n\r\n".encode())
            turn(gate)
            assert client.recv(4096).startswith(f"HTTP/1.1 {status} Refused\r\n".encode())
            assert client.recv(4096) == b""
    assert gate._denied == {"evil.test": 1} and not gate._deadlines


def test_a_head_without_end_is_refused(gate: Gate) -> None:
    with waiting(gate, gate._proxy_head) as client:
        client.sendall(b"x" * 16384)
        turn(gate)
        assert len(gate._deadlines) == 1
        client.sendall(b"x")
        turn(gate)
        assert client.recv(4096).startswith(b"HTTP/1.1 431 ") and not gate._deadlines


@pytest.mark.parametrize("how", ["left", "reset"])
def test_a_client_that_has_gone_is_forgotten(gate: Gate, how: str) -> None:
    client, near = socket.socketpair()
    near.setblocking(False)
    made = Waiting(gate, near, gate._proxy_head)
    if how == "reset":
        made.reply(b"not read")
    client.close()
    made.reply(b"nobody reads this")
    turn(gate)
    assert near.fileno() == -1 and not gate._deadlines
    made.close()
    assert not gate._selector.get_map()


@pytest.mark.parametrize("address", ["127.0.0.1", "::"])
def test_connections_are_accepted_in_portions(gate: Gate, address: str) -> None:
    accepted: list[socket.socket] = []
    to = listening(gate, address, accepted.append)
    with ExitStack() as stack:
        for _ in range(65):
            stack.enter_context(socket.create_connection(to))
        turn(gate)
        assert len(accepted) == 64 and not any(sock.getblocking() for sock in accepted)
        turn(gate)
        assert len(accepted) == 65
        for sock in accepted:
            sock.close()


def test_a_listener_of_envoys_is_waited_for(gate: Gate, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails closed: without it the gate does not say that it serves, and nothing starts."""
    monkeypatch.setattr("leasehold.inside.gate._PROBE_S", 0.05)
    with socket.create_server(("127.0.0.1", 0)) as envoy:
        port = envoy.getsockname()[1]
        gate._ports = {port: "", 1: "/a/socket/instead"}
        gate._probe([1, port])
    with pytest.raises(TimeoutError, match=f"nothing listens on port {port}"):
        gate._probe([1, port])


def joined(gate: Gate, path: str) -> socket.socket:
    client, near = socket.socketpair()
    near.setblocking(False)
    client.settimeout(10)
    gate._relay(path, near)
    return client


def test_a_relay_leads_to_its_socket(gate: Gate, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as envoy:
        envoy.bind(f"{tmp_path}/envoy")
        envoy.listen(1)
        with joined(gate, f"{tmp_path}/envoy") as client:
            client.sendall(b"ping")
            turn(gate)
            upstream, _ = envoy.accept()
            with upstream:
                assert upstream.recv(16) == b"ping"


@pytest.mark.parametrize("how", ["gone", "full"])
def test_where_envoy_does_not_answer_the_client_sees_an_end(gate: Gate, tmp_path: Path, how: str) -> None:
    with ExitStack() as stack:
        envoy = stack.enter_context(socket.socket(socket.AF_UNIX))
        envoy.bind(f"{tmp_path}/envoy")
        if how == "full":
            envoy.listen(0)
            stack.enter_context(socket.socket(socket.AF_UNIX)).connect(f"{tmp_path}/envoy")
        with joined(gate, f"{tmp_path}/envoy") as client:
            assert client.recv(16) == b""
    assert not gate._selector.get_map()


@pytest.mark.parametrize("left", [0, 1, 2, 3, 4])
def test_a_lack_of_descriptors_ends_the_connection_and_nothing_else(gate: Gate, tmp_path: Path, left: int) -> None:
    """Two connections take five: the other end, and a pipe for each direction."""
    with socket.socket(socket.AF_UNIX) as envoy:
        envoy.bind(f"{tmp_path}/envoy")
        envoy.listen(2)
        client, near = socket.socketpair()
        near.setblocking(False)
        with client:
            before = len(list(DESCRIPTORS.iterdir()))
            with few_descriptors(left):
                gate._relay(f"{tmp_path}/envoy", near)
                assert near.fileno() == -1
            assert client.recv(16) == b""
            assert len(list(DESCRIPTORS.iterdir())) == before - 1
        with joined(gate, f"{tmp_path}/envoy") as again:
            again.sendall(b"x")
            turn(gate)
            assert len(gate._selector.get_map()) == 2


def test_the_launcher_asks_what_was_denied() -> None:
    ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, its:
        made = Gate(its)
        made._count("evil.test")
        ours.send(b'{"op": "denied"}')
        made._asked(selectors.EVENT_READ)
        assert ours.recv(512) == b'{"denied": {"evil.test": 1}}'
        made._selector.close()
