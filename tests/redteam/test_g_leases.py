"""BOUNDARY area G, what concerns leases, through the real broker and a real PostgreSQL."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import pytest

from contract.postgres_subject import ISSUER, DatabaseSubject
from integration.databases import Database, configure
from servers import postgres
from servers.harness import Leasehold

if TYPE_CHECKING:
    from servers.postgres import PostgresServer
    from servers.upstreams import Upstreams

_PATIENCE_S = 30.0


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


def wait_until(true: Callable[[], object]) -> None:
    until = time.monotonic() + _PATIENCE_S
    while not true():
        assert time.monotonic() < until
        time.sleep(0.05)


def where(orders: Database) -> str:
    return f"host={orders.host} port={orders.port} dbname=orders"


def ask(orders: Database, statement: str = "SELECT session_user") -> list[str]:
    return ["psql", "-XAtq", "-d", where(orders), "-c", statement]


class Agent:
    """A compartment that has used its credential, and goes on until it is told to stop."""

    def __init__(self, lh: Leasehold, orders: Database) -> None:
        script = f'psql -XAtq -d "{where(orders)}" -c "SELECT session_user"; read line; echo over'
        self.process = lh.start("sh", "-c", script, stdin=subprocess.PIPE)
        assert self.process.stdout is not None
        self.role = self.process.stdout.readline().decode().strip()
        assert self.role.startswith("lh_")

    def end(self) -> str:
        _, said = self.process.communicate(b"\n", timeout=60)
        return said.decode()


def test_g5_two_tasks_with_one_credential_never_share_an_account(lh: Leasehold, orders: Database) -> None:
    first, second = Agent(lh, orders), Agent(lh, orders)
    assert first.role != second.role
    assert ours(orders) == {first.role, second.role}
    first.end()
    assert ours(orders) == {second.role}, "the end of one task took the other's account, or left its own"
    second.end()
    assert ours(orders) == set()
    third = lh.run(*ask(orders))
    assert third.stdout.strip() not in (first.role, second.role)


def test_g7_the_end_of_a_task_ends_sessions_that_it_left_open(lh: Leasehold, orders: Database) -> None:
    """A child that stays behind, with a session that would go on."""
    left = f'psql -XAtq -d "{where(orders)}" -c "SELECT pg_sleep(300)"'
    done = lh.run(
        "sh", "-c", f'{" ".join(ask(orders)[:3])} "{where(orders)}" -c "SELECT session_user"; setsid {left} &'
    )
    role = done.stdout.strip()
    assert role.startswith("lh_")
    assert orders.subject.sessions(role) == 0
    assert ours(orders) == set()


@pytest.mark.parametrize("victim", ["daemon", "envoy", "launcher"])
def test_g11_whatever_is_killed_the_account_is_taken_back(lh: Leasehold, orders: Database, victim: str) -> None:
    agent = Agent(lh, orders)
    assert ours(orders) == {agent.role}
    pid = {"daemon": lh.daemon_pid(), "envoy": lh.envoy_pid(), "launcher": agent.process.pid}[victim]
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    agent.end()
    assert lh.run(*ask(orders)).returncode == 0, "the next one works"
    wait_until(lambda: ours(orders) == set())


def test_g12_a_revocation_that_fails_is_said_and_tried_until_it_succeeds(lh: Leasehold, orders: Database) -> None:
    agent = Agent(lh, orders)
    with orders.subject.server.admin() as admin:
        admin.execute(f"ALTER ROLE {ISSUER} NOLOGIN")
        admin.commit()  # before its connections end: none may come after them
        admin.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = %s", [ISSUER])
        said = agent.end()
        assert "not yet taken back" in said
        assert ours(orders) == {agent.role}
        admin.execute(f"ALTER ROLE {ISSUER} LOGIN")
        admin.commit()
    wait_until(lambda: ours(orders) == set())
    events = [json.loads(line)["event"] for line in lh.cli("audit", "query", "--json").stdout.splitlines()]
    assert "lease:stuck" in events
    assert events[-1] == "lease:revoked"


def test_g14_a_use_that_is_refused_makes_no_account(lh: Leasehold, orders: Database) -> None:
    """Production needs approval, which nobody gives here."""
    lh.config.write_text(lh.config.read_text().replace('environment = "development"', 'environment = "production"'))
    before = orders.subject.server.log.read_text().count("CREATE ROLE")
    done = lh.run(*ask(orders))
    assert done.returncode != 0 and "approval-needed" in done.stderr
    assert orders.subject.server.log.read_text().count("CREATE ROLE") == before


def test_g17_g19_neither_the_agent_nor_the_operator_can_read_what_was_issued(lh: Leasehold, orders: Database) -> None:
    """What is looked for is the issuer's own password and the account's name; its password only the relay has."""
    agent = Agent(lh, orders)
    secret = orders.subject.secret.reveal().decode()
    seen = lh.run("sh", "-c", "env; cat /proc/*/environ /proc/*/cmdline; cat /run/leasehold/*").stdout
    told = "".join(lh.cli(*words).stdout for words in (("credential", "list", "--json"), ("audit", "query", "--json")))
    state = b"".join(path.read_bytes() for path in (lh.base / "state").rglob("*") if path.is_file())
    agent.end()
    assert secret not in seen and secret not in told and secret.encode() not in state
    assert agent.role not in seen


def test_g11_a_ledger_that_was_lost_or_is_an_old_copy_hides_nothing(lh: Leasehold, orders: Database) -> None:
    """What the audit log says was ours is looked for before anything new is issued, and taken back."""
    assert lh.run(*ask(orders)).returncode == 0
    agent = Agent(lh, orders)
    pid = lh.daemon_pid()
    assert pid is not None
    stranger = "lh_somebody_elses"
    orders.subject.plant(stranger)
    try:
        os.kill(pid, signal.SIGKILL)
        agent.end()
        for path in (lh.base / "state").rglob("ledger.db*"):
            path.unlink()
        assert ours(orders) == {agent.role, stranger}
        assert lh.run(*ask(orders)).returncode == 0
        assert ours(orders) == {stranger}, "another broker's may be there too"
        events = [json.loads(line)["event"] for line in lh.cli("audit", "query", "--json").stdout.splitlines()]
        assert events.count("lease:orphan") == 2
    finally:
        orders.subject.remove(stranger)
