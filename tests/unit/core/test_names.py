"""One canonical name, and which addresses are nobody's but the public's."""

from __future__ import annotations

import pytest

from leasehold.core.addresses import allowed
from leasehold.core.names import canonical_host, is_public_address


@pytest.mark.parametrize(
    ("text", "host"),
    [("API.Forge.example", "api.forge.example"), ("a.example.", "a.example"), ("xn--bcher-kva.example",) * 2],
)
def test_canonical(text: str, host: str) -> None:
    assert canonical_host(text) == host


@pytest.mark.parametrize(
    "text",
    [
        "", ".", "a..example", "a.example..", "*.example", "a.*", "bücher.example", "allowed@evil.test", "a:443",
        "127.0.0.1", "127.1", "0x7f.0x1", "[::1]", "::1", "a b", "a/b", "a%2e", "-a.example", "a" * 64 + ".example",
        "a." * 130 + "example", "2130706433",
    ],
)  # fmt: skip
def test_refused(text: str) -> None:
    with pytest.raises(ValueError, match="host"):
        canonical_host(text)


@pytest.mark.parametrize("address", ["8.8.8.8", "2606:4700:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808"])
def test_public(address: str) -> None:
    assert is_public_address(address)


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1", "10.0.0.1", "172.16.0.1", "192.168.1.1", "169.254.169.254", "169.254.170.2", "100.100.100.200",
        "0.0.0.0", "224.0.0.1", "255.255.255.255", "198.18.0.1", "::1", "::", "fe80::1", "fc00::1", "fd00:ec2::254",
        "::ffff:127.0.0.1", "::ffff:169.254.169.254", "64:ff9b::7f00:1", "64:ff9b:1::a00:1", "2002:7f00:1::",
        "2001:0:4136:e378:8000:63bf:80ff:fffe", "ff02::1",
    ],
)  # fmt: skip
def test_not_public(address: str) -> None:
    assert not is_public_address(address)


def test_private_addresses_are_dialled_only_when_they_are_named() -> None:
    assert allowed(["10.1.2.3", "8.8.8.8"], []) == ("8.8.8.8",)
    assert allowed(["10.1.2.3", "8.8.8.8"], ["10.1.2.0/24"]) == ("10.1.2.3", "8.8.8.8")
    assert allowed(["10.1.3.3"], ["10.1.2.0/24"]) == ()
    assert allowed(["::ffff:10.1.2.3", "10.1.2.3"], ["10.1.2.0/24"]) == ("10.1.2.3",)
    assert allowed(["fe80::1%eth0"], ["10.0.0.0/8"]) == ()
