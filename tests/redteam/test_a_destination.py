"""BOUNDARY area A: where a credential goes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from redteam.attack import attacker_got, carried, get, http2, raw, reached, works
from servers.harness import Leasehold

if TYPE_CHECKING:
    from servers.upstreams import Upstreams


@pytest.fixture(autouse=True)
def fresh(leasehold: Leasehold) -> None:
    leasehold.up.api.clear()
    leasehold.up.evil.clear()


def test_a1_plain_http_to_the_attackers_address_with_a_credentialed_host(leasehold: Leasehold) -> None:
    evil = leasehold.up.evil
    evil.listen(80, tls=False)
    answer = raw(leasehold, get("/v1/me"), host=evil.address, port=80, sni=None)
    assert "403" in answer and "host-not-allowed" in answer
    assert not attacker_got(leasehold)
    assert not reached(leasehold, "/v1/me")
    works(leasehold)


def test_a4_fronting_with_an_allowed_name(leasehold: Leasehold) -> None:
    for sni, host in (("open.forge.test", "api.forge.test"), ("api.forge.test", "open.forge.test")):
        answer = raw(leasehold, get("/v1/me", host=host), host=sni, sni=sni)
        assert "421" in answer and "misdirected-request" in answer
    assert not carried(leasehold) and not reached(leasehold, "/v1/me")
    works(leasehold)


@pytest.mark.parametrize("second", ["api.forge.test", "evil.test"])
def test_a6_http2_with_a_host_header_beside_the_authority(leasehold: Leasehold, second: str) -> None:
    fields = (":method=GET", ":scheme=https", ":authority=open.forge.test", ":path=/echo", f"host={second}")
    http2(leasehold, *fields, host="open.forge.test", sni="open.forge.test")
    http2(leasehold, *fields, f"host={second}", host="open.forge.test", sni="open.forge.test")
    assert not carried(leasehold)
    # Whatever was forwarded names the one host that was checked and dialled.
    assert not reached(leasehold, "host: " + second) and not attacker_got(leasehold)
    allowed = http2(leasehold, ":method=GET", ":scheme=https", ":authority=api.forge.test", ":path=/v1/me")
    assert "HTTP 200" in allowed and carried(leasehold)


@pytest.mark.parametrize("name", ["evilapi.forge.test", "api.forge.test.evil.test", "forge.test", "x.api.forge.test"])
def test_a8_names_that_only_look_alike(leasehold: Leasehold, name: str) -> None:
    assert "FAILED gaierror" in raw(leasehold, get("/v1/me", host=name), host=name, sni=name)
    assert "FAILED" in raw(leasehold, get("/v1/me", host=name), sni=name)
    assert "421" in raw(leasehold, get("/v1/me", host=name))
    assert not carried(leasehold) and not attacker_got(leasehold)
    works(leasehold)


@pytest.mark.parametrize(
    "host",
    ["api.forge.test@evil.test", "api.forge.test..", "127.0.0.1..", "api.forge.test:443@evil.test", "api.forge.test#",
     "api.forge.test:80", "api.forge.test:0443", "evil.test", "[::1]", "api%2eforge.test", "api.forge.test/x"],
)  # fmt: skip
def test_a10_other_spellings_are_no_name(leasehold: Leasehold, host: str) -> None:
    answer = raw(leasehold, get("/v1/me", host=host))
    assert answer.startswith(("HTTP/1.1 421", "HTTP/1.1 400"))
    assert not carried(leasehold) and not attacker_got(leasehold)
    works(leasehold)


@pytest.mark.parametrize("host", ["API.Forge.Test", "api.forge.test.", "api.forge.test:443"])
def test_a10_what_is_the_same_name_is_forwarded_in_one_form(leasehold: Leasehold, host: str) -> None:
    assert "200 OK" in raw(leasehold, get("/v1/me", host=host))
    assert reached(leasehold, "host: api.forge.test\r\n") or reached(leasehold, ":authority: api.forge.test")
    assert not attacker_got(leasehold)


def test_a14_another_port_or_scheme_of_the_right_host(leasehold: Leasehold) -> None:
    assert "ConnectionRefusedError" in raw(leasehold, get("/v1/me"), port=8443)
    assert "host-not-allowed" in raw(leasehold, get("/v1/me"), port=80, sni=None)
    assert "FAILED" in raw(leasehold, get("/v1/me"), port=80)
    assert not carried(leasehold) and not attacker_got(leasehold)
    works(leasehold)


def test_a15_an_address_instead_of_a_name(leasehold: Leasehold) -> None:
    up = leasehold.up
    assert "FAILED" in raw(leasehold, get("/", host="evil.test"), host=up.address("evil"), sni="evil.test")
    assert "FAILED" in raw(leasehold, get("/", host="evil.test"), host="169.254.169.254", port=8080, sni=None)
    # The API's real address leads to the listener in here, never there.
    answer = raw(leasehold, get("/user"), host=up.address("api"))
    assert "rule-not-allowed" in answer
    assert not carried(leasehold) and not attacker_got(leasehold)
    works(leasehold)


@pytest.mark.parametrize("certificate", ["of another name", "of another authority"])
def test_a_what_answers_at_the_address_has_to_prove_the_name(upstreams: Upstreams, certificate: str) -> None:
    """Whoever takes an address over, or answers for its name in the DNS, gets no byte of a request."""
    evil = upstreams.evil
    address = evil.address
    if certificate == "of another authority":
        address = f"{evil.address.rpartition('.')[0]}.77"
        evil.listen(443, names=("api.forge.test",), self_signed=True, address=address)
    with Leasehold(upstreams, "api") as harness:
        text, real = harness.config.read_text(), upstreams.address("api")
        harness.config.write_text(text.replace(f'"api.forge.test" = "{real}"', f'"api.forge.test" = "{address}"'))
        curl = ("curl", "-sS", "-o", "/dev/null", "-w", "%{http_code}")
        assert harness.run(*curl, "https://api.forge.test/v1/me").stdout == "503"
        assert evil.contacts and not evil.recorded()
        assert harness.run(*curl, "https://key.forge.test/v1/me").stdout == "200"
