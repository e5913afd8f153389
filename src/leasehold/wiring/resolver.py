"""Upstream names to addresses, after policy has allowed the name and never before (BOUNDARY D7)."""

from __future__ import annotations

import asyncio
import socket

from leasehold.core.addresses import allowed
from leasehold.core.model import Network


async def resolve(host: str, port: int, network: Network) -> tuple[str, ...]:
    """The addresses that may be dialled for ``host``: the operator's own entry, else the system's resolver's.

    Empty when the name does not resolve or leads only to addresses that are private and not named.
    """
    own = dict(network.resolve).get(host)
    if own is not None:
        return allowed([own], network.allow_private)
    loop = asyncio.get_running_loop()
    try:
        found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM, proto=socket.IPPROTO_TCP)
    except socket.gaierror:
        return ()
    return allowed([str(entry[4][0]) for entry in found], network.allow_private)
