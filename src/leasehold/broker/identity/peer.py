"""Who is on the other end of a unix socket: by descriptor, not by a number that another process may get (unix(7))."""

from __future__ import annotations

import os
import select
import socket
import struct
from dataclasses import dataclass

from leasehold.core.errors import BrokerError

_SO_PEERPIDFD = 77
"""Linux 6.5 and later; Python 3.11 has no name for it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    """The process that connected. ``pid`` was alive with this ``uid`` when it was read."""

    pid: int
    uid: int
    gid: int


def peer_of(sock: socket.socket, own_uid: int) -> Peer:
    """The peer of a connected unix socket; ``BrokerError`` unless it runs as ``own_uid`` and is alive.

    The kernel gives the credentials of whoever called ``connect``; the pidfd is asked afterwards whether that very
    process still lives, so a recycled pid is noticed.
    """
    pid, uid, gid = struct.unpack("3i", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    if uid != own_uid:
        raise BrokerError(f"uid {uid} may not use the broker of uid {own_uid}", hint="run leasehold as the same user")
    pidfd = _pidfd(sock, pid)
    try:
        poll = select.poll()
        poll.register(pidfd, select.POLLIN)
        if poll.poll(0):
            raise BrokerError("the caller has ended", hint="run the command again")
    finally:
        os.close(pidfd)
    return Peer(pid=pid, uid=uid, gid=gid)


def _pidfd(sock: socket.socket, pid: int) -> int:
    try:
        return sock.getsockopt(socket.SOL_SOCKET, _SO_PEERPIDFD)
    except OSError as e:
        reason = e.strerror
    raise BrokerError(
        f"this kernel cannot name the peer of a socket by descriptor ({reason}), pid {pid}",
        hint="Linux 6.5 or later is needed; run `leasehold doctor`",
    )
