"""Many compartments on one node: each works, and what happens to one does not touch the others."""

from __future__ import annotations

import http.client
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from servers.compartments import Compartment
from servers.harness import Leasehold
from servers.upstreams import Upstreams

COUNT = 24
HOST = "api.forge.test"


@pytest.fixture
def compartments(leasehold: Leasehold) -> Iterator[list[Compartment]]:
    assert leasehold.run("true").returncode == 0  # the daemon runs now
    broker, workspace = leasehold.base / "run" / "leasehold" / "broker.sock", leasehold.workspace()
    with ExitStack() as stack:
        yield [stack.enter_context(Compartment(broker, leasehold.config, workspace)) for _ in range(COUNT)]


def test_a_rule_with_a_long_path_works(upstreams: Upstreams) -> None:
    path = "/v1/" + "a-long-name/" * 60
    with Leasehold(upstreams, "api") as harness:
        text = harness.config.read_text()
        assert '"/v1/**"' in text
        harness.config.write_text(text.replace('"/v1/**"', f'"{path}*/**"'))
        for host_path, status in ((f"{path}x/y", "200"), ("/v1/me", "403")):
            command = ("curl", "-sS", "-o", "/dev/null", "-w", "%{http_code}", f"https://{HOST}{host_path}")
            assert harness.run(*command).stdout == status


def test_what_ends_one_reaches_no_other(leasehold: Leasehold, compartments: list[Compartment]) -> None:
    api = leasehold.up.api
    api.clear()
    for compartment in compartments:
        assert compartment.get(HOST, "/v1/me")[0] == 200
    assert sum(api.credential.encode() in request for request in api.recorded()) == COUNT
    ended, others = compartments[COUNT // 2], [c for c in compartments if c is not compartments[COUNT // 2]]
    ended.end()
    with pytest.raises((OSError, http.client.HTTPException)):
        for _ in range(5000):  # until the connection is cut
            ended.get(HOST, "/v1/me")
    with pytest.raises(OSError, match=r"refused|reset|EOF|closed"):
        ended.connect(HOST)
    # Over the connections that they had: not one was cut, moved or made anew.
    for compartment in others:
        assert compartment.get(HOST, "/v1/me")[0] == 200
