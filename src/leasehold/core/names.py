"""Host names: one canonical form, which is both checked and dialled (RFC 1123, RFC 5890)."""

from __future__ import annotations

import ipaddress
import re

_LABEL = re.compile(r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?\Z")


def canonical_host(text: str) -> str:
    """Return the canonical form of an exact host name: lower case, no trailing dot, ASCII labels.

    Refused with ``ValueError``: wildcards, empty labels, addresses in any spelling, user info, ports, non-ASCII
    (write the ``xn--`` form), names over 253 octets.
    """
    if not text.isascii():
        raise ValueError(f"host {text!a} is not ASCII; write its xn-- form")
    host = text.lower()
    if host.endswith(".") and not host.endswith(".."):
        host = host[:-1]
    if "*" in host:
        raise ValueError(f"host {text!a} has a wildcard; write the exact name")
    labels = host.split(".")
    if not host or len(host) > 253 or not all(_LABEL.match(label) for label in labels):
        raise ValueError(f"host {text!a} is not an exact DNS name")
    if labels[-1].isdigit() or re.fullmatch(r"0x[0-9a-f]*", labels[-1]):
        raise ValueError(f"host {text!a} is an address; name it, and give its address under [network] resolve")
    return host


def is_public_address(address: str) -> bool:
    """True when ``address`` (IPv4 or IPv6, no scope) is globally routable unicast in every spelling of it."""
    ip = ipaddress.ip_address(address)
    if isinstance(ip, ipaddress.IPv6Address):
        embedded = ip.ipv4_mapped or ip.sixtofour or (ip.teredo and ip.teredo[1])
        if embedded:
            return is_public_address(str(embedded))
        if ip in ipaddress.ip_network("64:ff9b::/96") or ip in ipaddress.ip_network("64:ff9b:1::/48"):
            return is_public_address(str(ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)))
    return ip.is_global and not ip.is_multicast
