"""The two settings that a compartment's network needs, over raw rtnetlink (RFC 3549, rtnetlink(7)).

A library for it costs more at start than the whole launcher does.
"""

from __future__ import annotations

import os
import socket
import struct

_NLMSG_ERROR = 2
_RTM_NEWLINK, _RTM_NEWROUTE = 16, 24
_REQUEST_ACK = 1 | 4
_CREATE_EXCLUSIVE = 0x200 | 0x400
_IFF_UP = 1
_RT_TABLE_LOCAL, _RTPROT_BOOT, _SCOPE_HOST, _RTN_LOCAL = 255, 3, 254, 2
_RTA_OIF = 4
_LO = 1
"""lo is the first interface of every network namespace."""


def make_everything_local() -> None:
    """In the caller's own new network namespace: lo up, and every IPv4 and IPv6 address is this host's."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE) as sock:
        sock.bind((0, 0))
        _ask(sock, _RTM_NEWLINK, _REQUEST_ACK, struct.pack("=BxHiII", socket.AF_UNSPEC, 0, _LO, _IFF_UP, _IFF_UP))
        for family in (socket.AF_INET, socket.AF_INET6):
            route = struct.pack(
                "=BBBBBBBBI", family, 0, 0, 0, _RT_TABLE_LOCAL, _RTPROT_BOOT, _SCOPE_HOST, _RTN_LOCAL, 0
            )
            route += struct.pack("=HHI", 8, _RTA_OIF, _LO)
            _ask(sock, _RTM_NEWROUTE, _REQUEST_ACK | _CREATE_EXCLUSIVE, route)


def _ask(sock: socket.socket, kind: int, flags: int, body: bytes) -> None:
    sock.send(struct.pack("=IHHII", 16 + len(body), kind, flags, 1, 0) + body)
    answer = sock.recv(4096)
    _, answered, _, _, _ = struct.unpack_from("=IHHII", answer)
    (code,) = struct.unpack_from("=i", answer, 16)
    if answered != _NLMSG_ERROR or code != 0:
        raise OSError(-code, f"rtnetlink request {kind}: {os.strerror(-code)}")
