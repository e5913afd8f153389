"""Leases as an operator sees and ends them: the command line, the real broker and a real PostgreSQL."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest

from contract.postgres_subject import DatabaseSubject
from integration.databases import Database, configure
from servers import postgres
from servers.harness import Leasehold

if TYPE_CHECKING:
    from servers.postgres import PostgresServer
    from servers.upstreams import Upstreams


@pytest.fixture
def orders(postgres_server: PostgresServer) -> Iterator[Database]:
    subject = DatabaseSubject(postgres_server)
    server = subject.server
    yield Database(
        name="orders", protocol="postgres", host=postgres.HOST, port=server.port, subject=subject, authority=server.ca
    )
    subject.close()


@pytest.fixture
def lh(upstreams: Upstreams, orders: Database) -> Iterator[Leasehold]:
    with Leasehold(upstreams, "api") as harness:
        configure(harness, upstreams, orders)
        yield harness


def ours(orders: Database) -> set[str]:
    return {name for name in orders.subject.accounts() if name.startswith("lh_")}


def said(lh: Leasehold, *arguments: str) -> Any:
    done = lh.cli("lease", *arguments, "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


class Agent:
    """A compartment that has a session open, and says for each line that it gets whether it works still."""

    def __init__(self, lh: Leasehold, orders: Database) -> None:
        self._where = f"host={orders.host} port={orders.port} dbname=orders"
        ask = f'psql -XAtq -d "{self._where}" -c "SELECT session_user"'
        script = f"while true; do {ask} 2>/dev/null || echo refused; read line || exit 0; done"
        self.process = lh.start("sh", "-c", script, stdin=subprocess.PIPE)

    def next(self) -> str:
        """What the next attempt says last."""
        assert self.process.stdout is not None
        return self.process.stdout.readline().decode().strip()

    def again(self) -> str:
        assert self.process.stdin is not None
        self.process.stdin.write(b"\n")
        self.process.stdin.flush()
        return self.next()

    def end(self) -> None:
        self.process.communicate(timeout=60)


def test_a_lease_is_listed_shown_and_revoked_while_its_task_goes_on(lh: Leasehold, orders: Database) -> None:
    first, second = Agent(lh, orders), Agent(lh, orders)
    roles = {first.next(), second.next()}
    assert ours(orders) == roles
    listed = {lease["name"]: lease for lease in said(lh, "list")}
    assert set(listed) == roles
    role = first.again()
    lease = listed[role]
    assert (lease["credential"], lease["issuer"], lease["state"]) == ("orders", "postgres", "active")
    assert said(lh, "show", f"{lease['task']}/orders")["id"] == lease["id"]
    (result,) = said(lh, "revoke", lease["id"])
    assert (result["outcome"], result["state"]) == ("revoked", "revoked")
    assert ours(orders) == roles - {role}
    assert first.again() == "refused"
    assert second.again() in roles - {role}
    # The first task's credential was revoked before, and is withheld still.
    assert sorted(row["outcome"] for row in said(lh, "revoke", "--all", "--yes")) == ["revoked", "withheld"]
    assert ours(orders) == set()
    assert second.again() == "refused"
    first.end()
    second.end()
    recorded = lh.cli("audit", "query", "--event", "lease:revoke-asked")
    assert recorded.stdout.count("credential=orders") == 3
    everything = lh.cli("lease", "list", "--all-states", "--json").stdout
    assert {row["state"] for row in json.loads(everything)} == {"revoked"}


def test_what_a_killed_broker_left_is_revoked_by_the_next(lh: Leasehold, orders: Database) -> None:
    agent = Agent(lh, orders)
    assert agent.next() in ours(orders)
    assert lh.cli("lease", "revoke", "--all").returncode == 2, "nobody can be asked"
    assert len(ours(orders)) == 1
    broker = lh.daemon_pid()
    assert broker is not None
    os.kill(broker, signal.SIGKILL)
    agent.end()
    # The next broker takes it back by itself too; whoever is first, it is gone when the command returns.
    assert {row["outcome"] for row in said(lh, "revoke", "--all", "--yes")} <= {"revoked"}
    assert ours(orders) == set()


def test_an_inventory_finds_what_only_one_side_knows(lh: Leasehold, orders: Database) -> None:
    agent = Agent(lh, orders)
    role = agent.next()
    assert said(lh, "audit")["orphans"] == []
    with orders.subject.server.admin() as admin:
        admin.execute("CREATE ROLE lh_zzzzzz_zzzzzzzzzzzzzzzzzzzz")
        admin.commit()
    found = json.loads(lh.cli("lease", "audit", "--json").stdout)
    assert [orphan["name"] for orphan in found["orphans"]] == ["lh_zzzzzz_zzzzzzzzzzzzzzzzzzzz"]
    assert agent.again() == role, "an inventory took what the ledger knows"
    with orders.subject.server.admin() as admin:
        admin.execute("DROP ROLE lh_zzzzzz_zzzzzzzzzzzzzzzzzzzz")
        admin.commit()
    agent.end()
    assert said(lh, "audit")["problems"] == []
