"""One client's frames, on the event loop."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import struct
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from leasehold.core import wire
from leasehold.core.limits import LIMITS
from leasehold.wiring.connection import Connection

Scenario = Callable[[Connection, socket.socket], Awaitable[None]]


def run(scenario: Scenario) -> None:
    """``scenario`` gets the broker's side and the client's socket."""

    async def whole() -> None:
        near, far = socket.socketpair()
        connection = Connection(near)
        try:
            await asyncio.wait_for(scenario(connection, far), 10)
        finally:
            connection.close()
            far.close()

    asyncio.run(whole())


def frame(body: bytes) -> bytes:
    return struct.pack("!I", len(body)) + body


def opened() -> set[str]:
    return {fd.name for fd in Path("/proc/self/fd").iterdir() if fd.is_symlink()}


def test_messages_come_one_by_one_however_they_were_cut() -> None:
    async def scenario(connection: Connection, client: socket.socket) -> None:
        data = wire.encode({"n": 1}) + wire.encode({"n": 2}) + wire.encode({"n": 3})
        client.sendall(data[:-1])
        assert await connection.receive() == ({"n": 1}, [])
        assert await connection.receive() == ({"n": 2}, [])
        waiting = asyncio.create_task(connection.receive())
        await asyncio.sleep(0)
        client.sendall(data[-1:])
        assert await waiting == ({"n": 3}, [])

    run(scenario)


def test_descriptors_come_with_their_message_and_are_not_inherited(tmp_path: Path) -> None:
    async def scenario(connection: Connection, client: socket.socket) -> None:
        with (tmp_path / "f").open("w") as file:
            wire.send(client, {"n": 1}, [file.fileno()])
        received = await connection.receive()
        assert received is not None
        [fd] = received[1]
        assert Path(f"/proc/self/fd/{fd}").readlink() == tmp_path / "f"
        assert not os.get_inheritable(fd)
        os.close(fd)
        wire.send(client, {"n": 2})
        assert await connection.receive() == ({"n": 2}, [])

    run(scenario)


def test_descriptors_that_nobody_took_are_closed(tmp_path: Path) -> None:
    async def scenario(connection: Connection, client: socket.socket) -> None:
        before = opened()
        with (tmp_path / "f").open("w") as file:
            socket.send_fds(client, [frame(b"{}")[:-1]], [file.fileno()])
        client.shutdown(socket.SHUT_WR)
        assert await connection.receive() is None
        assert len(opened()) == len(before) + 1
        connection.close()
        assert len(opened()) == len(before) - 1  # the connection's own is closed too

    run(scenario)


@pytest.mark.parametrize(
    "data",
    [b"", b"\0\0", frame(b"{}")[:-1], struct.pack("!I", LIMITS.message_bytes_max + 1), frame(b"[1]"), frame(b'"x"')],
    ids=["nothing", "half a length", "half a message", "too long", "a list", "a text"],
)
def test_what_is_no_message_is_the_end(data: bytes) -> None:
    async def scenario(connection: Connection, client: socket.socket) -> None:
        client.sendall(data)
        client.shutdown(socket.SHUT_WR)
        assert await connection.receive() is None

    run(scenario)


def test_a_message_may_be_as_long_as_the_limit_says() -> None:
    async def scenario(connection: Connection, client: socket.socket) -> None:
        body = json.dumps({"x": "y" * (LIMITS.message_bytes_max - 9)}, separators=(",", ":")).encode()
        sending = asyncio.create_task(asyncio.to_thread(client.sendall, frame(body[: LIMITS.message_bytes_max])))
        received = await connection.receive()
        await sending
        assert received is not None
        assert len(received[0]["x"]) == LIMITS.message_bytes_max - 9

    run(scenario)


def test_what_is_no_json_is_an_error_of_the_client() -> None:
    async def scenario(connection: Connection, client: socket.socket) -> None:
        client.sendall(frame(b"{no"))
        with pytest.raises(ValueError, match="Expecting"):
            await connection.receive()

    run(scenario)


def test_a_client_that_breaks_off_is_the_end() -> None:
    async def scenario(connection: Connection, client: socket.socket) -> None:
        await connection.send({"unread": True})
        client.close()  # with something unread, its end is a reset
        assert await connection.receive() is None
        await connection.send({"nobody": "hears it"})

    run(scenario)


def test_messages_are_not_mixed() -> None:
    async def scenario(connection: Connection, client: socket.socket) -> None:
        long = {"x": "y" * 500_000}
        sending = asyncio.gather(connection.send(long), connection.send({"n": 2}))
        received = await asyncio.to_thread(lambda: [wire.receive(client) for _ in range(2)])
        await sending
        assert received == [(long, []), ({"n": 2}, [])]

    run(scenario)


@pytest.mark.parametrize("at_once", [True, False], ids=["with its message there", "before its message"])
def test_waiting_can_be_given_up_and_taken_up(at_once: bool) -> None:
    async def scenario(connection: Connection, client: socket.socket) -> None:
        wrong: list[object] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: wrong.append(context))
        waiting: asyncio.Task[Any] = asyncio.create_task(connection.receive())
        await asyncio.sleep(0)
        if at_once:
            client.sendall(wire.encode({"n": 1}))
            await asyncio.sleep(0)  # the loop has seen it, and has not yet said so
        waiting.cancel()
        if not at_once:
            client.sendall(wire.encode({"n": 1}))
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert await connection.receive() == ({"n": 1}, [])
        assert wrong == []

    run(scenario)
