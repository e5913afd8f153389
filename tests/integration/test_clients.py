"""Every client works unchanged in a compartment, and its twin is refused; as root and as an ordinary user."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from clients.table import TABLE, Row, Step
from servers.config import CLIENTS
from servers.encodings import find

if TYPE_CHECKING:
    from servers.harness import Leasehold

_ROWS = pytest.mark.parametrize("row", TABLE, ids=[row.name for row in TABLE])
_WAYS = {"api.forge.test": "bearer", "key.forge.test": "x-api-key", "basic.forge.test": "basic"}


@pytest.fixture(params=["root", "user"])
def harness(request: pytest.FixtureRequest) -> Leasehold:
    """Both ways of making a compartment: Envoy listens inside it, or behind the relay."""
    name = "leasehold" if request.param == "root" else "leasehold_of_user"
    found: Leasehold = request.getfixturevalue(name)
    return found


def _run(harness: Leasehold, step: Step) -> subprocess.CompletedProcess[str]:
    values = {"{python}": sys.executable, "{clients}": str(CLIENTS), "{evil}": harness.up.address("evil")}
    command = []
    for part in step.command:
        for name, value in values.items():
            part = part.replace(name, value)
        command.append(part)
    return harness.run(*command)


def _check(harness: Leasehold, step: Step) -> None:
    done = _run(harness, step)
    text = f"exit code {done.returncode}\n{done.stdout}\n{done.stderr}"
    assert all(words in done.stdout + done.stderr for words in step.says), text
    assert (done.returncode != 0) == step.fails, text
    assert "alarm" not in done.stderr, text
    for name in ("git", "pypi", "npm", "api", "grpc"):
        assert not find(harness.up.server(name).credential, text), f"the credential of {name} came back"


@_ROWS
def test_client_works(harness: Leasehold, row: Row) -> None:
    server = harness.up.server(row.server)
    server.clear()
    _check(harness, row.allowed)
    assert any(find(server.credential, data) for data in server.recorded()), "the credential did not arrive"


@_ROWS
def test_denied_twin_is_refused(harness: Leasehold, row: Row) -> None:
    server, evil = harness.up.server(row.server), harness.up.evil
    server.clear()
    evil.clear()
    _check(harness, row.denied)
    assert evil.contacts == 0
    assert row.denied.unseen
    assert not [data for data in server.recorded() if row.denied.unseen.encode() in data]


@pytest.mark.parametrize("host", [*_WAYS, "query.forge.test"])
def test_each_way_of_injecting_arrives(leasehold: Leasehold, host: str) -> None:
    done = leasehold.run("curl", "-sS", f"https://{host}/v1/me", "-H", "x-api-key: mine", "-u", "me:mine")
    assert f'"carriers": ["{_WAYS.get(host, "query")}"]' in done.stdout, done.stderr


def test_a_host_without_a_credential_gets_none(leasehold: Leasehold) -> None:
    leasehold.up.api.clear()
    done = leasehold.run("curl", "-sS", "https://open.forge.test/echo")
    assert '"authenticated": false' in done.stdout, done.stderr
    assert not any(find(leasehold.up.api.credential, data) for data in leasehold.up.api.recorded())
