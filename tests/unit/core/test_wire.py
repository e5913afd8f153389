"""Frames between the launcher and the broker."""

from __future__ import annotations

import os
import socket
import struct
from pathlib import Path

import pytest

from leasehold.core import wire


@pytest.fixture
def pair():  # type: ignore[no-untyped-def]
    a, b = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    with a, b:
        yield a, b


def test_a_message_and_its_descriptor_arrive(pair) -> None:  # type: ignore[no-untyped-def]
    a, b = pair
    fd = os.open("/dev/null", os.O_RDONLY)
    wire.send(a, {"op": "x"}, [fd])
    wire.send(a, {"op": "y"})
    os.close(fd)
    message, fds = wire.receive(b) or ({}, [])
    assert message == {"op": "x"}
    assert len(fds) == 1 and not os.get_inheritable(fds[0])
    os.close(fds[0])
    assert wire.receive(b) == ({"op": "y"}, [])


def test_the_end_of_the_stream_is_none_also_within_a_frame(pair) -> None:  # type: ignore[no-untyped-def]
    a, b = pair
    a.sendall(struct.pack("!I", 10) + b"12")
    a.shutdown(socket.SHUT_WR)
    assert wire.receive(b) is None
    assert wire.receive(b) is None


def test_oversized_and_odd_frames_are_refused(pair) -> None:  # type: ignore[no-untyped-def]
    a, b = pair
    a.sendall(struct.pack("!I", 1 << 31))
    with pytest.raises(ValueError, match="at most"):
        wire.receive(b)
    a.sendall(struct.pack("!I", 2) + b"[]")
    with pytest.raises(ValueError, match="object"):
        wire.receive(b)
    with pytest.raises(ValueError, match="at most"):
        wire.encode({"x": "y" * (1 << 23)})


def test_more_descriptors_than_allowed_are_closed_and_refused(pair) -> None:  # type: ignore[no-untyped-def]
    a, b = pair
    fd = os.open("/dev/null", os.O_RDONLY)
    before = len(list(Path("/proc/self/fd").iterdir()))
    wire.send(a, {"op": "x"}, [fd] * 40)
    with pytest.raises(ValueError, match="descriptors"):
        wire.receive(b)
    assert len(list(Path("/proc/self/fd").iterdir())) == before
    os.close(fd)


def test_a_peer_that_has_left_does_not_make_a_whole_message_fail(pair) -> None:  # type: ignore[no-untyped-def]
    a, b = pair
    fd = os.open("/dev/null", os.O_RDONLY)

    class Leaving(socket.socket):
        def sendmsg(self, *args):  # type: ignore[no-untyped-def]
            sent = super().sendmsg(*args)
            b.close()
            return sent

    leaving = Leaving(fileno=os.dup(a.fileno()))
    with leaving:
        wire.send(leaving, {"op": "x"}, [fd])
    os.close(fd)


def test_only_descriptors_are_taken_for_descriptors(pair) -> None:  # type: ignore[no-untyped-def]
    """A socket may also deliver who the sender is (unix(7)), and those numbers open nothing here."""
    a, b = pair
    wire.send(a, {"op": "x"})
    assert wire.receive(b) == ({"op": "x"}, [])
    b.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
    wire.send(a, {"op": "y"})
    assert wire.receive(b) == ({"op": "y"}, [])
