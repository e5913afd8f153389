"""What the issuer of AWS sessions makes of answers that no stand-in gives, and how it cuts a role."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from urllib.parse import parse_qs, quote

import httpx
import pytest

from leasehold.broker.issuers import builtin
from leasehold.broker.issuers.answers import BYTES_MAX
from leasehold.broker.issuers.aws_sts import Account, AwsStsIssuer, cut_policy
from leasehold.broker.issuers.ports import Issued, Order
from leasehold.core.errors import ConfigError, IssuerError
from leasehold.core.secret import Secret

GRANT = "s3:GetObject on arn:aws:s3:::builds/*"
ROLE = "arn:aws:iam::123456789012:role/teams/agents"
KEY = Secret(b'{"access_key_id": "AKIAOFTHEISSUER00000", "secret_access_key": "of-the-issuer"}')
ORDER = Order(name="lh_a", secret=Secret(b"a" * 32), task="t", expires=2000.0, scope=frozenset({GRANT}))
FIELDS = {
    "Expiration": "1970-01-01T00:30:00Z",
    "Arn": "arn:aws:sts::123456789012:assumed-role/agents/lh_a",
    "AccessKeyId": "ASIAAAAAAAAAAAAAAAAA",
    "SecretAccessKey": "providers-secret".replace("-", "/"),
    "SessionToken": "providers/token/providers/token",
}
MADE = 1800 - 900 + 5
Respond = Callable[[httpx.Request], httpx.Response]


def answer(**changes: str | None) -> httpx.Response:
    fields = {**FIELDS, **changes}
    return httpx.Response(200, text="".join(f"<{k}>{v}</{k}>" for k, v in fields.items() if v is not None))


def issuer(respond: Respond, *, iam: str = "", secret: Secret = KEY) -> AwsStsIssuer:
    account = Account(server="https://sts.example", region="eu-central-1", role=ROLE, ca="/nonexistent", iam=iam)
    made = AwsStsIssuer(account, secret, [GRANT])
    made._client = httpx.AsyncClient(transport=httpx.MockTransport(respond))
    return made


def issued(respond: Respond, *, iam: str = "") -> Issued:
    return asyncio.run(issuer(respond, iam=iam).issue(ORDER))


class Iam:
    """Has one policy, or none; ``lags``: as many answers of the past it still gives after it is changed."""

    def __init__(self, policy: str = "", *, lags: int = 0) -> None:
        self.policy, self._old, self._lags = policy, policy, lags
        self.asked: list[str] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        asked = {key: value[0] for key, value in parse_qs(request.content.decode()).items()}
        assert request.url == "https://iam.example/"
        assert "/us-east-1/iam/aws4_request" in request.headers["authorization"]
        assert (asked["RoleName"], asked["PolicyName"]) == ("agents", "leasehold-cut")
        self.asked.append(asked["Action"])
        if asked["Action"] == "PutRolePolicy":
            self._old, self.policy = self.policy, asked["PolicyDocument"]
            return httpx.Response(200)
        seen = self._old if self._lags else self.policy
        return httpx.Response(200, text=f"<PolicyDocument>{quote(seen)}</PolicyDocument>") if seen else missing()

    def revoke(self, kept: bytes | None) -> bool:
        return asyncio.run(issuer(self, iam="https://iam.example").revoke("lh_a", Secret(kept) if kept else None))


def missing() -> httpx.Response:
    return httpx.Response(404, text="NoSuchEntity")


def test_a_session_is_narrowed_and_named() -> None:
    asked: list[dict[str, list[str]]] = []

    def respond(request: httpx.Request) -> httpx.Response:
        asked.append(parse_qs(request.content.decode()))
        return answer()

    given = issued(respond)
    assert (given.expires, given.scope, given.kept) == (1800.0, ORDER.scope, None)
    assert given.material["session_token"] == Secret(FIELDS["SessionToken"].encode())
    [said] = asked
    assert (said["SourceIdentity"], said["RoleSessionName"], said["DurationSeconds"]) == (["lh_a"], ["lh_a"], ["900"])
    assert json.loads(said["Policy"][0])["Statement"][0]["Resource"] == "arn:aws:s3:::builds/*"


@pytest.mark.parametrize(
    "changes",
    [
        *({field: None} for field in FIELDS),
        *({field: ""} for field in FIELDS),
        {"Expiration": "1970-02-30T00:00:00Z"},
        {"Expiration": "1970-01-01T00:30:00"},
        {"Expiration": "soon"},
        {"Expiration": "0001-01-01T00:00:00+23:59"},
        {"Expiration": "1970-01-01T01:30:00Z"},
        {"Arn": "arn:aws:sts::123456789012:assumed-role/agents/lh_b"},
        {"SessionToken": "A" * 8193},
        {"SessionToken": "providers token token token"},
        {"SessionToken": "providers/token\ntoken/token"},
        {"SessionToken": "providers/token/token</SessionToken><SessionToken>providers/token/token"},
        {"AccessKeyId": "asia-providers-key"},
    ],
)
def test_an_answer_that_is_none_is_an_error_without_its_words(changes: dict[str, str | None]) -> None:
    with pytest.raises(IssuerError, match="no answer to that") as caught:
        issued(lambda _: answer(**changes))
    assert caught.value.hint and "providers" not in str(caught.value) and caught.value.__context__ is None


@pytest.mark.parametrize("status", [302, 400, 403, 404, 500])
def test_a_refusal_says_its_status_and_no_more(status: int) -> None:
    with pytest.raises(IssuerError, match=f"status {status}") as caught:
        issued(lambda _: httpx.Response(status, text="providers words"))
    assert "providers" not in f"{caught.value} {caught.value.hint}"


def test_an_answer_without_end_is_given_up() -> None:
    with pytest.raises(IssuerError, match="no answer to that"):
        issued(lambda _: httpx.Response(200, content=b" " * (BYTES_MAX + 1)))


def test_what_the_library_says_is_not_carried_along() -> None:
    def respond(_: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("of-the-issuer")

    with pytest.raises(IssuerError, match="cannot be reached") as caught:
        issued(respond)
    assert caught.value.__context__ is None


@pytest.mark.parametrize(
    "secret",
    [
        b"",
        b"[]",
        b"5",
        b"\xff",
        b'{"access_key_id": "a"}',
        b'{"access_key_id": 5, "secret_access_key": "b"}',
        b'{"access_key_id": "a\\r\\nx: y", "secret_access_key": "b"}',
        b'{"access_key_id": "a", "secret_access_key": "b", "session_token": 5}',
    ],
)
def test_a_secret_that_is_no_key_is_refused(secret: bytes) -> None:
    with pytest.raises(IssuerError, match="the secret is refused"):
        asyncio.run(issuer(lambda _: answer(), secret=Secret(secret)).check())


def test_a_temporary_key_comes_with_its_token() -> None:
    sent: list[str] = []

    def respond(request: httpx.Request) -> httpx.Response:
        sent.append(request.headers["x-amz-security-token"])
        return answer()

    secret = Secret(b'{"access_key_id": "a", "secret_access_key": "b", "session_token": "c"}')
    asyncio.run(issuer(respond, secret=secret).check())
    assert sent == ["c"]


def test_a_policy_that_aws_would_not_take_is_not_sent() -> None:
    grants = frozenset(f"s3:GetObject on arn:aws:s3:::builds/{'a' * 200}{i}" for i in range(10))
    made = AwsStsIssuer(Account(server="", region="eu-central-1", role=ROLE, ca=""), KEY, grants)
    order = Order(name="lh_a", secret=ORDER.secret, task="t", expires=2000.0, scope=grants)
    with pytest.raises(IssuerError, match="longer than 2048"):
        asyncio.run(made.issue(order))


def test_a_cut_is_at_the_moment_of_the_session_and_never_says_revoked() -> None:
    kept = issued(lambda _: answer(), iam="https://iam.example").kept
    assert kept == Secret(str(MADE).encode())
    iam = Iam()
    assert iam.revoke(kept.reveal() if kept else None) is False
    assert iam.policy == cut_policy(MADE)
    assert json.loads(iam.policy)["Statement"] == [
        {
            "Effect": "Deny",
            "Action": "*",
            "Resource": "*",
            "Condition": {"DateLessThan": {"aws:TokenIssueTime": "1970-01-01T00:15:05Z"}},
        }
    ]
    assert iam.asked == ["GetRolePolicy", "PutRolePolicy", "GetRolePolicy"]


@pytest.mark.parametrize("before", [MADE, MADE + 1])
def test_a_cut_is_never_moved_back_nor_made_twice(before: int) -> None:
    iam = Iam(cut_policy(before))
    assert iam.revoke(str(MADE).encode()) is False
    assert (iam.asked, iam.policy) == (["GetRolePolicy"], cut_policy(before))


def test_an_older_cut_is_moved_on() -> None:
    iam = Iam(cut_policy(MADE - 1))
    iam.revoke(str(MADE).encode())
    assert iam.policy == cut_policy(MADE)


def test_a_cut_that_is_not_read_back_is_no_success() -> None:
    with pytest.raises(IssuerError, match="not seen yet"):
        Iam(cut_policy(1), lags=1).revoke(str(MADE).encode())


def test_without_what_was_kept_nobody_is_cut() -> None:
    iam = Iam()
    assert iam.revoke(None) is False
    assert not iam.asked


def test_without_cut_nobody_is_asked() -> None:
    def respond(_: httpx.Request) -> httpx.Response:
        raise AssertionError

    assert asyncio.run(issuer(respond).revoke("lh_a", Secret(b"5"))) is False


@pytest.mark.parametrize(
    "policy",
    [
        "{}",
        "no policy",
        "[" * 9000,
        cut_policy(MADE).replace("Deny", "Allow"),
        cut_policy(MADE).replace('"Action":"*"', '"Action":"s3:*"'),
        cut_policy(MADE).replace("1970-01-01", "1970-02-30"),
    ],
)
def test_a_policy_of_somebody_elses_is_left_alone(policy: str) -> None:
    iam = Iam(policy)
    with pytest.raises(IssuerError):
        iam.revoke(str(MADE).encode())
    assert (iam.asked, iam.policy) == (["GetRolePolicy"], policy)


def test_what_is_kept_is_a_moment() -> None:
    with pytest.raises(IssuerError, match="no moment"):
        Iam().revoke(b"soon")


def test_a_role_that_is_not_there_is_no_cut() -> None:
    with pytest.raises(IssuerError, match="status 404"):
        asyncio.run(issuer(lambda _: missing(), iam="https://iam.example").revoke("lh_a", Secret(b"5")))


def configured(**changes: object) -> Account:
    """As the product makes it; a change to ``None`` leaves a key out."""
    values = {"region": "eu-central-1", "assume": ROLE, "grants": [GRANT], **changes}
    made = builtin.make("aws-sts", {k: v for k, v in values.items() if v is not None}, KEY)
    account = made._issuer._account  # type: ignore[attr-defined]
    assert isinstance(account, Account)
    return account


@pytest.mark.parametrize(
    ("region", "partition", "server", "iam"),
    [
        ("eu-central-1", "aws", "sts.eu-central-1.amazonaws.com", "iam.amazonaws.com"),
        ("cn-north-1", "aws-cn", "sts.cn-north-1.amazonaws.com.cn", "iam.cn-north-1.amazonaws.com.cn"),
        ("us-gov-west-1", "aws-us-gov", "sts.us-gov-west-1.amazonaws.com", "iam.us-gov.amazonaws.com"),
    ],
)
def test_each_partition_has_servers_and_roles_of_its_own(region: str, partition: str, server: str, iam: str) -> None:
    role = ROLE.replace("aws", partition, 1)
    assert configured(region=region, assume=role).server == f"https://{server}"
    assert configured(region=region, assume=role).iam == ""
    assert configured(region=region, assume=role, cut=True).iam == f"https://{iam}"
    with pytest.raises(ConfigError, match="assume"):
        configured(region=region, assume=ROLE.replace("aws", "aws-iso", 1))


@pytest.mark.parametrize("region", ["us-iso-east-1", "us-isob-east-1", "eu-isoe-west-1", "eusc-de-east-1"])
def test_another_partition_needs_servers(region: str) -> None:
    changes = {"region": region, "assume": ROLE.replace("aws", "aws-iso", 1), "server": "https://sts.example"}
    assert configured(**changes).server == "https://sts.example"
    with pytest.raises(ConfigError, match="server"):
        configured(**{**changes, "server": None})
    with pytest.raises(ConfigError, match="iam_server"):
        configured(**changes, cut=True)
    assert configured(**changes, cut=True, iam_server="https://iam.example").iam == "https://iam.example"


def test_a_server_for_cuts_needs_cuts() -> None:
    with pytest.raises(ConfigError, match="iam_server"):
        configured(iam_server="https://iam.example")
