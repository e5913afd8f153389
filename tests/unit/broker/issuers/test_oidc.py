"""What the broker signs as an OpenID provider, which keys it takes, and what it publishes of them."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from leasehold.broker.issuers.oidc import (
    DISCOVERY,
    KEYS,
    KEYS_MAX,
    Claims,
    OidcIssuer,
    documents,
    issuer_url,
    subject,
    thumbprint,
)
from leasehold.broker.issuers.ports import Order
from leasehold.core.errors import IssuerError
from leasehold.core.secret import Secret
from leasehold.core.toml import Wrong

NOW = 1_700_000_000.0
URL = "https://broker.example/acme"
CLAIMS = Claims(issuer=URL, audience="api", subject="agents:{task}")
ORDER = Order(
    name="lh_a", secret=Secret(b"a" * 32), task="t1", expires=NOW + 60.9, scope=frozenset({"api"}), ordered=NOW + 0.9
)
EC_KEY = ec.generate_private_key(ec.SECP256R1())
RSA_KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)


def pem(key: Any, form: PrivateFormat = PrivateFormat.PKCS8) -> bytes:
    made: bytes = key.private_bytes(Encoding.PEM, form, NoEncryption())
    return made


def token(secret: bytes, order: Order = ORDER, claims: Claims = CLAIMS) -> str:
    issued = asyncio.run(OidcIssuer(Secret(secret), claims).issue(order))
    return issued.material["token"].reveal().decode()


def test_a_key_is_called_what_the_rfc_reckons() -> None:
    """The example of RFC 7638, 3.1."""
    modulus = (
        "0vx7agoebGcQSuuPiLJXZptN9nndrQmbXEps2aiAFbWhM78LhWx4cbbfAAtVT86zwu1RK7aPFFxuhDR1L6tSoc_BJECPebWKRXjBZCiFV4n3ok"
        "njhMstn64tZ_2W-5JsGY4Hc5n9yBXArwl93lqt7_RN5w6Cf0h4QyQ5v-65YGjQR0_FDW2QvzqY368QQMicAtaSqzs8KJZgnYb9c7d0zgdAZHzu6"
        "qMQvRL5hajrn1n91CbOpbISD08qNLyrdkt-bFTWhAI4vMQFh6WeZu0fM4lFd2NcRwr3XPksINHaQ-G_xBniIqbw0Ls1jF44-csFCur-kEgU8awa"
        "pJzKnqDKgw"
    )
    public = {"n": modulus, "kty": "RSA", "e": "AQAB"}
    assert thumbprint(public) == "NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs"


@pytest.mark.parametrize("key", [EC_KEY, RSA_KEY])
@pytest.mark.parametrize("form", [PrivateFormat.PKCS8, PrivateFormat.TraditionalOpenSSL])
def test_the_claims_are_the_orders(key: Any, form: PrivateFormat) -> None:
    given = token(pem(key, form))
    options: Any = {"verify_exp": False}
    claims = jwt.decode(given, key.public_key(), algorithms=["ES256", "RS256"], audience="api", options=options)
    assert claims == {
        "iss": URL,
        "sub": "agents:t1",
        "aud": "api",
        "iat": int(NOW),
        "nbf": int(NOW) - 60,
        "exp": int(NOW) + 60,
        "jti": "lh_a",
    }
    published = jwt.PyJWKSet.from_json(documents({"issuer_url": URL}, Secret(pem(key)))[KEYS].decode())
    header = jwt.get_unverified_header(given)
    assert published[header["kid"]].algorithm_name == header["alg"]


def test_an_order_without_a_time_holds_from_the_beginning() -> None:
    claims = jwt.decode(token(pem(EC_KEY), replace(ORDER, ordered=0.0)), options={"verify_signature": False})
    assert (claims["iat"], claims["nbf"]) == (0, 0)


@pytest.mark.parametrize(
    "changes",
    [
        {"scope": frozenset()},
        {"scope": frozenset({"api", "other"})},
        {"scope": frozenset({"other"})},
        {"task": "t1:admin"},
        {"task": ""},
        {"task": "t 1"},
        {"name": "lh_"},
    ],
)
def test_what_was_not_configured_is_not_signed(changes: dict[str, Any]) -> None:
    with pytest.raises(IssuerError):
        token(pem(EC_KEY), replace(ORDER, **changes))
    assert token(pem(EC_KEY), claims=replace(CLAIMS, subject="fixed"))


@pytest.mark.parametrize(
    "secret",
    [
        b"",
        b"no key",
        pem(EC_KEY) + b"and more",
        pem(EC_KEY) + pem(EC_KEY),
        pem(EC_KEY) + pem(RSA_KEY)[:-20],
        pem(EC_KEY) + pem(RSA_KEY).replace(b"M", b"N", 1),
        pem(ec.generate_private_key(ec.SECP384R1())),
        pem(ec.generate_private_key(ec.SECP256K1())),
        pem(ed25519.Ed25519PrivateKey.generate()),
        pem(rsa.generate_private_key(public_exponent=65537, key_size=1024)),  # noqa: S505  too short on purpose
        EC_KEY.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"passphrase")),
        EC_KEY.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo),
        b"".join(pem(ec.generate_private_key(ec.SECP256R1())) for _ in range(KEYS_MAX + 1)),
    ],
)
def test_what_is_no_key_signs_nothing_and_publishes_nothing(secret: bytes) -> None:
    for made in (lambda: token(secret), lambda: documents({"issuer_url": URL}, Secret(secret))):
        with pytest.raises(IssuerError, match="is refused") as caught:
            made()
        assert caught.value.hint


def test_parameters_of_a_curve_may_stand_before_the_key() -> None:
    """As ``openssl ecparam -genkey`` writes it."""
    parameters = b"-----BEGIN EC PARAMETERS-----\nBggqhkjOPQMBBw==\n-----END EC PARAMETERS-----\n"
    asyncio.run(OidcIssuer(Secret(parameters + pem(EC_KEY, PrivateFormat.TraditionalOpenSSL)), CLAIMS).check())


def test_the_first_key_signs_and_all_are_published() -> None:
    both = pem(RSA_KEY) + pem(EC_KEY)
    made = documents({"issuer_url": URL}, Secret(both))
    discovery, keys = json.loads(made[DISCOVERY]), json.loads(made[KEYS])["keys"]
    assert (discovery["issuer"], discovery["jwks_uri"]) == (URL, f"{URL}/.well-known/jwks.json")
    assert discovery["id_token_signing_alg_values_supported"] == ["ES256", "RS256"]
    assert [key["alg"] for key in keys] == ["RS256", "ES256"]
    assert jwt.get_unverified_header(token(both)) == {"alg": "RS256", "kid": keys[0]["kid"], "typ": "JWT"}


def test_nothing_is_called_revoked() -> None:
    issuer = OidcIssuer(Secret(pem(EC_KEY)), CLAIMS)
    assert asyncio.run(issuer.revoke("lh_a")) is False
    assert asyncio.run(issuer.revoke("lh_a", Secret(b"kept"))) is False


def test_a_url_and_a_subject_stay_as_they_are_written() -> None:
    for url in ("https://broker.example", "https://broker.example:8443/a/b"):
        assert issuer_url(url) == url
    with pytest.raises(Wrong):
        issuer_url("https://[::1")
    with pytest.raises(Wrong):
        documents({}, Secret(pem(EC_KEY)))
    assert subject("repo:acme/web:task:{task}") == "repo:acme/web:task:{task}"
    with pytest.raises(Wrong):
        subject("{task}-{task}")
