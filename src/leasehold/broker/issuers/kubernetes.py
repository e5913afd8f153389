"""Tokens of a Kubernetes service account, each bound to an object of its own, which is deleted to take it back.

Kubernetes' API: ``TokenRequest`` (authentication.k8s.io/v1) with a ``boundObjectRef`` to an empty Secret, whose name
and label are our name. So what a crash left is found by that, and a token whose answer was lost dies with the object.
The API server looks for the object whenever the token is used; it may remember for some seconds that it was there.

- A token lasts ten minutes at least. A shorter order is outlasted, and ended by the deletion.
- What counts is what the token says, not what the answer says of it: the claims are read (RFC 7519), without verifying
  the signature of what has come from the signer over TLS. One that is not bound to the object could not be taken back.
- How long it is to last is reckoned by the server's clock. Of 3607 seconds, which a server may take as one year for old
  clients, there is never an order.
- An object of somebody else's that has our name is left alone, and is deleted by its uid only.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from secrets import token_hex
from typing import Any
from urllib.parse import quote

from leasehold.broker.issuers.answers import Answer, nonsense
from leasehold.broker.issuers.ports import NAME_PREFIX, Issued, Order
from leasehold.broker.issuers.rest import Rest
from leasehold.broker.lease.machine import Revocability
from leasehold.core.errors import IssuerError
from leasehold.core.secret import Secret

LASTS_S_MIN = 600.0
"""A token lasts so long at least."""
LABEL = "leasehold/lease"
"""Of the object, with the lease's name; its type too."""

_NAME = re.compile(rf"{NAME_PREFIX}[a-z0-9_]{{0,28}}[a-z0-9]")
_JWT = re.compile(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+")
_MARGIN_S = 5
"""Its clock is told in whole seconds, and time passes until it is asked."""
_LASTS_S_MAX = 3600
_PAGE, _PAGES_MAX = 100, 100
_ANYTHING = {"verb": "*", "group": "*", "resource": "*"}
_MANUAL = "docs/issuers/kubernetes.md says what the issuer's account needs"
_DEFECT = "this is a defect in Leasehold; please report it"


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """The service account whose tokens are made, and the namespace that it is in."""

    namespace: str
    name: str

    @property
    def subject(self) -> str:
        return f"system:serviceaccount:{self.namespace}:{self.name}"


class KubernetesIssuer:
    """See :class:`leasehold.broker.issuers.ports.Issuer`. ``token``: the issuer's own. Its scope: audiences."""

    kind = "kubernetes"
    revocability = Revocability.NEXT_USE
    outlasts_s = LASTS_S_MIN

    def __init__(self, api: Rest, token: Secret, account: Account, *, audiences: Collection[str]) -> None:
        self._api = api
        self._token = token
        self._account = account
        self._secrets = f"/api/v1/namespaces/{account.namespace}/secrets"
        self.scope = frozenset(audiences)

    async def check(self) -> None:
        """Makes a token, and takes it back. An administrator of the whole cluster is refused."""
        path = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"
        review = {"apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectAccessReview"}
        spec = {"resourceAttributes": _ANYTHING}
        answer = _succeeded(await self._ask("POST", path, {**review, "spec": spec}))
        if answer.get("status", "allowed") is not False:
            raise IssuerError("the issuer's account may do more than an issuer needs", hint=_MANUAL)
        name = f"{NAME_PREFIX}check_{token_hex(8)}"
        try:
            await self._create(name, answer.date + LASTS_S_MIN, self.scope)
            await self.find()
        finally:
            await self.revoke(name)

    async def issue(self, order: Order) -> Issued:
        """One more token, bound to the object of that name, which is made if it is not there."""
        _ours(order.name)
        if not order.scope or not order.scope <= self.scope:
            raise IssuerError("the order's scope is not in the configured audiences", hint=_DEFECT)
        try:
            return await self._create(order.name, order.expires, order.scope)
        except IssuerError as e:
            failure = e
        # Nobody gets what this attempt has made; if that cannot be deleted now, a sweep finds it.
        await self.revoke(order.name)
        raise failure

    async def revoke(self, name: str, kept: Secret | None = None) -> bool:
        """Delete the object, and see that it is gone: with it every token that is bound to it."""
        _ours(name)
        there = await self._object(name)
        if there is not None:
            body = {
                "apiVersion": "v1",
                "kind": "DeleteOptions",
                "gracePeriodSeconds": 0,
                "preconditions": {"uid": there.text("metadata", "uid")},
            }
            deleted = await self._ask("DELETE", self._path(name), body)
            if deleted.status != 404:
                _succeeded(deleted)
            if await self._object(name) is not None:
                raise IssuerError("the object is still there", hint="what keeps it, a finalizer?")
        return True

    async def find(self) -> Collection[str]:
        """By the label; page by page."""
        found: set[str] = set()
        after = ""
        for _ in range(_PAGES_MAX):
            page = await self._ask("GET", f"{self._secrets}?labelSelector={LABEL}&limit={_PAGE}{after}")
            items = _succeeded(page).get("items")
            if not isinstance(items, list):
                raise nonsense()
            found |= {name for name in map(_name, items) if name}
            rest = page.get("metadata", "continue")
            if not rest:
                return frozenset(found)
            after = f"&continue={quote(str(rest), safe='')}"
        raise IssuerError("there is no end to the objects of leases", hint=f"who else has the label {LABEL}?")

    async def close(self) -> None:
        await self._api.close()

    async def _ask(self, method: str, path: str, body: object = None) -> Answer:
        try:
            authorization = f"Bearer {self._token.reveal().decode('ascii')}"
        except UnicodeDecodeError:
            authorization = "Bearer none"
        return await self._api.ask(method, path, authorization=authorization, body=body)

    def _path(self, name: str) -> str:
        return f"{self._secrets}/{_object_name(name)}"

    async def _object(self, name: str) -> Answer | None:
        """The object of that lease, or nothing; an error when somebody else has one of that name."""
        answer = await self._ask("GET", self._path(name))
        if answer.status == 404:
            return None
        if _name(_succeeded(answer).fields) != name:
            raise IssuerError("there is an object of that name that is not ours", hint="who made it?")
        return answer

    async def _create(self, name: str, expires: float, audiences: Collection[str]) -> Issued:
        metadata = {"name": _object_name(name), "labels": {LABEL: name}}
        body = {"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "immutable": True, "type": LABEL}
        made: Answer | None = await self._ask("POST", self._secrets, body)
        if made is not None and made.status == 409:
            made = await self._object(name)
        if made is None:
            raise IssuerError("the object was there and is gone again", hint="who else deletes them?")
        uid = _succeeded(made).text("metadata", "uid")
        asked = await self._ask(
            "POST",
            f"/api/v1/namespaces/{self._account.namespace}/serviceaccounts/{self._account.name}/token",
            {
                "apiVersion": "authentication.k8s.io/v1",
                "kind": "TokenRequest",
                "spec": {
                    "audiences": sorted(audiences),
                    "expirationSeconds": min(max(int(LASTS_S_MIN), int(expires - made.date) - _MARGIN_S), _LASTS_S_MAX),
                    "boundObjectRef": {"apiVersion": "v1", "kind": "Secret", "name": _object_name(name), "uid": uid},
                },
            },
        )
        token = _succeeded(asked).text("status", "token")
        claims = _claims(token)
        if claims.get("kubernetes.io", "secret", "uid") != uid:
            raise IssuerError("the token is not bound to its object, and could not be taken back", hint=_MANUAL)
        ends, subject = claims.get("exp"), claims.text("sub")
        if not isinstance(ends, int):
            raise nonsense()
        return Issued(
            material={"token": Secret(token.encode())},
            expires=float(ends),
            scope=_audiences(claims) | ({subject} - {self._account.subject}),
        )


def _claims(token: str) -> Answer:
    """What a JWT says, not verified."""
    if not _JWT.fullmatch(token):
        raise nonsense()
    part = token.split(".")[1]
    try:
        claims = json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))
    except (ValueError, RecursionError):
        claims = None
    if not isinstance(claims, dict):
        raise nonsense()
    return Answer(status=0, fields=claims, date=0.0)


def _audiences(claims: Answer) -> frozenset[str]:
    """One that names none is for whoever asks for none."""
    found = claims.get("aud")
    return frozenset(map(str, found if isinstance(found, list) else [found]))


def _object_name(name: str) -> str:
    """Names of objects have no underscore, and ours have no hyphen."""
    return name.replace("_", "-")


def _name(item: Any) -> str:
    """The name of a lease that an object is for; nothing when it is none of ours."""
    metadata = item.get("metadata") if isinstance(item, Mapping) else None
    labels = metadata.get("labels") if isinstance(metadata, dict) else None
    name = labels.get(LABEL) if isinstance(labels, dict) else None
    if not isinstance(metadata, dict) or not isinstance(name, str) or not _NAME.fullmatch(name):
        return ""
    return name if metadata.get("name") == _object_name(name) else ""


def _succeeded(answer: Answer) -> Answer:
    if answer.status in (200, 201, 202):
        return answer
    if answer.status == 401:
        raise IssuerError("the API server refuses the issuer's token (status 401)", hint="is it over? make a new one")
    if answer.status == 403:
        raise IssuerError("the issuer's account may not do that (status 403)", hint=_MANUAL)
    if answer.status in (404, 422):
        raise IssuerError(
            f"the API server does not take that (status {answer.status})", hint="look at namespace and service_account"
        )
    raise IssuerError(f"the API server answered with status {answer.status}", hint="try again; look at its log")


def _ours(name: str) -> None:
    if not _NAME.fullmatch(name):
        raise IssuerError("the name is none that Leasehold gives", hint=_DEFECT)
