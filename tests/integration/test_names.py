"""Who is asked for names: nobody, before a request to that name is allowed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

from servers.harness import Leasehold

if TYPE_CHECKING:
    from servers.upstreams import Upstreams

_CREDENTIAL = """
[credentials.elsewhere]
issuer = "static"
secret = "file:@folder@/api.secret"
environment = "development"
role = "execute"
max_ttl = "1h"

[[credentials.elsewhere.endpoints]]
host = "elsewhere.forge.test"
paths = ["/ok"]
inject = { header = "x-api-key", format = "{secret}" }
"""


@pytest.fixture(scope="module")
def asked(upstreams: Upstreams) -> Iterator[Leasehold]:
    """A name that has to be looked up, and a resolver that writes down what it is asked."""
    with Leasehold(upstreams, "api", extra=_CREDENTIAL, dns=True) as harness:
        yield harness


def test_a_name_is_not_looked_up_for_a_denied_request(asked: Leasehold) -> None:
    asked.up.dns.clear()
    script = "curl -sS https://secret-in-a-label.example/; curl -sS https://elsewhere.forge.test/denied"
    done = asked.run("sh", "-c", script)
    assert "Could not resolve host" in done.stderr
    assert "rule-not-allowed" in done.stdout
    assert asked.up.dns.queries() == []


def test_a_name_is_looked_up_for_an_allowed_request(asked: Leasehold) -> None:
    """The twin: the stub is the one that is asked."""
    asked.up.dns.clear()
    done = asked.run("curl", "-sS", "https://elsewhere.forge.test/ok")
    assert "upstream-address-refused" in done.stdout
    assert set(asked.up.dns.queries()) == {"elsewhere.forge.test"}
