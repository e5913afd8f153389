"""The broker as an OpenID provider keeps the contract, before who verifies its tokens with PyJWT over TLS."""

from __future__ import annotations

import base64
import hmac
import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import boto3  # type: ignore[import-untyped]  # comes without types
import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from moto import mock_aws

from contract.clauses import IssuerContract
from contract.desk import Desk, Run
from contract.oidc_subject import AUDIENCE, OidcSubject
from contract.subject import Refused
from leasehold.broker.issuers.oidc import KEYS, documents
from leasehold.broker.issuers.ports import Issued
from leasehold.broker.lease.machine import Revocability
from leasehold.core.errors import ConfigError
from leasehold.core.secret import Secret
from servers.relying import Pages

PAGE = Path(__file__).parents[2] / "docs" / "issuers" / "oidc.md"
EC_KEY = ec.generate_private_key(ec.SECP256R1())
RSA_KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)


def pem(*keys: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey) -> Secret:
    """One behind the other."""
    return Secret(b"".join(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()) for key in keys))


@pytest.fixture(scope="module")
def subject() -> Iterator[OidcSubject]:
    pages = Pages()
    yield OidcSubject(pages, pem(EC_KEY))
    pages.close()


@pytest.fixture(autouse=True)
def fresh(subject: OidcSubject) -> Iterator[None]:
    """The documents of the one key."""
    yield
    subject.pages.documents = documents(subject.parameters(), subject.secret)


def text(issued: Issued) -> str:
    return issued.material["token"].reveal().decode()


def claimed(issued: Issued) -> Mapping[str, Any]:
    claims: Mapping[str, Any] = jwt.decode(text(issued), options={"verify_signature": False})
    return claims


def encoded(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def unsigned(header: Mapping[str, Any], claims: Mapping[str, Any]) -> str:
    """What is to be signed."""
    return ".".join(encoded(json.dumps(part).encode()) for part in (header, claims))


class TestOidc(IssuerContract):
    """Its own tests follow the clauses."""

    revocability = Revocability.TTL_ONLY
    named = False
    chosen = False
    divisible = False
    asks = False

    @pytest.mark.parametrize("key", ["issuer_url", "audience", "subject"])
    def test_what_is_needed_has_to_be_there(self, subject: OidcSubject, key: str) -> None:
        parameters = {name: value for name, value in subject.parameters().items() if name != key}
        with pytest.raises(ConfigError, match=f"the key {key} is missing"):
            subject.issuer(parameters, subject.secret)

    def test_the_token_says_for_whom_it_is_and_how_long(self, subject: OidcSubject, desk: Desk) -> None:
        order = desk.order()
        issued = desk.issue(order)
        claims = subject.party().claims(text(issued))
        assert claims == {
            "iss": subject.pages.url,
            "sub": "agents:acme:t1",
            "aud": AUDIENCE,
            "iat": int(order.ordered),
            "nbf": int(order.ordered) - 60,
            "exp": int(order.expires),
            "jti": order.name,
        }
        assert issued.expires == claims["exp"] <= order.expires

    def test_one_whose_time_is_over_is_refused(self, subject: OidcSubject, desk: Desk) -> None:
        order = desk.order()
        over = desk.issue(desk.order(expires=order.ordered - 1))
        early = desk.issue(desk.order(ordered=order.ordered + 300))
        for issued in (over, early):
            with pytest.raises(Refused):
                subject.attempt(issued.material, "deploy")

    @pytest.mark.parametrize(("key", "algorithm"), [(EC_KEY, "ES256"), (RSA_KEY, "RS256")])
    def test_either_kind_of_key_signs(
        self, subject: OidcSubject, desk: Desk, run: Run, key: ec.EllipticCurvePrivateKey, algorithm: str
    ) -> None:
        subject.pages.documents = documents(subject.parameters(), pem(key))
        issued = run(subject.issuer(subject.parameters(), pem(key)).issue(desk.order()))
        assert jwt.get_unverified_header(text(issued))["alg"] == algorithm
        subject.attempt(issued.material, "deploy")

    def test_a_key_is_changed_without_a_gap(self, subject: OidcSubject, desk: Desk, run: Run) -> None:
        """The new one is published, then signs; the old one is published still, and then is gone."""
        new = ec.generate_private_key(ec.SECP256R1())
        old = desk.issue(desk.order())
        for keys in ((EC_KEY, new), (new, EC_KEY)):
            subject.pages.documents = documents(subject.parameters(), pem(*keys))
            issued = run(subject.issuer(subject.parameters(), pem(*keys)).issue(desk.order()))
            for each in (old, issued):
                subject.attempt(each.material, "deploy")
            assert len(json.loads(subject.pages.documents[KEYS])["keys"]) == 2
        subject.pages.documents = documents(subject.parameters(), pem(new))
        subject.attempt(issued.material, "deploy")
        with pytest.raises(Refused):
            subject.attempt(old.material, "deploy")

    def test_nobody_else_can_make_one(self, subject: OidcSubject, desk: Desk) -> None:
        """What verifies tokens has to refuse each of these; the true one beside them it takes."""
        issued = desk.issue(desk.order())
        claims, header = claimed(issued), jwt.get_unverified_header(text(issued))
        twin = ec.generate_private_key(ec.SECP256R1())
        public = EC_KEY.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        true, confused = text(issued).rpartition(".")[2], unsigned({**header, "alg": "HS256"}, claims)
        forged = [
            jwt.encode({**claims}, twin, "ES256", headers={"kid": header["kid"]}),
            f"{confused}.{encoded(hmac.digest(public, confused.encode(), 'sha256'))}",
            f"{unsigned({**header, 'alg': 'none'}, claims)}.",
            f"{unsigned({**header, 'alg': 'none'}, claims)}.{true}",
            f"{unsigned(header, claims)}.",
            f"{unsigned(header, {**claims, 'exp': claims['exp'] + 3600})}.{true}",
            jwt.encode({**claims, "aud": [AUDIENCE, "https://x.example"]}, EC_KEY, "ES256", headers=header),
            jwt.encode({**claims, "iss": "https://x.example"}, EC_KEY, "ES256", headers=header),
            jwt.encode({**claims}, EC_KEY, "ES256", headers={"kid": "other"}),
        ]
        for each in forged:
            with pytest.raises(Refused):
                subject.attempt({"token": Secret(each.encode())}, "deploy")
        subject.attempt(issued.material, "deploy")

    def test_the_documents_hold_no_private_key(self, subject: OidcSubject) -> None:
        found = json.loads(documents(subject.parameters(), pem(EC_KEY, RSA_KEY))[KEYS])["keys"]
        assert [{*key} for key in found] == [
            {"kty", "crv", "x", "y", "use", "alg", "kid"},
            {"kty", "n", "e", "use", "alg", "kid"},
        ]

    def test_a_session_of_aws_is_had_with_it(self, subject: OidcSubject, desk: Desk) -> None:
        """What is sent is what the API takes; moto verifies no token."""
        token = text(desk.issue(desk.order()))
        with mock_aws():
            sts = boto3.client("sts", region_name="eu-central-1", aws_access_key_id="a", aws_secret_access_key="b")
            given = sts.assume_role_with_web_identity(
                RoleArn="arn:aws:iam::123456789012:role/deployers", RoleSessionName="task", WebIdentityToken=token
            )
        assert given["Credentials"]["SessionToken"]
        assert given["AssumedRoleUser"]["Arn"].endswith("assumed-role/deployers/task")

    def test_the_manual_tells_how_the_documents_are_made(self, subject: OidcSubject, tmp_path: Path) -> None:
        script = PAGE.read_text().partition("```python\n")[2].partition("```")[0]
        (tmp_path / "publish.py").write_text(script)
        paths = json.dumps(sys.path)
        code = f"import sys, runpy; sys.path[:] = {paths}; runpy.run_path('publish.py')"
        subprocess.run(
            [sys.executable, "-c", code, subject.pages.url, "served"],
            input=subject.secret.reveal(),
            cwd=tmp_path,
            check=True,
        )
        made = documents(subject.parameters(), subject.secret)
        assert {path: (tmp_path / "served" / path).read_bytes() for path in made} == made
