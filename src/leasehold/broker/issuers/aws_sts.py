"""AWS: a session of a role, narrowed by a policy of its own, and signed with outside of the compartment.

Source: AWS STS API Reference, ``AssumeRole``; IAM User Guide, "Session policies" and "Monitor and control actions taken
with assumed roles" (SourceIdentity).

- A session may do what its role may *and* the session policy allows; the policy is always sent, so that no session is
  as wide as its role. AWS gives none for less than 15 minutes: a condition in the policy ends it when the lease does.
- Nothing takes one session back. What can be cut is a role, for all sessions older than a moment, so a lease is never
  called revoked; the broker stops signing with it, and nobody else has it.
"""

from __future__ import annotations

import json
import re
import ssl
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from urllib.parse import urlencode

import httpx
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from leasehold.broker.issuers.answers import BYTES_MAX, UNREACHABLE, nonsense
from leasehold.broker.issuers.ports import NAME_PREFIX, Issued, Order
from leasehold.broker.lease.machine import Revocability
from leasehold.core.errors import IssuerError
from leasehold.core.secret import Secret
from leasehold.core.toml import Wrong

_NAME = re.compile(rf"{NAME_PREFIX}[a-z0-9_]{{1,29}}")
_ACTION = r"[a-z0-9-]{1,32}:[A-Za-z0-9]{1,64}\*?"
_RESOURCE = r"arn:aws[a-z-]*:[a-z0-9-]+:[a-z0-9-]*:[0-9]*:[A-Za-z0-9._/@:+=,-]{1,256}\*?"
_GRANT = re.compile(rf"({_ACTION}) on ({_RESOURCE})")
_ROLE = re.compile(r"arn:aws[a-z-]*:iam::\d{12}:role/[A-Za-z0-9+=,.@_/-]{1,128}")
_SECONDS = 900
_POLICY_MAX = 2048
_TIMEOUT = httpx.Timeout(10.0, connect=5.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """``server``: the URL of STS. ``role``: whose sessions are made."""

    server: str
    region: str
    role: str
    ca: str


class AwsStsIssuer:
    """See :class:`leasehold.broker.issuers.ports.Issuer`. Its secret is JSON:
    ``access_key_id`` and ``secret_access_key``.
    """

    kind = "aws-sts"
    revocability = Revocability.ROLE_WIDE

    def __init__(self, account: Account, secret: Secret, grants: Collection[str]) -> None:
        self._account = account
        self._secret = secret
        self.scope = frozenset(grants)
        self._client: httpx.AsyncClient | None = None

    async def check(self) -> None:
        """It asks who asks; whether the role may be assumed is only known by assuming it."""
        await self._ask({"Action": "GetCallerIdentity"})

    async def issue(self, order: Order) -> Issued:
        _lawful(order.name)
        if not order.scope or not order.scope <= self.scope:
            raise IssuerError("more was ordered than is configured, or nothing", hint="look at grants")
        policy = session_policy(order.scope, order.expires)
        if len(policy) > _POLICY_MAX:
            raise IssuerError(f"the policy is longer than {_POLICY_MAX} characters", hint="give the task fewer grants")
        said = await self._ask(
            {
                "Action": "AssumeRole",
                "RoleArn": self._account.role,
                "RoleSessionName": order.name,
                "SourceIdentity": order.name,
                "DurationSeconds": str(_SECONDS),
                "Policy": policy,
            }
        )
        ends = datetime.fromisoformat(_field(said, "Expiration", r"[0-9T:.+-]{10,30}Z?")).timestamp()
        if order.name not in _field(said, "Arn", r"arn:[ -;=-~]{1,300}").split("/"):
            raise nonsense()
        return Issued(
            material={
                "access_key_id": Secret(_field(said, "AccessKeyId", r"[A-Z0-9]{16,128}").encode()),
                "secret_access_key": Secret(_field(said, "SecretAccessKey", r"[A-Za-z0-9/+=]{16,256}").encode()),
                "session_token": Secret(_field(said, "SessionToken", r"[A-Za-z0-9/+=]{16,8192}").encode()),
            },
            expires=min(ends, order.expires),
            scope=order.scope,
        )

    async def revoke(self, name: str, kept: Secret | None = None) -> bool:
        """Nothing can be done about one session."""
        _lawful(name)
        return False

    async def find(self) -> Collection[str]:
        """STS lists no sessions."""
        return ()

    async def close(self) -> None:
        if self._client is not None:
            await self._client.aclose()
            self._client = None

    async def _ask(self, parameters: dict[str, str]) -> str:
        body = urlencode({"Version": "2011-06-15", **parameters})
        request = AWSRequest(
            method="POST",
            url=f"{self._account.server}/",
            data=body,
            headers={"content-type": "application/x-www-form-urlencoded; charset=utf-8"},
        )
        SigV4Auth(self._credentials(), "sts", self._account.region).add_auth(request)
        try:
            if self._client is None:
                context = ssl.create_default_context(cafile=self._account.ca)
                self._client = httpx.AsyncClient(
                    verify=context, trust_env=False, follow_redirects=False, timeout=_TIMEOUT
                )
            self._client.cookies.clear()
            async with self._client.stream("POST", request.url, headers=dict(request.headers), content=body) as answer:
                data = b""
                async for piece in answer.aiter_bytes():
                    data += piece
                    if len(data) > BYTES_MAX:
                        raise nonsense()
                status = answer.status_code
        except (httpx.HTTPError, OSError):
            failure = IssuerError(UNREACHABLE, hint="look at the parameters server and ca")
        else:
            if status == httpx.codes.OK:
                return data.decode(errors="replace")
            failure = IssuerError(
                f"AWS refuses with status {status}", hint="look at the key, the role and its trust policy"
            )
        # Behind the except block: the request that the original holds has the signature in it.
        raise failure

    def _credentials(self) -> Credentials:
        try:
            fields = json.loads(self._secret.reveal())
            return Credentials(fields["access_key_id"], fields["secret_access_key"], fields.get("session_token"))
        except (ValueError, KeyError, TypeError, AttributeError):
            pass
        raise IssuerError(
            "the secret is refused: it is no JSON with access_key_id and secret_access_key", hint="store it like that"
        )


def session_policy(scope: Collection[str], expires: float) -> str:
    """What a session with this scope may do, and until when (IAM JSON policy language)."""
    by_resource: dict[str, list[str]] = {}
    for each in sorted(scope):
        action, resource = _parts(each)
        by_resource.setdefault(resource, []).append(action)
    until = {"DateLessThan": {"aws:CurrentTime": datetime.fromtimestamp(expires, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")}}
    statements: Sequence[object] = [
        {"Effect": "Allow", "Action": actions, "Resource": resource, "Condition": until}
        for resource, actions in by_resource.items()
    ]
    return json.dumps({"Version": "2012-10-17", "Statement": statements}, separators=(",", ":"))


def grant(text: str) -> str:
    """``ACTION on RESOURCE``, as they stand in a policy; ``Wrong`` otherwise."""
    if _GRANT.fullmatch(text) is None:
        raise Wrong("expected ACTION on ARN such as s3:GetObject on arn:aws:s3:::bucket/*, found something else")
    return text


def role(text: str) -> str:
    if _ROLE.fullmatch(text) is None:
        raise Wrong("expected the ARN of a role, found something else", "arn:aws:iam::ACCOUNT:role/NAME")
    return text


def region(text: str) -> str:
    if not re.fullmatch(r"[a-z]{2}(?:-[a-z]+)+-\d", text):
        raise Wrong("expected a region such as eu-central-1, found something else")
    return text


def _parts(text: str) -> tuple[str, str]:
    action, _, resource = text.partition(" on ")
    return action, resource


def _field(said: str, name: str, form: str) -> str:
    """The text of one element: the answer is not parsed as XML, so nothing in it can be more than text."""
    found = re.findall(rf"<{name}>({form})</{name}>", said)
    if len(found) != 1:
        raise nonsense()
    return str(found[0])


def _lawful(name: str) -> None:
    if not _NAME.fullmatch(name):
        raise IssuerError("the name is none of ours", hint="this is a defect in Leasehold; please report it")
