"""Tokens that the broker signs itself, as an OpenID provider: for clouds and services that trust one by its keys.

OpenID Connect Core 1.0 (ID token), Discovery 1.0; RFC 7519 (JWT), RFC 7515 (signatures), RFC 7517 (key set), RFC 7518
(ES256, RS256), RFC 7638 (the name of a key).

- Nobody is asked, and nobody can take one back: it ends by itself. So it is never called revoked.
- A token is for one audience. One that is for two could be shown by the first to the second.
- The first key of the secret signs, all are published: so a new key is known before it signs, and an old one until its
  last token is over. What a key is called is reckoned from the key, and cannot be given to another.
- A verifier's clock may be behind ours: a token is valid from a minute before it was ordered.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from leasehold.broker.issuers.ports import NAME_PREFIX, Issued, Order
from leasehold.broker.lease.machine import Revocability
from leasehold.core.errors import IssuerError
from leasehold.core.secret import Secret
from leasehold.core.toml import Wrong

DISCOVERY = ".well-known/openid-configuration"
KEYS = ".well-known/jwks.json"
KEYS_MAX = 10

_NAME = re.compile(rf"{NAME_PREFIX}[a-z0-9_]{{1,29}}")
_TASK = re.compile(r"[a-z0-9_-]{1,64}")
_HOST = re.compile(r"[a-z0-9_-]+(?:\.[a-z0-9_-]+)*")
_PATH = re.compile(r"(?:/[A-Za-z0-9._~-]+)*")
_SUBJECT = re.compile(r"[\x21-\x7a]{1,190}")
_PEM = re.compile(rb"-----BEGIN ((?:RSA |EC )?PRIVATE KEY)-----[A-Za-z0-9+/=\s]+-----END \1-----")
_PARAMETERS = re.compile(rb"-----BEGIN EC PARAMETERS-----[A-Za-z0-9+/=\s]+-----END EC PARAMETERS-----")
_KEY_BITS_MIN = 2048
_BEFORE_S = 60
_DEFECT = "this is a defect in Leasehold; please report it"

Private = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey


@dataclass(frozen=True, slots=True, kw_only=True)
class Claims:
    """What stands in each token: ``issuer``, a URL; the one ``audience``; ``subject``, perhaps with ``{task}``."""

    issuer: str
    audience: str
    subject: str


class OidcIssuer:
    """See :class:`leasehold.broker.issuers.ports.Issuer`. ``secret``: private keys in PEM, the first of which signs."""

    kind = "oidc"
    revocability = Revocability.TTL_ONLY

    def __init__(self, secret: Secret, claims: Claims) -> None:
        self._secret = secret
        self._claims = claims
        self.scope = frozenset({claims.audience})

    async def check(self) -> None:
        """Its keys are such as can sign."""
        _keys(self._secret)

    async def issue(self, order: Order) -> Issued:
        """The same claims at each call."""
        _ours(order.name)
        if order.scope != self.scope or not _TASK.fullmatch(order.task):
            raise IssuerError("the order's scope is not what is configured, or its task is none", hint=_DEFECT)
        ordered, expires = int(order.ordered), int(order.expires)
        claims = {
            "iss": self._claims.issuer,
            "sub": self._claims.subject.replace("{task}", order.task),
            "aud": self._claims.audience,
            "iat": ordered,
            "nbf": max(ordered - _BEFORE_S, 0),
            "exp": expires,
            "jti": order.name,
        }
        token = _signed(_keys(self._secret)[0], claims)
        return Issued(material={"token": Secret(token.encode())}, expires=float(expires), scope=self.scope)

    async def revoke(self, name: str, kept: Secret | None = None) -> bool:
        """Nothing can be done: whoever trusts the key takes the token until its end."""
        _ours(name)
        return False

    async def find(self) -> Collection[str]:
        """Nobody lists what a key has signed."""
        return ()

    async def close(self) -> None:
        """Nothing is kept open."""


def documents(parameters: Mapping[str, object], secret: Secret) -> dict[str, bytes]:
    """What has to be served below the issuer's URL, by its path there: the discovery document, and the public keys.

    ``Wrong`` for a URL that is none; ``IssuerError`` for keys that are none.
    """
    issuer = issuer_url(str(parameters.get("issuer_url")))
    published = [_published(key) for key in _keys(secret)]
    discovery = {
        "issuer": issuer,
        "jwks_uri": f"{issuer}/{KEYS}",
        "response_types_supported": ["id_token"],
        "subject_types_supported": ["public"],
        "id_token_signing_alg_values_supported": sorted({key["alg"] for key in published}),
        "claims_supported": ["iss", "sub", "aud", "iat", "nbf", "exp", "jti"],
    }
    return {DISCOVERY: _json(discovery), KEYS: _json({"keys": published})}


def _keys(secret: Secret) -> list[Private]:
    """The first of them signs."""
    data = secret.reveal()
    keys = [_key(match[0]) for match in _PEM.finditer(data)]
    strange = _PARAMETERS.sub(b"", _PEM.sub(b"", data)).strip()
    good = [key for key in keys if key is not None]
    names = {thumbprint(_public(key)) for key in good}
    if strange or not good or len(names) < len(keys) or len(keys) > KEYS_MAX:
        raise IssuerError(
            f"the secret is not 1 to {KEYS_MAX} different private keys in PEM, EC on P-256 or RSA of {_KEY_BITS_MIN} "
            "bits or more, and is refused",
            hint="openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 makes one",
        )
    return good


def _key(pem: bytes) -> Private | None:
    try:
        key = load_pem_private_key(pem, None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        return None
    if isinstance(key, ec.EllipticCurvePrivateKey) and isinstance(key.curve, ec.SECP256R1):
        return key
    if isinstance(key, rsa.RSAPrivateKey) and key.key_size >= _KEY_BITS_MIN:
        return key
    return None


def _public(key: Private) -> dict[str, str]:
    """What makes a public key, and nothing else (RFC 7638, 3.2)."""
    if isinstance(key, rsa.RSAPrivateKey):
        rsa_numbers = key.public_key().public_numbers()
        return {"kty": "RSA", "n": _integer(rsa_numbers.n), "e": _integer(rsa_numbers.e)}
    numbers = key.public_key().public_numbers()
    return {"kty": "EC", "crv": "P-256", "x": _integer(numbers.x, 32), "y": _integer(numbers.y, 32)}


def _published(key: Private) -> dict[str, str]:
    return {**_public(key), "use": "sig", "alg": _algorithm(key), "kid": thumbprint(_public(key))}


def thumbprint(public: Mapping[str, str]) -> str:
    """What a key is called (RFC 7638). ``public``: the members that make it, and no others."""
    return _encoded(hashlib.sha256(_json(public)).digest())


def _algorithm(key: Private) -> str:
    return "RS256" if isinstance(key, rsa.RSAPrivateKey) else "ES256"


def _signed(key: Private, claims: Mapping[str, object]) -> str:
    header = {"alg": _algorithm(key), "kid": thumbprint(_public(key)), "typ": "JWT"}
    signing = f"{_encoded(_json(header))}.{_encoded(_json(claims))}".encode()
    if isinstance(key, rsa.RSAPrivateKey):
        signature = key.sign(signing, padding.PKCS1v15(), hashes.SHA256())
    else:
        r, s = decode_dss_signature(key.sign(signing, ec.ECDSA(hashes.SHA256())))
        signature = r.to_bytes(32, "big") + s.to_bytes(32, "big")
    return f"{signing.decode()}.{_encoded(signature)}"


def _json(value: Mapping[str, object]) -> bytes:
    """Sorted and without spaces, as RFC 7638 has it."""
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


def _integer(value: int, size: int = 0) -> str:
    return _encoded(value.to_bytes(size or (value.bit_length() + 7) // 8, "big"))


def _encoded(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _ours(name: str) -> None:
    if not _NAME.fullmatch(name):
        raise IssuerError("the name is none that Leasehold gives", hint=_DEFECT)


def issuer_url(text: str) -> str:
    """``https://HOST[:PORT][/PATH]`` as verifiers compare it, so without a slash at its end; ``Wrong`` otherwise."""
    hint = "write https://HOST/PATH, where the documents will be served"
    try:
        parts = urlsplit(text)
        host, _ = parts.hostname or "", parts.port
    except ValueError:
        raise Wrong("expected a URL, found something else", hint) from None
    if parts.scheme != "https" or not _HOST.fullmatch(host) or "@" in parts.netloc or not text.isprintable():
        raise Wrong("expected the https:// address of the issuer, found something else", hint)
    if not _PATH.fullmatch(parts.path) or text != f"https://{parts.netloc}{parts.path}":
        raise Wrong("expected a URL without query, fragment and slash at its end, found something else", hint)
    return text


def subject(text: str) -> str:
    """A fixed text, with ``{task}`` where the task's name is to be; ``Wrong`` for anything else."""
    if not _SUBJECT.fullmatch(text.replace("{task}", "task", 1)):
        raise Wrong("expected a subject, found something else", "such as agents:acme, or agents:acme:{task}")
    return text
