"""Users of a Redis server: one per lease, with a selector for each grant; made in one step and taken back in one.

Redis ends no user by itself: what ends a lease on time is the ledger's sweep, so ``Issued.expires`` is the order's.
"""

from __future__ import annotations

import hashlib
import re
import ssl
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from secrets import token_hex
from typing import Any, TypeVar

from redis.asyncio.connection import SSLConnection
from redis.exceptions import AuthenticationError, NoPermissionError, RedisError, ResponseError
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from leasehold.broker.issuers import redis_grants as grants
from leasehold.broker.issuers.ports import NAME_PREFIX, Issued, Order
from leasehold.broker.issuers.redis_grants import NOTHING, Categories, Grant, Right
from leasehold.broker.lease.machine import Revocability
from leasehold.core.errors import IssuerError
from leasehold.core.secret import Secret
from leasehold.core.toml import Wrong

T = TypeVar("T")

_NAME = re.compile(rf"{NAME_PREFIX}[a-z0-9_]{{1,29}}")
_CONNECT_TIMEOUT_S = 5.0
_ANSWER_TIMEOUT_S = 10.0
_NEEDS = frozenset(["acl|cat", "acl|deluser", "acl|getuser", "acl|save", "acl|setuser", "acl|users", "client|list"])
_NO_FILE = "not configured to use an ACL file"
_MANUAL = "docs/issuers/redis.md says what the issuer's user needs"
_DEFECT = "this is a defect in Leasehold; please report it"


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """Where the server is and who asks. ``ca``: path of the PEM file that it is verified against."""

    host: str
    port: int
    user: str
    ca: str


class RedisIssuer:
    """See :class:`leasehold.broker.issuers.ports.Issuer`. A call has a connection of its own.

    ``allowed``: what an order's scope may hold.
    """

    kind = "redis"
    lists = True
    revocability = Revocability.NOW

    def __init__(self, server: Server, password: Secret, *, allowed: Collection[Grant]) -> None:
        self._server = server
        self._password = password
        self._allowed = {str(grant): grant for grant in allowed}
        self.scope = frozenset(self._allowed)

    async def check(self) -> None:
        """Looks at the issuer's user; makes one with all grants that is switched off, and deletes it."""
        await self._work(self._check)

    async def issue(self, order: Order) -> Issued:
        """One command makes it, password, grants and all, whatever was there under this name."""
        _ours(order.name)
        if not order.scope <= self.scope:
            raise IssuerError("the order's scope is not in the configured grants", hint=_DEFECT)
        return await self._work(lambda connection: _issue(connection, order, self._allowed))

    async def revoke(self, name: str, kept: Secret | None = None) -> bool:
        """Delete it, which cuts its connections; see that they and it are gone, in the server's file too."""
        _ours(name)
        await self._work(lambda connection: _revoke(connection, name))
        return True

    async def find(self) -> Collection[str]:
        """All users whose names we could have given."""
        names = await self._work(lambda connection: _ask(connection, "ACL", "USERS"))
        return frozenset(name for name in names if _NAME.fullmatch(name))

    async def close(self) -> None:
        """Nothing is kept open."""

    async def _work(self, work: Callable[[SSLConnection], Awaitable[T]]) -> T:
        server = self._server
        connection = SSLConnection(
            host=server.host,
            port=server.port,
            username=server.user,
            password=self._password.reveal().decode(errors="replace"),
            protocol=2,
            decode_responses=True,
            socket_connect_timeout=_CONNECT_TIMEOUT_S,
            socket_timeout=_ANSWER_TIMEOUT_S,
            driver_info=None,
        )
        try:
            # The library's own context would trust the system's authorities besides this one.
            connection.ssl_context.context = ssl.create_default_context(cafile=server.ca)
            try:
                await connection.connect()  # type: ignore[no-untyped-call]  # the library leaves it without types
                return await work(connection)
            finally:
                await connection.disconnect(nowait=True)
        except (RedisError, OSError) as e:
            message, hint = _said(e)
        # Behind the except block: the server's own words, and what the driver holds, are not carried along.
        raise IssuerError(message, hint=hint)

    async def _check(self, connection: SSLConnection) -> None:
        categories = await _categories(connection)
        own = await _user(connection, self._server.user, categories)
        lacks = _NEEDS - own.root.commands
        if lacks:
            raise IssuerError(f"the issuer's user lacks +{', +'.join(sorted(lacks))}", hint=_MANUAL)
        if own.root.commands - _NEEDS or own.root.keys or own.root.channels or own.selectors:
            raise IssuerError("the issuer's user may do more than an issuer needs", hint=_MANUAL)
        name = f"{NAME_PREFIX}check_{token_hex(8)}"
        wanted = {text: _right(grant, categories) for text, grant in self._allowed.items()}
        try:
            await _make(connection, name, self._allowed.values(), categories, "off")
            await _scope(connection, name, wanted, categories, "off")
        finally:
            await _ask(connection, "ACL", "DELUSER", name)
        await _save(connection)


@dataclass(frozen=True, slots=True, kw_only=True)
class _User:
    """What a server says of one. ``root``: what it may do besides its selectors."""

    flags: Collection[str]
    passwords: tuple[str, ...]
    root: Right
    selectors: tuple[Right, ...]


async def _issue(connection: SSLConnection, order: Order, allowed: Mapping[str, Grant]) -> Issued:
    categories = await _categories(connection)
    chosen = {text: allowed[text] for text in order.scope}
    wanted = {text: _right(grant, categories) for text, grant in chosen.items()}
    # With only its digest sent, the password is in no log and no dump of commands.
    digest = hashlib.sha256(order.secret.reveal()).hexdigest()
    await _make(connection, order.name, chosen.values(), categories, "on", f"#{digest}")
    scope = await _scope(connection, order.name, wanted, categories, "on", digest)
    await _save(connection)
    return Issued(
        material={"username": Secret(order.name.encode()), "password": order.secret},
        expires=order.expires,
        scope=scope,
    )


async def _make(
    connection: SSLConnection, name: str, chosen: Iterable[Grant], categories: Categories, *first: str
) -> None:
    """In one command, which the server carries out as a whole; what was there under this name is not any more."""
    await _ask(connection, "ACL", "SETUSER", name, "reset", *first, *(grants.rules(g, categories) for g in chosen))


async def _revoke(connection: SSLConnection, name: str) -> None:
    listed = _clients(await _ask(connection, "CLIENT", "LIST"))
    before = sorted(client["id"] for client in listed if client["user"] == name)
    await _ask(connection, "ACL", "DELUSER", name)
    # Also when it was not there: a crash may have come between the two, and a restart would bring it back.
    await _save(connection)
    there = await _ask(connection, "ACL", "GETUSER", name)
    alive = _clients(await _ask(connection, "CLIENT", "LIST", "ID", *before)) if before else []
    if there is not None or alive:
        raise IssuerError("the user is still there, or a connection of its", hint="look at CLIENT LIST there")


async def _scope(
    connection: SSLConnection,
    name: str,
    wanted: Mapping[str, Right],
    categories: Categories,
    state: str,
    *digests: str,
) -> frozenset[str]:
    """What the user may do: texts of the order, where it has them, and whatever is more."""
    user = await _user(connection, name, categories)
    if user.passwords != digests or state not in user.flags or "nopass" in user.flags:
        raise IssuerError("the user is not as it was made", hint="who else uses this name?")
    missing = [text for text, right in wanted.items() if right not in user.selectors]
    if missing:
        raise IssuerError(f"the server did not grant {', '.join(missing)}", hint=_MANUAL)
    more = {user.root, *user.selectors} - {NOTHING, *wanted.values()}
    return frozenset(wanted) | {str(right) for right in more}


async def _user(connection: SSLConnection, name: str, categories: Categories) -> _User:
    reply = await _ask(connection, "ACL", "GETUSER", name)
    if reply is None:
        raise IssuerError("the user is not there any more", hint="who else deletes users there?")
    fields = _pairs(reply)
    return _User(
        flags=fields["flags"],
        passwords=tuple(fields["passwords"]),
        root=grants.described(fields, categories),
        selectors=tuple(grants.described(_pairs(selector), categories) for selector in fields["selectors"]),
    )


def _right(grant: Grant, categories: Categories) -> Right:
    try:
        return grants.right(grant, categories)
    except Wrong as e:
        message, hint = str(e), e.hint
    raise IssuerError(message, hint=hint)


async def _categories(connection: SSLConnection) -> Categories:
    names = await _ask(connection, "ACL", "CAT")
    for name in names:
        await connection.send_command("ACL", "CAT", name)
    return {name: await connection.read_response() for name in names}


async def _save(connection: SSLConnection) -> None:
    """Nothing where users live in memory only."""
    try:
        await _ask(connection, "ACL", "SAVE")
    except ResponseError as e:
        if _NO_FILE not in str(e):
            raise


async def _ask(connection: SSLConnection, *words: str) -> Any:
    await connection.send_command(*words)
    return await connection.read_response()


def _pairs(reply: list[Any]) -> dict[str, Any]:
    return dict(zip(reply[::2], reply[1::2], strict=True))


def _clients(reply: str) -> list[dict[str, str]]:
    """The lines of a list of connections, each as its fields."""
    return [dict(field.split("=", 1) for field in line.split(" ") if "=" in field) for line in reply.splitlines()]


def _ours(name: str) -> None:
    if not _NAME.fullmatch(name):
        raise IssuerError("the name is none that Leasehold gives", hint=_DEFECT)


def _said(error: Exception) -> tuple[str, str]:
    """What to say of an error of the driver's: never its own words, which repeat what was sent."""
    if isinstance(error, AuthenticationError):
        return (
            "the server refuses the issuer's user or its password",
            "was the password changed there? `leasehold secret set` stores a new one",
        )
    if isinstance(error, NoPermissionError):
        return "the issuer's user may not do that", _MANUAL
    if isinstance(error, (OSError, RedisConnectionError, RedisTimeoutError)):
        return (
            "the server cannot be reached, or its certificate does not verify",
            "look at the parameters server and ca",
        )
    return f"the server answered with the error {type(error).__name__}", "look at the server's log"
