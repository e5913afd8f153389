"""Users of a MariaDB or MySQL server: one per lease, with its grants, TLS required, and a limit of connections.

Neither server ends a user at a time of day: what ends a lease on time is the ledger's sweep, so ``Issued.expires`` is
the order's. A password expires after whole days at most, which is only for the case that no broker ever comes again.

A user is locked from its creation until its grants have been read back, so that a crash leaves one that nobody can
use. What it is given is read with ``SHOW GRANTS``, which leaves no kind of right out.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import re
import secrets
import socket
import ssl
import string
import threading
import time
from collections.abc import Callable, Collection, Iterable
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import pymysql
from pymysql.constants import ER

from leasehold.broker.issuers import mysql_grants as grants
from leasehold.broker.issuers import mysql_passwords as passwords
from leasehold.broker.issuers.mysql_grants import Grant, Right
from leasehold.broker.issuers.ports import NAME_PREFIX, Issued, Order
from leasehold.broker.lease.machine import Revocability
from leasehold.core.errors import IssuerError
from leasehold.core.secret import Secret

T = TypeVar("T")

_NAME = re.compile(rf"{NAME_PREFIX}[a-z0-9_]{{1,29}}")
_CONNECT_TIMEOUT_S = 5.0
_ANSWER_TIMEOUT_S = 10.0
_LOCK_TIMEOUT_S = 8
_POLL_S = 0.02
_DAY_S = 86400
_STARTING = "unauthenticated user"
"""Whom the list of connections names while a login is going on."""
_MANUAL = "docs/issuers/mysql.md says what the issuer's user needs"
_DEFECT = "this is a defect in Leasehold; please report it"

_HOSTS = "SELECT Host FROM mysql.user WHERE User = %s"
_FIND = "SELECT User FROM mysql.user"
_USER = """
SELECT ssl_type, max_user_connections, plugin, authentication_string FROM mysql.user WHERE User = %s AND Host = %s"""
_CONNECTIONS = "SELECT id, user FROM information_schema.processlist"
_ANYBODY = "SELECT Db FROM mysql.db WHERE User = ''"

_REFUSED = frozenset({ER.ACCESS_DENIED_ERROR, 1130, 1698, 1820, 1862, 3118, 4151})
"""A password; a host; an account that is locked or has expired."""
_SAID = {
    ER.DBACCESS_DENIED_ERROR: ("the issuer's user may not do that", _MANUAL),
    ER.TABLEACCESS_DENIED_ERROR: ("the issuer's user may not do that", _MANUAL),
    ER.PROCACCESS_DENIED_ERROR: ("the issuer's user may not do that", _MANUAL),
    ER.SPECIFIC_ACCESS_DENIED_ERROR: ("the issuer's user may not do that", _MANUAL),
    ER.NO_SUCH_TABLE: ("a table that is named does not exist", "look at the parameter grants"),
    ER.SP_DOES_NOT_EXIST: ("a procedure or function that is named does not exist", "look at the parameter grants"),
    ER.OPTION_PREVENTS_STATEMENT: ("an option of the server forbids that", "read_only, or strict_password_validation?"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """Where the server is and who asks. ``ca``: path of the PEM file that it is verified against."""

    host: str
    port: int
    user: str
    ca: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Dialect:
    """In what the two servers differ. ``needs``: of the issuer's user, for the whole server.

    ``patterns``: see :func:`mysql_grants.at`. ``names_logins``: the list of connections says for whom a login is before
    the server has looked the user up; otherwise, perhaps, only when it is over.
    """

    sql_mode: str
    identified: str
    plugin: str
    needs: frozenset[str]
    patterns: bool = True
    names_logins: bool = False

    def digest(self, password: Secret) -> str:
        """What the server keeps of it; another one each time, where there is a salt."""
        if self.plugin == "mysql_native_password":
            return passwords.native(password.reveal())
        letters = string.ascii_letters + string.digits
        salt = "".join(secrets.choice(letters) for _ in range(passwords.SALT_BYTES))
        return passwords.caching_sha2(password.reveal(), salt)


MARIADB = Dialect(
    # Without it, granting something to a user who is not there makes one, who needs no password.
    sql_mode="STRICT_ALL_TABLES,NO_AUTO_CREATE_USER",
    identified="IDENTIFIED VIA mysql_native_password USING '{}'",
    plugin="mysql_native_password",
    needs=frozenset({"PROCESS", "CREATE USER", "CONNECTION ADMIN"}),
    names_logins=True,
)
MYSQL = Dialect(
    sql_mode="STRICT_ALL_TABLES",
    identified="IDENTIFIED WITH caching_sha2_password AS '{}'",
    plugin="caching_sha2_password",
    needs=frozenset({"PROCESS", "CREATE USER", "CONNECTION_ADMIN"}),
)
MYSQL_LITERAL = replace(MYSQL, patterns=False)
"""With ``partial_revokes``, the name of a database is just a name."""


class Link:
    """One connection of the issuer's user, and in which dialect to ask there."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection
        self.dialect = MYSQL

    def prepare(self) -> None:
        """Before anything else: learn the dialect, and make statements mean the same whatever the options."""
        ((version,),) = self.ask("SELECT VERSION()")
        if "mariadb" in version.lower():
            self.dialect = MARIADB
        else:
            ((literal,),) = self.ask("SELECT @@partial_revokes")
            self.dialect = MYSQL_LITERAL if literal else MYSQL
        self.ask(f"SET SESSION sql_mode = '{self.dialect.sql_mode}', lock_wait_timeout = {_LOCK_TIMEOUT_S}")

    def ask(self, statement: str, *values: str) -> list[tuple[Any, ...]]:
        """The rows of the answer. ``values`` take the place of each ``%s``."""
        with closing(self._connection.cursor()) as cursor:
            cursor.execute(statement, values or None)
            return list(cursor.fetchall())


class MysqlIssuer:
    """See :class:`leasehold.broker.issuers.ports.Issuer`. A call has a connection, and a thread, of its own.

    ``allowed``: what an order's scope may hold. ``connections``: how many a lease may have open. ``client_host``: from
    where a task's user may come, as servers write it. ``sessions_end_s``: how long revoking waits for connections to
    end; ``starting_s``: and for logins whose user the server does not tell, which are cut then.
    """

    kind = "mysql"
    lists = True
    revocability = Revocability.NOW

    def __init__(
        self,
        server: Server,
        password: Secret,
        *,
        allowed: Collection[Grant],
        connections: int,
        client_host: str = "%",
        sessions_end_s: float = 8.0,
        starting_s: float = 1.0,
    ) -> None:
        self._server = server
        self._password = password
        self._allowed = {str(grant): grant for grant in allowed}
        self.scope = frozenset(self._allowed)
        self._connections = connections
        self._client_host = client_host
        self._sessions_end_s = sessions_end_s
        self._starting_s = starting_s

    async def check(self) -> None:
        """Looks at the issuer's user; makes one with all grants, who is locked, and drops it."""
        await self._work(self._check)

    async def issue(self, order: Order) -> Issued:
        """Created locked, unlocked when its grants are as ordered; what was there under this name is not any more."""
        _ours(order.name)
        if not order.scope <= self.scope:
            raise IssuerError("the order's scope is not in the configured grants", hint=_DEFECT)
        return await self._work(lambda link: self._issue(link, order))

    async def revoke(self, name: str, kept: Secret | None = None) -> bool:
        """Lock it, end its connections and logins, drop it; see that it and they are gone."""
        _ours(name)
        await self._work(lambda link: self._revoke(link, name))
        return True

    async def find(self) -> Collection[str]:
        """All users whose names we could have given."""
        rows = await self._work(lambda link: link.ask(_FIND))
        return frozenset(name for (name,) in rows if _NAME.fullmatch(name))

    async def close(self) -> None:
        """Nothing is kept open."""

    async def _work(self, work: Callable[[Link], T]) -> T:
        wire = Wire()
        try:
            return await asyncio.to_thread(self._blocking, work, wire)
        except (pymysql.Error, OSError) as e:
            message, hint = _said(e)
        finally:
            wire.cut()  # a call that was given up goes no further
        # Behind the except block: the server's own words, and what the driver holds, are not carried along.
        raise IssuerError(message, hint=hint)

    def _blocking(self, work: Callable[[Link], T], wire: Wire) -> T:
        server = self._server
        connection = pymysql.connect(
            host=server.host,
            port=server.port,
            user=server.user,
            password=self._password.reveal(),
            # A server without TLS is an error of the driver's from its version 1.2 on; a test sees to it.
            ssl=ssl.create_default_context(cafile=server.ca),
            charset="utf8mb4",
            autocommit=True,
            read_timeout=_ANSWER_TIMEOUT_S,
            write_timeout=_ANSWER_TIMEOUT_S,
            defer_connect=True,
        )
        with closing(wire.open(server.host, server.port)) as sock:
            connection.connect(sock)
            with closing(connection):
                link = Link(connection)
                link.prepare()
                return work(link)

    def _check(self, link: Link) -> None:
        ((myself,),) = link.ask("SELECT CURRENT_USER()")
        name, _, host = myself.rpartition("@")
        own = _grants(link, name, host)
        on_all = {right.privilege for right in own if right.at == "*.*"}
        lacks = {f"{privilege} ON *.*" for privilege in link.dialect.needs - on_all}
        reads = Right(privilege="SELECT", at="`mysql`.*")
        lacks |= {str(reads)} - {str(right) for right in own}
        if lacks:
            raise IssuerError(f"the issuer's user lacks {', '.join(sorted(lacks))}", hint=_MANUAL)
        surplus = [right for right in own if _reaches_too_far(right, link.dialect.needs) and right != reads]
        if surplus:
            raise IssuerError("the issuer's user may do more than an issuer needs", hint=_MANUAL)
        everybody = _everybody(link)
        if everybody:
            raise IssuerError(f"everybody has {', '.join(sorted(everybody))}, and a task would too", hint=_MANUAL)
        order = Order(
            name=f"{NAME_PREFIX}check_{secrets.token_hex(8)}",
            secret=Secret(secrets.token_hex(16).encode()),
            task="check",
            expires=0.0,
            scope=self.scope,
        )
        try:
            self._make(link, order)
            self._scope(link, order)
        finally:
            _drop(link, order.name, [self._client_host])

    def _issue(self, link: Link, order: Order) -> Issued:
        _drop(link, order.name, _hosts(link, order.name))
        self._make(link, order)
        scope = self._scope(link, order)
        if scope == order.scope:
            link.ask(f"ALTER USER {grants.account(order.name, self._client_host)} ACCOUNT UNLOCK")
        return Issued(
            material={"username": Secret(order.name.encode()), "password": order.secret},
            expires=order.expires,
            scope=scope,
        )

    def _make(self, link: Link, order: Order) -> None:
        """Locked, with everything that was ordered; checked for what is not a grant."""
        dialect = link.dialect
        user = grants.account(order.name, self._client_host)
        digest = dialect.digest(order.secret)
        ((now,),) = link.ask("SELECT UNIX_TIMESTAMP()")
        days = max(1, math.ceil((order.expires - now) / _DAY_S))
        link.ask(
            f"CREATE USER {user} {dialect.identified.format(digest)} REQUIRE SSL"
            f" WITH MAX_USER_CONNECTIONS {self._connections} PASSWORD EXPIRE INTERVAL {days} DAY ACCOUNT LOCK"
        )
        for text in sorted(order.scope):
            grant = self._allowed[text]
            link.ask(f"GRANT {', '.join(grant.privileges)} ON {grants.at(grant, patterns=dialect.patterns)} TO {user}")
        if link.ask(_USER, order.name, self._client_host) != [("ANY", self._connections, dialect.plugin, digest)]:
            raise IssuerError("the user is not as it was made", hint="who else uses this name?")

    def _scope(self, link: Link, order: Order) -> frozenset[str]:
        """What the user has been granted: texts of the order, and whatever is more."""
        has = _grants(link, order.name, self._client_host)
        wanted = {text: grants.expected(self._allowed[text], patterns=link.dialect.patterns) for text in order.scope}
        missing = [text for text, rights in wanted.items() if rights - has]
        if missing:
            raise IssuerError(
                f"the server did not grant all of {', '.join(sorted(missing))}",
                hint="does it write the names in another way?",
            )
        return frozenset(wanted) | {str(right) for right in has.difference(*wanted.values())}

    def _revoke(self, link: Link, name: str) -> None:
        hosts = _hosts(link, name)
        for host in hosts:
            link.ask(f"ALTER USER IF EXISTS {grants.account(name, host)} ACCOUNT LOCK")
        # Also when it was not there: a crash, or somebody else, may have dropped it and left its connections.
        self._end_connections(link, name)
        _drop(link, name, hosts)
        if _hosts(link, name) or name in {user for _, user in link.ask(_CONNECTIONS)}:
            raise IssuerError("the user is still there, or a connection of its", hint="look at SHOW PROCESSLIST there")

    def _end_connections(self, link: Link, name: str) -> None:
        """Until there is none; also logins that had begun when the user was locked, which could still come in."""
        began = time.monotonic()
        starting: frozenset[int] | None = None
        while True:
            listed = link.ask(_CONNECTIONS)
            alive = {number for number, user in listed if user == name}
            now = frozenset(number for number, user in listed if user == _STARTING and not link.dialect.names_logins)
            starting = now if starting is None else starting & now
            if not alive and not starting:
                return
            passed = time.monotonic() - began
            if passed > self._sessions_end_s:
                raise IssuerError(
                    f"{len(alive | starting)} connections or logins do not end", hint="look at SHOW PROCESSLIST there"
                )
            _kill(link, alive | (starting if passed > self._starting_s else frozenset()))
            time.sleep(_POLL_S)


class Wire:
    """The TCP connection of one call, which can be cut from outside of the thread that uses it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._over = False
        self._held: socket.socket | None = None

    def open(self, host: str, port: int) -> socket.socket:
        """Connect. The driver replaces the socket by one with TLS, so a copy is what is held."""
        sock = socket.create_connection((host, port), _CONNECT_TIMEOUT_S)
        with self._lock:
            if not self._over:
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                self._held = sock.dup()
                return sock
        sock.close()
        raise OSError("given up")

    def cut(self) -> None:
        """End it, also when it is only about to be opened; idempotent."""
        with self._lock:
            self._over = True
            if self._held:
                with contextlib.suppress(OSError):
                    self._held.shutdown(socket.SHUT_RDWR)
                self._held.close()


def _hosts(link: Link, name: str) -> list[str]:
    """Of every account with this name: its host was another one, perhaps, when it was made."""
    return [host for (host,) in link.ask(_HOSTS, name)]


def _drop(link: Link, name: str, hosts: Iterable[str]) -> None:
    for host in hosts:
        link.ask(f"DROP USER IF EXISTS {grants.account(name, host)}")


def _kill(link: Link, numbers: Iterable[int]) -> None:
    for number in numbers:
        try:
            link.ask(f"KILL {number:d}")
        except pymysql.Error as e:
            if e.args[0] != ER.NO_SUCH_THREAD:
                raise


def _grants(link: Link, name: str, host: str) -> frozenset[Right]:
    user = grants.account(name, host)
    return grants.said((line for (line,) in link.ask(f"SHOW GRANTS FOR {user}")), user)


def _reaches_too_far(right: Right, needs: Collection[str]) -> bool:
    """More of the issuer's user than it needs: on the whole server, in its own databases, or of an unknown form."""
    if right.at == "*.*":
        return right.privilege not in needs or right.grantable
    return right.privilege == "SOMETHING" or right.at.startswith(tuple(f"`{name}`." for name in grants.OWN_DATABASES))


def _everybody(link: Link) -> set[str]:
    """What no grant of ours says, and a user of a task has all the same."""
    found = {f"rights in {database}, by an anonymous user" for (database,) in link.ask(_ANYBODY)}
    if link.dialect is not MARIADB:
        ((roles,),) = link.ask("SELECT @@mandatory_roles")
        return found | ({f"the roles {roles}"} if roles else set())
    try:
        lines = [line for (line,) in link.ask("SHOW GRANTS FOR PUBLIC")]
    except pymysql.Error as e:
        if e.args[0] != ER.NONEXISTING_GRANT:
            raise
        return found  # a server without it
    return found | {str(right) for right in grants.said(lines, "PUBLIC")}


def _ours(name: str) -> None:
    if not _NAME.fullmatch(name):
        raise IssuerError("the name is none that Leasehold gives", hint=_DEFECT)


def _said(error: Exception) -> tuple[str, str]:
    """What to say of an error of the driver's: never its own words."""
    found = error.args[0] if error.args and isinstance(error, pymysql.Error) else 0
    code = found if isinstance(found, int) else 0  # what the driver itself does not like has none
    if code in _REFUSED:
        return (
            "the server refuses the issuer's user or its password",
            "was the password changed there? `leasehold secret set` stores a new one",
        )
    if code in _SAID:
        return _SAID[code]
    if code < 1000 or 2000 <= code < 3000:  # those of clients
        return (
            "the server cannot be reached, or its certificate does not verify",
            "look at the parameters server and ca",
        )
    return f"the server answered with the error {code}", "look at the server's log"
