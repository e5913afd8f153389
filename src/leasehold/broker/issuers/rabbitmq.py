"""Users of a RabbitMQ server: one per lease, with permissions of its own, by the HTTP API of its management plugin.

- A user without permissions can log in and open nothing: permissions come last, and go with the user in one step.
- The server derives no key from a password: it keeps one round of SHA-256 with a salt, made here, so that the password
  itself is in no request.
- Its statistics of connections are seconds old; the list of one user's connections is not, and is what is asked.
- It ends no user by itself: what ends a lease on time is the ledger's sweep, so ``Issued.expires`` is the order's.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import re
from collections.abc import Collection, Mapping
from secrets import token_bytes, token_hex
from urllib.parse import quote

from leasehold.broker.issuers import rabbitmq_grants as grants
from leasehold.broker.issuers.answers import Answer
from leasehold.broker.issuers.ports import NAME_PREFIX, Issued, Order
from leasehold.broker.issuers.rabbitmq_grants import Grant, Permissions
from leasehold.broker.issuers.rest import Rest
from leasehold.broker.lease.machine import Revocability
from leasehold.core.errors import IssuerError
from leasehold.core.secret import Secret

HEADERS = {"accept": "*/*"}
"""Where it has nothing to say, RabbitMQ 3.10 refuses whoever wants to hear it as JSON."""

_NAME = re.compile(rf"{NAME_PREFIX}[a-z0-9_]{{1,29}}")
_HASHING = "rabbit_password_hashing_sha256"
_ADMINISTRATOR = "administrator"
_POLL_S = 0.05
_MANUAL = "docs/issuers/rabbitmq.md says what the issuer's user needs"
_DEFECT = "this is a defect in Leasehold; please report it"


class RabbitmqIssuer:
    """See :class:`leasehold.broker.issuers.ports.Issuer`. ``user``: the issuer's own.

    ``allowed``: what an order's scope may hold. ``connections``: how many a lease may have open. ``sessions_end_s``:
    how long revoking waits for connections to end.
    """

    kind = "rabbitmq"
    lists = True
    revocability = Revocability.NOW

    def __init__(
        self,
        rest: Rest,
        user: str,
        password: Secret,
        *,
        allowed: Collection[Grant],
        connections: int,
        sessions_end_s: float = 8.0,
    ) -> None:
        self._rest = rest
        self._user = user
        self._password = password
        self._allowed = {str(grant): grant for grant in allowed}
        self.scope = frozenset(self._allowed)
        self._connections = connections
        self._sessions_end_s = sessions_end_s

    async def check(self) -> None:
        """Looks at the issuer's user; makes one with all grants that cannot log in, and deletes it."""
        own = await self._ask("GET", "/whoami")
        tags = own.get("tags")
        if _ADMINISTRATOR not in (tags.split(",") if isinstance(tags, str) else tags or ()):
            raise IssuerError("the issuer's user lacks the tag administrator", hint=_MANUAL)
        if (await self._ask("GET", _user(self._user, "/permissions"))).listed():
            raise IssuerError("the issuer's user may read or write queues, which an issuer need not", hint=_MANUAL)
        name = f"{NAME_PREFIX}check_{token_hex(8)}"
        try:
            await self._make(name, "", grants.permissions(self._allowed.values()))
            await self._scope(name, self._allowed)
        finally:
            await self._ask("DELETE", _user(name), absent=True)

    async def issue(self, order: Order) -> Issued:
        """The user, its limit, its permissions; then what the server has made of them is read back."""
        _ours(order.name)
        if not order.scope <= self.scope:
            raise IssuerError("the order's scope is not in the configured grants", hint=_DEFECT)
        chosen = {text: self._allowed[text] for text in order.scope}
        await self._make(order.name, _digest(order.secret), grants.permissions(chosen.values()))
        return Issued(
            material={"username": Secret(order.name.encode()), "password": order.secret},
            expires=order.expires,
            scope=await self._scope(order.name, chosen),
        )

    async def revoke(self, name: str, kept: Secret | None = None) -> bool:
        """No user, and so no login and no permission; no connections; and nothing of it left when looked for."""
        _ours(name)
        await self._ask("DELETE", _user(name), absent=True)
        await self._end_connections(name)
        if (await self._ask("GET", _user(name), absent=True)).status != 404:
            raise IssuerError("the user is still there", hint="who else makes users of this name?")
        return True

    async def find(self) -> Collection[str]:
        """All users whose names we could have given."""
        rows = (await self._ask("GET", "/users?columns=name")).listed()
        names = [row.get("name") for row in rows]
        return frozenset(name for name in names if isinstance(name, str) and _NAME.fullmatch(name))

    async def close(self) -> None:
        """Close the connection."""
        await self._rest.close()

    async def _make(self, name: str, digest: str, wanted: Mapping[str, Permissions]) -> None:
        """Without a digest nobody can log in as that user."""
        user = {"password_hash": digest, "hashing_algorithm": _HASHING, "tags": ""}
        await self._ask("PUT", _user(name), user)
        await self._ask("PUT", f"/user-limits/{_quoted(name)}/max-connections", {"value": self._connections})
        for vhost, patterns in sorted(wanted.items()):
            permissions = {right.lower(): pattern for right, pattern in zip(grants.RIGHTS, patterns, strict=True)}
            await self._ask("PUT", f"/permissions/{_quoted(vhost)}/{_quoted(name)}", permissions)

    async def _scope(self, name: str, chosen: Mapping[str, Grant]) -> frozenset[str]:
        """What the user may do: texts of the order, where it has them, and whatever is more."""
        user = await self._ask("GET", _user(name))
        limits = (await self._ask("GET", f"/user-limits/{_quoted(name)}")).listed()
        rows = (await self._ask("GET", _user(name, "/permissions"))).listed()
        if user.get("tags") not in ([], "") or [row.get("value") for row in limits] != [
            {"max-connections": self._connections}
        ]:
            raise IssuerError("the user is not as it was made", hint="who else uses this name?")
        has = {str(row.get("vhost")): tuple(row.get(right.lower()) for right in grants.RIGHTS) for row in rows}
        wanted = grants.permissions(chosen.values())
        if {vhost: has.get(vhost) for vhost in wanted} != wanted:
            raise IssuerError("the server did not grant what was asked", hint=_MANUAL)
        return frozenset(chosen) | {f"permissions in {vhost!a}" for vhost in has.keys() - wanted.keys()}

    async def _end_connections(self, name: str) -> None:
        """Until there is none, also of those that were logging in when the user went."""
        loop = asyncio.get_running_loop()
        until = loop.time() + self._sessions_end_s
        path = f"/connections/username/{_quoted(name)}"
        while (await self._ask("GET", path)).listed():
            if loop.time() > until:
                raise IssuerError("connections of the user do not end", hint="look at the connections there")
            await self._ask("DELETE", path)
            await asyncio.sleep(_POLL_S)

    async def _ask(self, method: str, path: str, body: object = None, *, absent: bool = False) -> Answer:
        """``absent``: whether there may be no such thing."""
        pair = f"{self._user}:".encode() + self._password.reveal()
        authorization = f"Basic {base64.b64encode(pair).decode()}"
        answer = await self._rest.ask(method, f"/api{path}", authorization=authorization, body=body)
        if answer.status < 300 or (absent and answer.status == 404):
            return answer
        message, hint = _SAID.get(answer.status, (f"the server answered with the status {answer.status}", _MANUAL))
        raise IssuerError(message, hint=hint)


_SAID = {
    401: (
        "the server refuses the issuer's user, its password, or what it asked for",
        "was the password changed there, or the tag administrator taken away?",
    ),
    400: ("the server refuses a grant", "is there such a virtual host as the parameter grants names?"),
}


def _digest(password: Secret) -> str:
    """What the server keeps of a password of so many random characters: a salt, and one round of SHA-256."""
    salt = token_bytes(4)
    return base64.b64encode(salt + hashlib.sha256(salt + password.reveal()).digest()).decode()


def _user(name: str, what: str = "") -> str:
    return f"/users/{_quoted(name)}{what}"


def _quoted(text: str) -> str:
    return quote(text, safe="")


def _ours(name: str) -> None:
    if not _NAME.fullmatch(name):
        raise IssuerError("the name is none that Leasehold gives", hint=_DEFECT)
