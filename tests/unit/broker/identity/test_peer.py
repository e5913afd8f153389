"""Who connected: by descriptor."""

from __future__ import annotations

import os
import socket

import pytest

from leasehold.broker.identity.peer import peer_of
from leasehold.core.errors import BrokerError


def test_a_live_peer_of_the_same_user_is_known() -> None:
    a, b = socket.socketpair(socket.AF_UNIX)
    with a, b:
        peer = peer_of(a, os.getuid())
    assert (peer.pid, peer.uid, peer.gid) == (os.getpid(), os.getuid(), os.getgid())


def test_another_user_is_refused() -> None:
    a, b = socket.socketpair(socket.AF_UNIX)
    with a, b, pytest.raises(BrokerError, match="may not use"):
        peer_of(a, os.getuid() + 1)


def test_a_peer_that_has_ended_is_refused_even_when_its_socket_lives_on(tmp_path) -> None:  # type: ignore[no-untyped-def]
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(tmp_path / "s"))
    listener.listen()
    pid = os.fork()
    if pid == 0:
        socket.socket(socket.AF_UNIX).connect(str(tmp_path / "s"))
        os._exit(0)
    accepted, _ = listener.accept()
    os.waitpid(pid, 0)
    with listener, accepted, pytest.raises(BrokerError, match="ended"):
        peer_of(accepted, os.getuid())


def test_a_kernel_without_peer_descriptors_is_refused() -> None:
    class Old(socket.socket):
        def getsockopt(self, level, name, size=0):  # type: ignore[no-untyped-def,override]
            if name == 77:
                raise OSError(92, "Protocol not available")
            return super().getsockopt(level, name, size)

    a, b = socket.socketpair(socket.AF_UNIX)
    old = Old(fileno=os.dup(a.fileno()))
    with a, b, old, pytest.raises(BrokerError, match="kernel"):
        peer_of(old, os.getuid())
