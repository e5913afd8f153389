"""Credentials of a dynamic engine of HashiCorp Vault or OpenBao, each read with a token of its own.

Vault's HTTP API: ``auth/token`` and ``sys/leases``, through ``hvac``. Vault names what it makes by itself, and says the
name in its answer only. So each lease begins with a child token that carries our name in its metadata: whoever comes
after a crash finds the token by that, and what was made with a token ends with it.

- The child can read one path and nothing else; it is forgotten when the credential is there.
- Of a token that ends, Vault queues the leases. So the lease is revoked first, by its id and with ``sync``, which
  answers when the engine has done it, and then looked for. After a crash the id is not known, nor therefore whether the
  engine is done: that is not called revoked.
- How long a token is to last is reckoned by Vault's own clock. It cannot be renewed, and what it made ends with it.
- ``hvac`` would follow redirects with the token, and take a proxy or a password from the environment: none of that
  here. A request is a thread's, and one that was given up has no next one.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from http.cookiejar import DefaultCookiePolicy
from secrets import token_hex

import requests
from hvac.adapters import RawAdapter

from leasehold.broker.issuers.answers import BYTES_MAX, UNREACHABLE, Answer, nonsense, read
from leasehold.broker.issuers.ports import NAME_PREFIX, Issued, Order
from leasehold.broker.lease.machine import Revocability
from leasehold.core.errors import IssuerError
from leasehold.core.secret import Secret

_NAME = re.compile(rf"{NAME_PREFIX}[a-z0-9_]{{1,29}}")
_META = "leasehold"
_TIMEOUT_S = (5.0, 10.0)
_AT_ONCE = 8
_CHECK_S = 60
_MARGIN_S = 5
"""Its clock is told in whole seconds, and time passes until it is asked."""
_MANUAL = "docs/issuers/vault.md says what the issuer's token needs"
_DEFECT = "this is a defect in Leasehold; please report it"


class Api:
    """Vault's API at ``server``, a URL. ``ca``: path of the PEM file that it is verified against."""

    def __init__(self, server: str, ca: str, namespace: str, token: Secret) -> None:
        self._session = requests.Session()
        self._session.trust_env = False
        self._session.verify = ca
        self._session.cookies.set_policy(DefaultCookiePolicy(allowed_domains=[]))
        self._server = server
        self._namespace = namespace
        self._token = token

    async def ask(self, method: str, path: str, body: object = None, *, token: Secret | None = None) -> Answer:
        """The answer, whatever its status is; ``IssuerError`` when there is none. ``token``: if not the issuer's."""
        return await asyncio.to_thread(self._ask, method, path, body, token or self._token)

    def _ask(self, method: str, path: str, body: object, token: Secret) -> Answer:
        try:
            adapter = RawAdapter(
                base_uri=self._server,
                token=token.reveal().decode(),
                session=self._session,
                timeout=_TIMEOUT_S,
                allow_redirects=False,
                namespace=self._namespace or None,
            )
            response = adapter.request(method, f"/v1/{path}", raise_exception=False, json=body, stream=True)
            with response:
                data = b""
                for piece in response.iter_content(65_536):
                    data += piece
                    if len(data) > BYTES_MAX:
                        break
                return read(response.status_code, data, response.headers.get("date", ""))
        except (OSError, ValueError):  # what requests raises is one of these
            failure = IssuerError(UNREACHABLE, hint="look at the parameters server and ca")
        # Behind the except block: the request that the original holds has the token in it.
        raise failure

    async def close(self) -> None:
        """Close its connections; idempotent."""
        self._session.close()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Kept:
    """What revoking needs: the accessor of the child token, and the lease's id, empty when it is not known."""

    accessor: str
    lease: str

    def written(self) -> Secret:
        return Secret(json.dumps([self.accessor, self.lease]).encode())

    @classmethod
    def read(cls, written: Secret) -> _Kept:
        accessor, lease = json.loads(written.reveal())
        return cls(accessor=accessor, lease=lease)


class VaultIssuer:
    """See :class:`leasehold.broker.issuers.ports.Issuer`.

    ``path``: what is read, and the one scope. ``role``: the token role that children are made by. ``fields``: name of
    the material to name in Vault's answer.
    """

    kind = "vault"
    revocability = Revocability.NEXT_USE  # whether it cuts what is open is the engine's affair

    def __init__(self, api: Api, *, path: str, role: str, fields: Mapping[str, str]) -> None:
        self._api = api
        self._path = path
        self._role = role
        self._fields = fields
        self.scope = frozenset({path})

    async def check(self) -> None:
        """Makes a credential that lasts a minute, finds it, and takes it back."""
        own = await self._own()
        if "root" in (own.get("data", "policies") or ()):
            raise IssuerError("the issuer's token may do more than an issuer needs: it is a root token", hint=_MANUAL)
        name = f"{NAME_PREFIX}check_{token_hex(8)}"
        issued = await self._create(name, own.date + _CHECK_S, own.date)
        found = name in (await self._tokens()).values()
        if not await self.revoke(name, issued.kept) or not found:
            raise IssuerError("the token role does not keep the metadata of a token", hint=_MANUAL)

    async def issue(self, order: Order) -> Issued:
        """A new one at each call: what an earlier call under this name made has its name, and is found by that."""
        _ours(order.name)
        if order.scope != self.scope:
            raise IssuerError("the order's scope is not what is configured", hint=_DEFECT)
        own = await self._own()
        return await self._create(order.name, order.expires, own.date)

    async def revoke(self, name: str, kept: Secret | None = None) -> bool:
        """End the lease, then its token; see that neither is there. Without ``kept``, tokens are found by the name."""
        _ours(name)
        if kept is not None:
            await self._end(_Kept.read(kept))
            return True
        accessors = [accessor for accessor, whose in (await self._tokens()).items() if whose == name]
        for accessor in accessors:
            await self._end(_Kept(accessor=accessor, lease=""))
        return not accessors

    async def find(self) -> Collection[str]:
        """By the metadata of all tokens that the token role has made."""
        return frozenset((await self._tokens()).values())

    async def close(self) -> None:
        await self._api.close()

    async def _own(self) -> Answer:
        """What Vault says of the issuer's own token."""
        return _succeeded(await self._api.ask("get", "auth/token/lookup-self"))

    async def _create(self, name: str, expires: float, now: float) -> Issued:
        lasts_s = int(expires - now) - _MARGIN_S
        if lasts_s < 1:  # of nothing, Vault would make its default
            raise IssuerError("by Vault's clock, the order is over", hint="do the clocks agree?")
        lasts = f"{lasts_s}s"
        made = _succeeded(
            await self._api.ask(
                "post",
                f"auth/token/create/{self._role}",
                {
                    "meta": {_META: name},
                    "display_name": name,
                    "ttl": lasts,
                    "explicit_max_ttl": lasts,
                    "renewable": False,
                    "no_default_policy": True,
                },
            )
        )
        token, accessor = Secret(made.text("auth", "client_token").encode()), made.text("auth", "accessor")
        lease = ""
        try:
            given = _succeeded(await self._api.ask("get", self._path, token=token))
            lease = given.text("lease_id")
            return await self._given(given, _Kept(accessor=accessor, lease=lease))
        except IssuerError as e:
            failure = e
        # It can be found by its name; but here it is known, and so is what was made with it.
        await self._end(_Kept(accessor=accessor, lease=lease))
        raise failure

    async def _given(self, given: Answer, kept: _Kept) -> Issued:
        if not kept.lease:
            raise IssuerError("the path gives what has no lease, and nothing would end it", hint=_MANUAL)
        child = _succeeded(await self._api.ask("post", "auth/token/lookup-accessor", {"accessor": kept.accessor}))
        lasts_s = given.get("lease_duration")
        if not isinstance(lasts_s, int):
            raise nonsense()
        return Issued(
            material={ours: Secret(given.text("data", theirs).encode()) for ours, theirs in self._fields.items()},
            expires=min(child.instant("data", "expire_time"), given.date + lasts_s),
            scope=self.scope,
            kept=kept.written(),
        )

    async def _end(self, kept: _Kept) -> None:
        if kept.lease:
            _succeeded(await self._api.ask("put", "sys/leases/revoke", {"lease_id": kept.lease, "sync": True}))
        ended = await self._api.ask("post", "auth/token/revoke-accessor", {"accessor": kept.accessor})
        if not _unknown(ended):
            _succeeded(ended)
        seen = [await self._api.ask("post", "auth/token/lookup-accessor", {"accessor": kept.accessor})]
        if kept.lease:
            seen.append(await self._api.ask("put", "sys/leases/lookup", {"lease_id": kept.lease}))
        for answer in seen:
            if not _unknown(answer):
                _succeeded(answer)
                raise IssuerError("the token is still there, or its lease", hint="look at Vault's log")

    async def _tokens(self) -> Mapping[str, str]:
        """Accessor to name of all that are ours."""
        listed = _succeeded(await self._api.ask("list", "auth/token/accessors")).get("data", "keys")
        if not isinstance(listed, list):
            raise nonsense()
        names: dict[str, str] = {}
        for at in range(0, len(listed), _AT_ONCE):
            some = listed[at : at + _AT_ONCE]
            for accessor, name in zip(some, await asyncio.gather(*(self._name(each) for each in some)), strict=True):
                names[accessor] = name
        return {accessor: name for accessor, name in names.items() if name}

    async def _name(self, accessor: str) -> str:
        """The name that a token of ours has; nothing for another's, and for one that has just ended."""
        answer = await self._api.ask("post", "auth/token/lookup-accessor", {"accessor": accessor})
        if _unknown(answer):
            return ""
        name = _succeeded(answer).get("data", "meta", _META)
        ours = answer.get("data", "role") == self._role and isinstance(name, str) and _NAME.fullmatch(name)
        return str(name) if ours else ""


def _unknown(answer: Answer) -> bool:
    """Whether Vault says that there is no such token or lease. With 403 it says that too, and that one may not ask."""
    errors = str(answer.get("errors"))
    return answer.status == 404 or (
        answer.status in (400, 403) and ("invalid accessor" in errors or "invalid lease" in errors)
    )


def _succeeded(answer: Answer) -> Answer:
    if answer.status in (200, 204):
        return answer
    if answer.status == 403:
        raise IssuerError("Vault refuses the issuer's token, or its policies do (status 403)", hint=_MANUAL)
    if answer.status in (400, 404):
        raise IssuerError(f"Vault does not know that (status {answer.status})", hint="look at path, role and namespace")
    raise IssuerError(f"Vault answered with status {answer.status}", hint="is it unsealed? look at its log")


def _ours(name: str) -> None:
    if not _NAME.fullmatch(name):
        raise IssuerError("the name is none that Leasehold gives", hint=_DEFECT)
