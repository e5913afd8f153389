"""Roles of a PostgreSQL server: one per lease, with its grants, its end and its limit of connections.

Everything about a role is created in one transaction, so that it is there with what was asked or not at all. It is
taken back in steps that can each be repeated: no login, end sessions, drop what it owns, drop it, read back.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import math
import re
from collections.abc import Awaitable, Callable, Collection
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from secrets import token_bytes, token_hex
from typing import Any, TypeVar

import psycopg
from psycopg import AsyncConnection, sql
from psycopg.rows import TupleRow

from leasehold.broker.issuers import postgres_grants as grants
from leasehold.broker.issuers.ports import NAME_PREFIX, Issued, Order
from leasehold.broker.issuers.postgres_grants import Grant, Right
from leasehold.broker.lease.machine import Revocability
from leasehold.core.errors import IssuerError
from leasehold.core.secret import Secret

T = TypeVar("T")
Connection = AsyncConnection[TupleRow]

_NAME = re.compile(rf"{NAME_PREFIX}[a-z0-9_]{{1,29}}")
_CONNECT_TIMEOUT_S = 5
_POLL_S = 0.02
_IDLE_MAX = 8
_ATTEMPTS = 10
_ITERATIONS = 4096
_MANUAL = "docs/issuers/postgres.md says what the issuer's role needs"
_DEFECT = "this is a defect in Leasehold; please report it"

# What an agent may have created is not to be found by an unqualified name; a commit that was confirmed stays.
_OPTIONS = " ".join(
    f"-c {setting}"
    for setting in (
        "search_path=pg_catalog,pg_temp",
        "synchronous_commit=on",
        "plan_cache_mode=force_generic_plan",
        "statement_timeout=10s",
        "lock_timeout=8s",
        "idle_in_transaction_session_timeout=10s",
        "idle_session_timeout=5min",
        "client_min_messages=error",
    )
)
_FIND = "SELECT rolname FROM pg_roles WHERE starts_with(rolname, %s)"
_OID = "SELECT oid FROM pg_roles WHERE rolname = %s"
_ROLE = """
SELECT rolcanlogin AND NOT (rolsuper OR rolcreaterole OR rolcreatedb OR rolreplication OR rolbypassrls),
       coalesce(extract(epoch FROM rolvaliduntil)::float8, 'infinity')
FROM pg_roles WHERE rolname = %s"""
# Everything whose access list names the role stands in pg_shdepend, whatever it is and in whatever database.
_RIGHTS = """
WITH acl AS MATERIALIZED (
  SELECT dbid, classid, objid, objsubid FROM pg_shdepend
  WHERE refclassid = 'pg_authid'::regclass AND refobjid = %(role)s::text::regrole AND deptype = 'a'
), here AS (
  SELECT * FROM acl WHERE objsubid = 0
    AND dbid IN (0, (SELECT oid FROM pg_database WHERE datname = current_database()))
)
SELECT CASE c.relkind WHEN 'S' THEN 'SEQUENCE' ELSE 'TABLE' END, n.nspname, c.relname, a.privilege_type, a.is_grantable
FROM here JOIN pg_class c ON here.classid = 'pg_class'::regclass AND c.oid = here.objid
  JOIN pg_namespace n ON n.oid = c.relnamespace, aclexplode(c.relacl) a WHERE a.grantee = %(role)s::text::regrole
UNION ALL
SELECT 'SCHEMA', n.nspname, '', a.privilege_type, a.is_grantable
FROM here JOIN pg_namespace n ON here.classid = 'pg_namespace'::regclass AND n.oid = here.objid,
  aclexplode(n.nspacl) a WHERE a.grantee = %(role)s::text::regrole
UNION ALL
SELECT 'DATABASE', '', d.datname, a.privilege_type, a.is_grantable
FROM here JOIN pg_database d ON here.classid = 'pg_database'::regclass AND d.oid = here.objid,
  aclexplode(d.datacl) a WHERE a.grantee = %(role)s::text::regrole
UNION ALL
SELECT 'ROLE', '', r.rolname, 'MEMBER', m.admin_option
FROM pg_auth_members m JOIN pg_roles r ON r.oid = m.roleid WHERE m.member = %(role)s::text::regrole
UNION ALL
SELECT upper(classid::regclass::text), '', objid::text, 'SOMETHING', false FROM acl
WHERE (dbid, classid, objid, objsubid) NOT IN (
  SELECT * FROM here WHERE classid IN ('pg_class'::regclass, 'pg_namespace'::regclass, 'pg_database'::regclass))"""
_RELATIONS = """
SELECT 'TABLE', n.nspname, c.relname, ARRAY(
  SELECT p FROM unnest(ARRAY['SELECT', 'INSERT', 'UPDATE', 'DELETE', 'TRUNCATE']) p
  WHERE has_table_privilege(c.oid, p || ' WITH GRANT OPTION'))
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname = ANY(%(schemas)s) AND c.relkind IN ('r', 'v', 'm', 'f', 'p')
UNION ALL
SELECT 'SEQUENCE', n.nspname, c.relname, ARRAY(
  SELECT p FROM unnest(ARRAY['SELECT', 'UPDATE', 'USAGE']) p
  WHERE has_sequence_privilege(c.oid, p || ' WITH GRANT OPTION'))
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname = ANY(%(schemas)s) AND c.relkind = 'S'"""
# By SET ROLE a member has what the roles above it are, attributes included.
_REACHES = """
SELECT rolname FROM pg_roles
WHERE pg_has_role(%(role)s, oid, 'MEMBER') AND rolname <> %(role)s
  AND (rolsuper OR rolcreaterole OR rolcreatedb OR rolreplication OR rolbypassrls OR rolname = current_user
       OR (starts_with(rolname, 'pg_') AND NOT rolname = ANY(%(safe)s)))"""
_MYSELF = """
SELECT rolcreaterole, rolinherit, rolsuper OR rolcreatedb OR rolreplication OR rolbypassrls
FROM pg_roles WHERE rolname = current_user"""
# A session that is just starting is in no list yet, but its first transaction is.
_STARTING = """
SELECT l.pid FROM pg_locks l
WHERE l.locktype = 'virtualxid' AND l.pid NOT IN (SELECT pid FROM pg_stat_activity WHERE pid IS NOT NULL)"""
_TERMINATE = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE usesysid = %s::text::regrole"
_ELSEWHERE = """
SELECT DISTINCT d.datname FROM pg_shdepend s JOIN pg_database d ON d.oid = s.dbid
WHERE s.refclassid = 'pg_authid'::regclass AND s.refobjid = %s::text::regrole AND d.datname <> current_database()"""
_LEFT = """
SELECT (SELECT count(*) FROM pg_roles WHERE rolname = %s),
       (SELECT count(*) FROM pg_stat_activity a
        WHERE a.usesysid IS NOT NULL AND NOT EXISTS (SELECT FROM pg_roles r WHERE r.oid = a.usesysid))"""

_NO_LOGIN = sql.SQL("ALTER ROLE {} NOLOGIN CONNECTION LIMIT 0 PASSWORD NULL")
# Without being in it, the issuer's role may neither end its sessions nor drop what it owns.
_JOIN = sql.SQL("GRANT {} TO CURRENT_USER")

# Another process was at the same access list or the same role, and has won: unique, duplicate, deadlock, "tuple
# concurrently updated". No lock of the database's keeps them apart: whoever may connect could hold it.
_AGAIN = frozenset({"23505", "42710", "40P01", "XX000"})

_SAID = {
    "0LP01": ("a task's role is in the issuer's own, or would be", "take it out by hand"),
    "42501": ("the issuer's role may not do that", _MANUAL),
    "42704": ("a role that is named does not exist", "look at the parameters grants and reassign_to"),
    "42P01": ("a table or sequence that is named does not exist", "look at the parameter grants"),
    "3F000": ("a schema that is named does not exist", "look at the parameter grants"),
    "2BP01": (
        "others depend on what the role owns or was granted",
        "drop that, or revoke it, by hand; the role cannot log in any more",
    ),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """Where the server is and who asks. ``ca``: path of the PEM file that it is verified against."""

    host: str
    port: int
    user: str
    database: str
    ca: str


class PostgresIssuer:
    """See :class:`leasehold.broker.issuers.ports.Issuer`. A call has a connection of its own, kept for the next.

    ``allowed``: what an order's scope may hold. ``connections``: how many a lease may have open. ``reassign_to``: the
    role that keeps what a lease's role has created; without one it is dropped. ``sessions_end_s``: how long revoking
    waits for sessions to end; ``starting_s``: and for those that were just starting to be listed, which takes a moment.
    """

    kind = "postgres"
    lists = True
    revocability = Revocability.NOW

    def __init__(
        self,
        server: Server,
        password: Secret,
        *,
        allowed: Collection[Grant],
        connections: int,
        reassign_to: str = "",
        sessions_end_s: float = 8.0,
        starting_s: float = 1.0,
    ) -> None:
        self._server = server
        self._password = password
        self._allowed = {str(grant): grant for grant in allowed}
        self.scope = frozenset(self._allowed)
        self._connections = connections
        self._reassign_to = reassign_to
        self._sessions_end_s = sessions_end_s
        self._starting_s = starting_s
        self._idle: list[Connection] = []
        self._turn = asyncio.Lock()

    async def check(self) -> None:
        """Looks at the issuer's role; creates one with all grants and drops it, in a transaction that is undone."""
        await self.close()  # what is checked is whether it can come in now
        order = Order(
            name=f"{NAME_PREFIX}check_{token_hex(8)}",
            secret=Secret(token_hex(16).encode()),
            task="check",
            expires=0.0,
            scope=self.scope,
        )
        await self._work(lambda connection: self._check(connection, order))

    async def issue(self, order: Order) -> Issued:
        """In one transaction, and read back before it is committed."""
        wanted = self._wanted(order)

        async def work(connection: Connection) -> Issued:
            # What does not depend on an answer is sent without waiting for one.
            async with AsyncExitStack() as turn, connection.pipeline(), connection.transaction():
                return await self._issue(connection, order, wanted, turn)

        return await self._work(work)

    async def revoke(self, name: str, kept: Secret | None = None) -> bool:
        """No login, no sessions, nothing owned, no role; and nothing of it left when looked for."""
        _ours(name)
        await self._work(lambda connection: self._revoke(connection, name))
        return True

    async def find(self) -> Collection[str]:
        """All roles whose names we could have given."""

        async def work(connection: Connection) -> Collection[str]:
            rows = await _rows(connection, _FIND, (NAME_PREFIX,))
            return frozenset(name for (name,) in rows if _NAME.fullmatch(name))

        return await self._work(work)

    async def close(self) -> None:
        """Close the connections that were kept."""
        while self._idle:
            await self._idle.pop().close()

    def _wanted(self, order: Order) -> dict[str, Grant]:
        """The grants of an order; only what the configuration has is granted, whoever asks."""
        _ours(order.name)
        if not order.scope <= self.scope:
            raise IssuerError("the order's scope is not in the configured grants", hint=_DEFECT)
        return {text: self._allowed[text] for text in order.scope}

    async def _work(self, work: Callable[[Connection], Awaitable[T]]) -> T:
        attempts = 0
        try:
            while True:
                kept = bool(self._idle)
                connection = self._idle.pop() if kept else await self._connect(self._server.database)
                try:
                    return await self._on(connection, work)
                except psycopg.Error as e:
                    # Everything here may be done again, on another connection when one that was kept has died.
                    attempts += 1
                    again = (kept and _lost(e)) or (e.sqlstate in _AGAIN and attempts < _ATTEMPTS)
                    if not again:
                        raise
        except psycopg.Error as e:
            message, hint = _said(e)
        # Behind the except block: the server's own words, and what the driver holds, are not carried along.
        raise IssuerError(message, hint=hint)

    async def _on(self, connection: Connection, work: Callable[[Connection], Awaitable[T]]) -> T:
        """Keep the connection when all went well; nothing is left half done on it."""
        keep = False
        try:
            result = await work(connection)
            keep = len(self._idle) < _IDLE_MAX
            return result
        finally:
            if keep:
                self._idle.append(connection)
            else:
                await connection.close()

    async def _connect(self, database: str) -> Connection:
        server = self._server
        return await AsyncConnection.connect(
            host=server.host,
            port=server.port,
            user=server.user,
            password=self._password.reveal().decode(errors="replace"),
            dbname=database,
            sslmode="verify-full",
            sslrootcert=server.ca,
            sslcertmode="disable",
            gssencmode="disable",
            connect_timeout=_CONNECT_TIMEOUT_S,
            tcp_user_timeout=_CONNECT_TIMEOUT_S * 1000,
            application_name="leasehold",
            options=_OPTIONS,
            autocommit=True,
            prepare_threshold=1,
        )

    async def _check(self, connection: Connection, order: Order) -> None:
        ((creates, inherits, more),) = await _rows(connection, _MYSELF, ())
        if not creates or not inherits:
            raise IssuerError("the issuer's role lacks CREATEROLE or INHERIT", hint=_MANUAL)
        if more:
            raise IssuerError("the issuer's role may do more than an issuer needs", hint=_MANUAL)
        async with AsyncExitStack() as turn, connection.transaction(force_rollback=True):
            issued = await self._issue(connection, order, self._wanted(order), turn)
            surplus = issued.scope - order.scope
            if surplus:
                raise IssuerError(f"a task's role would get more: {', '.join(sorted(surplus))}", hint=_MANUAL)
            await connection.execute(_JOIN.format(sql.Identifier(order.name)))
            await connection.execute(self._disowning(await _rights(connection, order.name), order.name, drop=True))

    async def _issue(
        self, connection: Connection, order: Order, wanted: dict[str, Grant], turn: AsyncExitStack
    ) -> Issued:
        """``turn`` ends after the transaction: two that change one access list at the same time disturb each other."""
        there = await connection.execute(_OID, (order.name,))
        rights = await self._expected(connection, wanted)
        verb = "ALTER" if await there.fetchall() else "CREATE"
        role = sql.SQL("{} ROLE {} LOGIN CONNECTION LIMIT {} PASSWORD {} VALID UNTIL {}").format(
            sql.SQL(verb),
            sql.Identifier(order.name),
            sql.Literal(self._connections),
            sql.Literal(_verifier(order)),
            sql.Literal(datetime.fromtimestamp(math.floor(order.expires), UTC).isoformat()),
        )
        await connection.execute(role)
        granting = [*grants.granting(frozenset().union(*rights.values()), order.name)]
        if granting:
            await turn.enter_async_context(self._turn)
        for statement in granting:
            await connection.execute(statement)
        made = await connection.execute(_ROLE, (order.name,))
        scope = await self._scope(connection, order.name, rights)
        ((plain, expires),) = await made.fetchall()
        if not plain:
            raise IssuerError("the role has attributes that no lease gets", hint="who else uses this name?")
        return Issued(
            material={
                "username": Secret(order.name.encode()),
                "password": order.secret,
                "database": Secret(self._server.database.encode()),
            },
            expires=float(expires),
            scope=scope,
        )

    async def _expected(self, connection: Connection, wanted: dict[str, Grant]) -> dict[str, frozenset[Right]]:
        """The rights that each text of an order stands for."""
        schemas = [grant.schema for grant in wanted.values() if grant.schema and not grant.name]
        rows = await _rows(connection, _RELATIONS, {"schemas": schemas}) if schemas else []
        relations = [(str(kind), str(schema), str(name), tuple(may)) for kind, schema, name, may in rows]
        rights: dict[str, frozenset[Right]] = {}
        for text, grant in wanted.items():
            rights[text] = grants.expected(grant, self._server.database, relations)
            if {right.privilege for right in rights[text]} != {*grant.privileges}:
                raise IssuerError(f"there is nothing for which the issuer's role may grant {text}", hint=_MANUAL)
        return rights

    async def _scope(self, connection: Connection, name: str, rights: dict[str, frozenset[Right]]) -> frozenset[str]:
        """What the role has been granted: texts of the order, where it has all of one, and whatever is more."""
        has = await _rights(connection, name)
        for text, expected in rights.items():
            if expected - has:
                # A server only warns when it grants less than it was told to.
                raise IssuerError(f"the server did not grant all of {text}", hint=_MANUAL)
        more = has.difference(*rights.values())
        found = []
        if any(right.kind == grants.Target.ROLE for right in has):
            found = await _rows(connection, _REACHES, {"role": name, "safe": sorted(grants.SAFE_PREDEFINED)})
        above = {f"what {name} may, which is more than a task needs" for (name,) in found}
        return frozenset(rights) | {str(right) for right in more} | above

    async def _revoke(self, connection: Connection, name: str) -> None:
        if await self._shut_out(connection, name):
            for database in await self._end_sessions(connection, name):
                async with await self._connect(database) as there:
                    await self._disown(there, name)
            await self._disown(connection, name, drop=True)
        ((there, sessions),) = await _rows(connection, _LEFT, (name,))
        if there or sessions:
            raise IssuerError(
                "the role is still there, or a session of one that was dropped",
                hint="as a superuser, end the sessions whose usesysid in pg_stat_activity is no role's oid",
            )

    async def _shut_out(self, connection: Connection, name: str) -> bool:
        """No more login, and the issuer's role in it, which may then end it; whether there is such a role."""
        role = sql.Identifier(name)
        no_login, join = _NO_LOGIN.format(role), _JOIN.format(role)
        try:
            await connection.execute(_together(no_login, join))
        except psycopg.errors.UndefinedObject:
            return False
        except psycopg.Error:
            # The first is to hold also where the second cannot.
            await connection.execute(no_login)
            raise
        return True

    async def _end_sessions(self, connection: Connection, name: str) -> Collection[str]:
        """Until there is none; sessions that were starting when the role lost its login are waited for, a moment.

        Returns the other databases in which there is something of the role's.
        """
        loop = asyncio.get_running_loop()
        began = loop.time()
        starting: set[int] | None = None
        while True:
            async with connection.pipeline() as pipeline:
                # In this order: one that is not starting any more when looked for is in the list that comes after,
                # which a transaction would take only once.
                before = await connection.execute(_STARTING)
                await pipeline.sync()
                ended = await connection.execute(_TERMINATE, (name,))
                await pipeline.sync()
                elsewhere = await connection.execute(_ELSEWHERE, (name,))
                now = {pid for (pid,) in await before.fetchall()}
                ((count,),) = await ended.fetchall()
                databases = [database for (database,) in await elsewhere.fetchall()]
            starting = now if starting is None else starting & now
            passed = loop.time() - began
            if not count and (not starting or passed > self._starting_s):
                return databases
            if passed > self._sessions_end_s:
                raise IssuerError(f"{count} sessions of the role do not end", hint="look at pg_stat_activity")
            await asyncio.sleep(_POLL_S)

    async def _disown(self, connection: Connection, name: str, *, drop: bool = False) -> None:
        """Take from the role, in one database, what it owns and was granted; then drop it. One transaction."""
        async with self._turn:
            try:
                await connection.execute(self._disowning(frozenset(), name, drop=drop))
            except psycopg.errors.InsufficientPrivilege:
                rights = await _rights(connection, name)
                await connection.execute(self._disowning(rights, name, drop=drop))

    def _disowning(self, rights: Collection[Right], name: str, *, drop: bool) -> sql.Composed:
        """``rights``: to be taken one by one before; dropping all at once asks for rights on columns, which sequences
        have none of to give."""
        role = sql.Identifier(name)
        steps: list[sql.Composable] = [*grants.revoking(rights, name)]
        if self._reassign_to:
            steps.append(sql.SQL("REASSIGN OWNED BY {} TO {}").format(role, sql.Identifier(self._reassign_to)))
        steps.append(sql.SQL("DROP OWNED BY {}").format(role))
        if drop:
            steps.append(sql.SQL("DROP ROLE {}").format(role))
        return _together(*steps)


def _together(*statements: sql.Composable) -> sql.Composed:
    """Sent at once: without a transaction around them they are one of their own."""
    return sql.SQL("; ").join(statements)


async def _rights(connection: Connection, name: str) -> set[Right]:
    rows = await _rows(connection, _RIGHTS, {"role": name})
    return {Right(kind=k, schema=s, name=n, privilege=p, grantable=g) for k, s, n, p, g in rows}


async def _rows(connection: Connection, query: str, parameters: Any) -> list[TupleRow]:
    cursor = await connection.execute(query, parameters)
    return await cursor.fetchall()


def _verifier(order: Order) -> str:
    """What the server keeps (RFC 5803): with it made here, the password is in no statement that could be logged.

    A password of 190 random bits gains nothing from being derived slowly, which the server would do again for each
    connection; but clients that we do not know may insist on what RFC 7677 recommends.
    """
    salt = token_bytes(16)
    iterations = _ITERATIONS if order.exposed else 1
    salted = hashlib.pbkdf2_hmac("sha256", order.secret.reveal(), salt, iterations)
    stored = hashlib.sha256(hmac.digest(salted, b"Client Key", "sha256")).digest()
    server = hmac.digest(salted, b"Server Key", "sha256")
    salt64, stored64, server64 = (base64.b64encode(part).decode() for part in (salt, stored, server))
    return f"SCRAM-SHA-256${iterations}:{salt64}${stored64}:{server64}"


def _ours(name: str) -> None:
    if not _NAME.fullmatch(name):
        raise IssuerError("the name is none that Leasehold gives", hint=_DEFECT)


def _lost(error: psycopg.Error) -> bool:
    """Whether the connection itself has ended: class 57P, or no answer at all."""
    return isinstance(error, psycopg.OperationalError) and (error.sqlstate or "57P").startswith("57P")


def _said(error: psycopg.Error) -> tuple[str, str]:
    """What to say of an error of the driver's: never its own words."""
    state = error.sqlstate or ""
    if state in _SAID:
        return _SAID[state]
    if error.pgconn is not None and not state and error.pgconn.used_password:
        # It had come so far as to ask for the password, and then ended the connection; the driver gives no code.
        return (
            "the server refuses the issuer's role, its password or the database",
            "was the password changed there? `leasehold secret set` stores a new one",
        )
    if isinstance(error, psycopg.OperationalError) and not state:
        return (
            "the server cannot be reached, or its certificate does not verify",
            "look at the parameters server and ca",
        )
    return f"the server answered with the error {state or type(error).__name__}", "look at the server's log"
