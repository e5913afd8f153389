"""A lease's whole life on PostgreSQL, beside the bare statements that make and drop such a role."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path

import psycopg
from psycopg import sql

from benchmarks.measure import median
from contract.postgres_subject import ISSUER, DatabaseSubject
from leasehold.broker.audit.log import AuditLog
from leasehold.broker.issuers.builtin import make
from leasehold.broker.lease.issuing import Clocks, Issuing
from leasehold.broker.lease.machine import State
from leasehold.broker.lease.sealing import Recipes
from leasehold.broker.lease.store import SqliteLedger
from leasehold.core.model import Credential, Environment, Role
from leasehold.core.secret import Secret
from servers.postgres import PostgresServer

GRANTS = ("CONNECT", "USAGE ON SCHEMA shop", "SELECT ON ALL TABLES IN SCHEMA shop")
_KEY = Secret(b"k" * 32)
_TTL_S = 900
_AT_ONCE = 8
_BARE = (
    "CREATE ROLE {role} LOGIN PASSWORD {password} VALID UNTIL 'tomorrow'",
    "GRANT CONNECT ON DATABASE orders TO {role}",
    "GRANT USAGE ON SCHEMA shop TO {role}",
    "GRANT SELECT ON ALL TABLES IN SCHEMA shop TO {role}",
    "GRANT {role} TO CURRENT_USER",
    "DROP OWNED BY {role}",
    "DROP ROLE {role}",
)
"""What an operator would type, as the same role that the product has: one that may create roles and is no superuser. A
role with a grant cannot be dropped before what it was granted is, and that is for its members to do."""


def cycles(folder: Path, rounds: int, count: int) -> dict[str, float]:
    """Cycles per second of both, ``count`` in each turn, one after the other; and eight at a time."""
    server = PostgresServer()
    try:
        durable(server)
        subject = DatabaseSubject(server)
        try:
            return asyncio.run(_cycles(subject, folder, rounds, count))
        finally:
            subject.close()
    finally:
        server.close()


def durable(server: PostgresServer) -> None:
    """As one is in production: the tests' server does not wait for its disk, and writes down every statement."""
    with server.admin() as admin:
        for setting in ("fsync = on", "log_statement = 'none'", "log_connections = off"):
            admin.execute(f"ALTER SYSTEM SET {setting}".encode())
        admin.execute("SELECT pg_reload_conf()")


async def _cycles(subject: DatabaseSubject, folder: Path, rounds: int, count: int) -> dict[str, float]:
    issuing = product(folder)
    cycle = leased(issuing, subject)
    bare, ours, many = [], [], []
    own = subject.server.url(ISSUER, subject.secret.reveal().decode(), "orders")
    with psycopg.connect(own, autocommit=True) as admin:
        await cycle()
        await _bare(admin)
        for _ in range(rounds):
            bare.append(await _rate(lambda: _bare(admin), count))
            ours.append(await _rate(cycle, count))
            many.append(await _rate(lambda: _at_once(cycle), count // _AT_ONCE) * _AT_ONCE)
    await issuing.stop()
    return {
        "lease_cycle_bare_per_s": median(bare),
        "lease_cycle_per_s": median(ours),
        "lease_cycle_vs_bare_sql": median(ours) / median(bare),
        "lease_cycle_8_at_once_per_s": median(many),
    }


def product(folder: Path) -> Issuing:
    """A broker's issuing as ``wiring`` builds it: the ledger in a file, each step durable."""
    folder.mkdir(mode=0o700)
    audit = AuditLog(folder / "audit", _KEY, clock=time.time)
    clocks = Clocks(wall=time.time, boot=time.monotonic)
    return Issuing(lambda: SqliteLedger(folder), audit, Recipes(_KEY), make, clocks, "bench")


def credential(kind: str, parameters: Mapping[str, object]) -> Credential:
    """One whose leases are issued by ``kind``."""
    return Credential(
        name="orders",
        issuer=kind,
        secret="vault:orders",  # noqa: S106  # a reference
        environment=Environment.STAGING,
        role=Role.EXECUTE,
        max_ttl_s=_TTL_S,
        endpoints=(),
        parameters=tuple(parameters.items()),
    )


def leased(issuing: Issuing, subject: DatabaseSubject) -> Callable[[], Awaitable[None]]:
    """Issue one and take it back."""
    wanted = credential("postgres", {**subject.parameters(), "grants": list(GRANTS)})

    async def cycle() -> None:
        live = await issuing.issue("bench", wanted, subject.secret, time.time() + _TTL_S)
        ended = await issuing.end(live.entry)
        if ended.state is not State.REVOKED:
            raise RuntimeError(f"a lease is {ended.state}: {ended.error}")

    return cycle


async def _bare(admin: psycopg.Connection) -> None:
    names = {"role": sql.Identifier(f"bare_{secrets.token_hex(10)}"), "password": sql.Literal(secrets.token_hex(16))}
    for statement in _BARE:
        admin.execute(sql.SQL(statement).format(**names))


async def _at_once(cycle: Callable[[], Awaitable[None]]) -> None:
    await asyncio.gather(*(cycle() for _ in range(_AT_ONCE)))


async def _rate(work: Callable[[], Awaitable[None]], count: int) -> float:
    began = time.perf_counter()
    for _ in range(count):
        await work()
    return count / (time.perf_counter() - began)
