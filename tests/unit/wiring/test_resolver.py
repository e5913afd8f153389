"""Names to addresses: the operator's own first, and only those that may be dialled."""

from __future__ import annotations

import asyncio
import socket

import pytest

from leasehold.core.model import Network
from leasehold.wiring.resolver import resolve

LOCAL = Network(allow_private=("127.0.0.0/8",))


def found(host: str, network: Network) -> tuple[str, ...]:
    return asyncio.run(resolve(host, 443, network))


def test_the_operators_entry_is_used_and_nobody_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: pytest.fail("a resolver was asked"))
    network = Network(resolve=(("api.forge.example", "10.1.2.3"),), allow_private=("10.1.2.0/24",))
    assert found("api.forge.example", network) == ("10.1.2.3",)


def test_a_private_address_must_be_named_whoever_says_it() -> None:
    assert found("api.forge.example", Network(resolve=(("api.forge.example", "10.1.2.3"),))) == ()
    assert found("localhost", Network()) == ()
    assert "127.0.0.1" in found("localhost", LOCAL)


def test_the_order_of_the_resolver_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    at = ["127.0.0.9", "127.0.0.1", "10.0.0.1", "127.0.0.9"]
    rows = [(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", (address, 443)) for address in at]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: rows)
    assert found("registry.example", LOCAL) == ("127.0.0.9", "127.0.0.1")


def test_a_name_that_does_not_exist_has_no_address(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", fail)
    assert found("nowhere.example", LOCAL) == ()
