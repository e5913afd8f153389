"""The issuer of AWS sessions keeps the contract, at a server that checks signatures, trust and the role's policy."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from contract.aws_subject import AwsSubject
from contract.clauses import IssuerContract, fails
from contract.desk import Desk, Run
from contract.subject import Refused
from leasehold.broker.issuers.aws_sts import session_policy
from leasehold.broker.issuers.checked import CheckedIssuer
from leasehold.broker.lease.machine import Revocability
from leasehold.core.secret import Secret
from servers.moto import MotoServer


@pytest.fixture(scope="module")
def subject() -> Iterator[AwsSubject]:
    server = MotoServer()
    yield AwsSubject(server)
    server.close()


class TestAwsSts(IssuerContract):
    """Its own tests follow the clauses."""

    revocability = Revocability.ROLE_WIDE
    named = False
    chosen = False
    divisible = False

    def test_a_wrong_secret_is_refused_by_the_server(self, subject: AwsSubject, desk: Desk, run: Run) -> None:
        fields = json.loads(subject.secret.reveal())
        wrong = Secret(json.dumps({**fields, "secret_access_key": "x" * 40}).encode())
        error = fails(run, desk.made(secret=wrong).issue(desk.order()), wrong)
        assert "AWS refuses with status 403" in error.message

    def test_a_session_with_another_key_is_none(self, subject: AwsSubject, desk: Desk) -> None:
        issued = desk.issue(desk.order())
        with pytest.raises(Refused):
            subject.attempt({**issued.material, "secret_access_key": Secret(b"x" * 40)}, subject.within[0])

    def test_a_cut_is_in_the_role_and_never_called_revoked(self, subject: AwsSubject, desk: Desk, run: Run) -> None:
        """moto looks at no condition: that younger sessions go on is not seen here."""
        server = subject.server
        cutting = {**subject.parameters(), "assume": server.cut, "cut": True, "iam_server": server.url}
        issuer = CheckedIssuer(subject.issuer(cutting, subject.secret))
        order = desk.order()
        issued, other = run(issuer.issue(order)), desk.issue(desk.order())
        subject.attempt(issued.material, subject.within[0])
        for _ in range(2):
            assert run(issuer.revoke(order.name, issued.kept)) is False
        with pytest.raises(Refused):
            subject.attempt(issued.material, subject.within[0])
        subject.attempt(other.material, subject.within[0])
        run(issuer.close())


def test_the_session_policy_is_the_scope_and_ends_with_the_lease() -> None:
    """What moto does not look at; the form is IAM's."""
    scope = {
        "s3:PutObject on arn:aws:s3:::builds/*",
        "s3:GetObject on arn:aws:s3:::builds/*",
        "sqs:SendMessage on arn:aws:sqs:eu-central-1:123456789012:jobs",
    }
    until = {"DateLessThan": {"aws:CurrentTime": "2023-11-14T22:13:20Z"}}
    assert json.loads(session_policy(scope, 1_700_000_000.9)) == {
        "Version": "2012-10-17",
        "Statement": [
            {
                "Effect": "Allow",
                "Action": ["s3:GetObject", "s3:PutObject"],
                "Resource": "arn:aws:s3:::builds/*",
                "Condition": until,
            },
            {
                "Effect": "Allow",
                "Action": ["sqs:SendMessage"],
                "Resource": "arn:aws:sqs:eu-central-1:123456789012:jobs",
                "Condition": until,
            },
        ],
    }
