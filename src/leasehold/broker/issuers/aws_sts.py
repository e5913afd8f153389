"""AWS: a session of a role, narrowed by a policy of its own, and signed with outside of the compartment.

Source: AWS STS API Reference, ``AssumeRole``; IAM User Guide, "Session policies" and "Monitor and control actions taken
with assumed roles" (SourceIdentity).

- A session may do what its role may *and* the session policy allows; the policy is always sent, so that no session is
  as wide as its role. AWS gives none for less than 15 minutes: a condition in the policy ends it when the lease does.
- Nothing takes one session back. What can be cut is a role, for all sessions older than a moment (IAM User Guide,
  "Revoking IAM role temporary security credentials"), so a lease is never called revoked; the broker stops signing with
  it, and nobody else has it. The moment is the one at which the lease's own session was made: no newer one is cut.
"""

from __future__ import annotations

import html
import json
import re
import ssl
from collections.abc import Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final
from urllib.parse import unquote, urlencode

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
_REGION = re.compile(r"[a-z]{2,4}(?:-[a-z]+)+-\d")
_ENDS = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d{1,9})?(?:Z|[+-]\d\d:\d\d)")
_CUT = "leasehold-cut"
_CUT_MARGIN_S = 5
_DATE = "%Y-%m-%dT%H:%M:%SZ"
_SECONDS = 900
_POLICY_MAX = 2048
_TIMEOUT = httpx.Timeout(10.0, connect=5.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """``server``: the URL of STS. ``role``: whose sessions are made. ``iam``: the URL of IAM, when sessions are cut."""

    server: str
    region: str
    role: str
    ca: str
    iam: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Partition:
    """A part of AWS with accounts of its own. ``iam_region``: which its one IAM is asked as."""

    name: str
    suffix: str
    iam: str
    iam_region: str


_AWS: Final = Partition(name="aws", suffix="amazonaws.com", iam="https://iam.amazonaws.com", iam_region="us-east-1")
_CN: Final = Partition(
    name="aws-cn",
    suffix="amazonaws.com.cn",
    iam="https://iam.cn-north-1.amazonaws.com.cn",
    iam_region="cn-north-1",
)
_GOV: Final = Partition(
    name="aws-us-gov",
    suffix="amazonaws.com",
    iam="https://iam.us-gov.amazonaws.com",
    iam_region="us-gov-west-1",
)
_PUBLIC = re.compile(r"(?:us|eu|ap|ca|sa|me|af|il|mx)-[a-z]+-\d")


def partition(of: str) -> Partition | None:
    """Where that region is; ``None`` when it is in none of the public ones."""
    if of.startswith("cn-"):
        return _CN
    if of.startswith("us-gov-"):
        return _GOV
    return _AWS if _PUBLIC.fullmatch(of) else None


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
        ends = _instant(_field(said, "Expiration", _ENDS.pattern))
        made = ends - _SECONDS
        # A cut at a time to come would cut what nobody has made yet.
        if not 0 <= made <= order.expires:
            raise nonsense()
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
            kept=Secret(str(int(made) + _CUT_MARGIN_S).encode()) if self._account.iam else None,
        )

    async def revoke(self, name: str, kept: Secret | None = None) -> bool:
        """Nothing can be done about one session; all of the role that are no younger are cut, if that is configured.

        Without ``kept`` a crash came before anybody had it. Called again, it finds the cut and makes none.
        """
        _lawful(name)
        if self._account.iam and kept is not None:
            await self._cut(_moment(kept))
        return False

    async def find(self) -> Collection[str]:
        """STS lists no sessions."""
        return ()

    async def close(self) -> None:
        if self._client is not None:
            await self._client.aclose()
            self._client = None

    async def _cut(self, moment: int) -> None:
        """Never moved back: what an earlier cut has ended stays so."""
        if await self._cut_at() >= moment:
            return
        await self._iam({"Action": "PutRolePolicy", "PolicyDocument": cut_policy(moment)})
        if await self._cut_at() < moment:
            raise IssuerError("the cut of the role is not seen yet", hint="IAM takes a while; it is tried again")

    async def _cut_at(self) -> int:
        """Before which moment sessions are cut; 0 when none are."""
        status, said = await self._iam({"Action": "GetRolePolicy"})
        if status == httpx.codes.NOT_FOUND:
            return 0
        text = unquote(html.unescape(_field(said, "PolicyDocument", "[^<>]{1,20000}")))
        found = re.search(r'"aws:TokenIssueTime": ?"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ)"', text)
        moment = int(_instant(found[1])) if found else 0
        if json.dumps(_read(text)) != json.dumps(_read(cut_policy(moment))):
            raise IssuerError(f"the role's policy {_CUT} is none of ours", hint="remove it from the role")
        return moment

    async def _iam(self, parameters: dict[str, str]) -> tuple[int, str]:
        where = partition(self._account.region)
        about = {"RoleName": self._account.role.rpartition("/")[2], "PolicyName": _CUT}
        body = urlencode({"Version": "2010-05-08", **parameters, **about})
        region = where.iam_region if where else self._account.region
        missing = parameters["Action"] == "GetRolePolicy"
        return await self._send(self._account.iam, "iam", region, body, missing=missing)

    async def _ask(self, parameters: dict[str, str]) -> str:
        body = urlencode({"Version": "2011-06-15", **parameters})
        return (await self._send(self._account.server, "sts", self._account.region, body))[1]

    async def _send(
        self, server: str, service: str, region: str, body: str, *, missing: bool = False
    ) -> tuple[int, str]:
        """The status and the text of the answer. ``missing``: whether "not found" is one."""
        request = AWSRequest(
            method="POST",
            url=f"{server}/",
            data=body,
            headers={"content-type": "application/x-www-form-urlencoded; charset=utf-8"},
        )
        SigV4Auth(self._credentials(), service, region).add_auth(request)
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
            failure = IssuerError(UNREACHABLE, hint="look at the parameters server, iam_server and ca")
        else:
            if status == httpx.codes.OK or (missing and status == httpx.codes.NOT_FOUND):
                return status, data.decode(errors="replace")
            failure = IssuerError(
                f"AWS refuses with status {status}", hint="look at the key, the role and its trust policy"
            )
        # Behind the except block: the request that the original holds has the signature in it.
        raise failure

    def _credentials(self) -> Credentials:
        try:
            fields = json.loads(self._secret.reveal())
            key = [fields["access_key_id"], fields["secret_access_key"], fields.get("session_token", "")]
            # What is no such text would go wrong in a header, and be told there.
            if all(re.fullmatch(r"[!-~]*", part) for part in key):
                return Credentials(key[0], key[1], key[2] or None)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
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
    until = {"DateLessThan": {"aws:CurrentTime": _date(expires)}}
    statements: Sequence[object] = [
        {"Effect": "Allow", "Action": actions, "Resource": resource, "Condition": until}
        for resource, actions in by_resource.items()
    ]
    return json.dumps({"Version": "2012-10-17", "Statement": statements}, separators=(",", ":"))


def cut_policy(moment: int) -> str:
    """What denies everything to sessions of a role that are older than that."""
    older = {"DateLessThan": {"aws:TokenIssueTime": _date(moment)}}
    statement = {"Effect": "Deny", "Action": "*", "Resource": "*", "Condition": older}
    return json.dumps({"Version": "2012-10-17", "Statement": [statement]}, separators=(",", ":"))


def grant(text: str) -> str:
    """``ACTION on RESOURCE``, as they stand in a policy; ``Wrong`` otherwise."""
    if _GRANT.fullmatch(text) is None:
        raise Wrong("expected ACTION on ARN such as s3:GetObject on arn:aws:s3:::bucket/*, found something else")
    return text


def role(text: str, of: str) -> str:
    """The ARN of a role where that region is."""
    if _ROLE.fullmatch(text) is None:
        raise Wrong("expected the ARN of a role, found something else", "arn:aws:iam::ACCOUNT:role/NAME")
    where = partition(of)
    if where and text.split(":")[1] != where.name:
        raise Wrong(f"expected a role of the region's partition {where.name}, found another's", f"arn:{where.name}:…")
    return text


def region(text: str) -> str:
    if not _REGION.fullmatch(text):
        raise Wrong("expected a region such as eu-central-1, found something else")
    return text


def _parts(text: str) -> tuple[str, str]:
    action, _, resource = text.partition(" on ")
    return action, resource


def _date(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).strftime(_DATE)


def _instant(text: str) -> float:
    """Unix seconds; ``IssuerError`` for a day that there is not."""
    with suppress(ValueError, OverflowError):
        return datetime.fromisoformat(text).timestamp()
    raise nonsense()


def _read(text: str) -> object:
    with suppress(ValueError, RecursionError):
        found: object = json.loads(text)
        return found
    return None


def _moment(kept: Secret) -> int:
    text = kept.reveal()
    if not re.fullmatch(rb"\d{1,11}", text):
        raise IssuerError("what was kept of it is no moment", hint="this is a defect in Leasehold; please report it")
    return int(text)


def _field(said: str, name: str, form: str) -> str:
    """The text of one element: the answer is not parsed as XML, so nothing in it can be more than text."""
    found = re.findall(rf"<{name}>({form})</{name}>", said)
    if len(found) != 1:
        raise nonsense()
    return str(found[0])


def _lawful(name: str) -> None:
    if not _NAME.fullmatch(name):
        raise IssuerError("the name is none of ours", hint="this is a defect in Leasehold; please report it")
