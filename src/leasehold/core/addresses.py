"""Which addresses an upstream's name may lead to."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Sequence

from leasehold.core.names import is_public_address


def allowed(addresses: Iterable[str], allow_private: Sequence[str]) -> tuple[str, ...]:
    """The addresses that may be dialled: public ones, and others only when a named network holds them.

    The order (RFC 6724, from the resolver) is kept. Loopback, link-local, metadata and private addresses, in any
    spelling, are out unless ``allow_private`` (CIDRs) names them.
    """
    networks = [ipaddress.ip_network(network) for network in allow_private]
    found: list[str] = []
    for text in addresses:
        ip = ipaddress.ip_address(text.partition("%")[0])
        if isinstance(ip, ipaddress.IPv6Address) and ip.ipv4_mapped:
            ip = ip.ipv4_mapped
        if str(ip) not in found and (is_public_address(str(ip)) or any(ip in network for network in networks)):
            found.append(str(ip))
    return tuple(found)
