"""The certificate authority of one compartment: made at its start, gone with it, good for its names only.

Profile of RFC 5280, with critical name constraints (4.2.1.10) on a root and on the one authority below it. Two tiers,
because Java does not apply the constraints of a certificate that it trusts directly. The root's key signs once and is
dropped; the other one stays in this process.
"""

from __future__ import annotations

import datetime
import ipaddress
from collections.abc import Sequence

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import pkcs12
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from leasehold.core.secret import Secret

# Clocks of virtual machines lag behind; a certificate "from the future" would stop the agent.
_BACKDATED = datetime.timedelta(minutes=5)
_NOWHERE = "invalid"
_PEM = serialization.Encoding.PEM
_EVERY_ADDRESS = (ipaddress.ip_network("0.0.0.0/0"), ipaddress.ip_network("::/0"))


class CompartmentCA:
    """Issues leaves for the names of one compartment. ``pem``: the root certificate that the agent's tools trust."""

    def __init__(
        self,
        root: x509.Certificate,
        issuer: x509.Certificate,
        key: ec.EllipticCurvePrivateKey,
        names: frozenset[str],
    ) -> None:
        self._root = root
        self._issuer = issuer
        self._key = key
        self._names = names
        self._leaf_key = ec.generate_private_key(ec.SECP256R1())
        private = self._leaf_key.private_bytes(_PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        self._leaf_key_pem = Secret(private)
        self._issuer_pem = issuer.public_bytes(_PEM)
        self.pem: bytes = root.public_bytes(_PEM)

    @classmethod
    def create(cls, names: Sequence[str], now: datetime.datetime, lifetime_s: int) -> CompartmentCA:
        """A new authority. ``names``: canonical host names; ``now``: aware; ``lifetime_s``: seconds from ``now``."""
        # Without a permitted name every name would be permitted: RFC 2606 keeps one that never exists.
        constraints = x509.NameConstraints(
            permitted_subtrees=[x509.DNSName(name) for name in sorted(set(names)) or [_NOWHERE]],
            excluded_subtrees=[x509.IPAddress(network) for network in _EVERY_ADDRESS],
        )
        until = now + datetime.timedelta(seconds=lifetime_s)
        root_name, issuer_name = _name("Leasehold compartment"), _name("Leasehold compartment issuer")
        root_key, key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))

        def authority(subject: x509.Name, own: ec.EllipticCurvePrivateKey, path_length: int) -> x509.Certificate:
            return (
                _builder(root_name, subject, own, now - _BACKDATED, until)
                .add_extension(x509.BasicConstraints(ca=True, path_length=path_length), critical=True)
                .add_extension(_usage(authority=True), critical=True)
                .add_extension(constraints, critical=True)
                .add_extension(x509.SubjectKeyIdentifier.from_public_key(own.public_key()), critical=False)
                .add_extension(_signed_by(root_key), critical=False)
                .sign(root_key, hashes.SHA256())
            )

        return cls(authority(root_name, root_key, 1), authority(issuer_name, key, 0), key, frozenset(names))

    def leaf(self, name: str) -> tuple[bytes, Secret]:
        """The certificate chain (PEM) and the key (PKCS#8 PEM) for one allowed name; ``ValueError`` for another."""
        if name not in self._names:
            raise ValueError(f"{name} is not a name of this compartment")
        issuer = self._issuer
        valid = (issuer.not_valid_before_utc, issuer.not_valid_after_utc)
        certificate = (
            _builder(issuer.subject, _name(name), self._leaf_key, *valid)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(authority=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
            .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
            .add_extension(_signed_by(self._key), critical=False)
            .sign(self._key, hashes.SHA256())
        )
        return certificate.public_bytes(_PEM) + self._issuer_pem, self._leaf_key_pem

    def truststore(self) -> bytes:
        """A PKCS#12 trust store that Java reads as its default one, which it opens without a password."""
        entry = pkcs12.PKCS12Certificate(self._root, b"leasehold")
        return pkcs12.serialize_java_truststore([entry], serialization.NoEncryption())


def _builder(
    issuer: x509.Name,
    subject: x509.Name,
    key: ec.EllipticCurvePrivateKey,
    since: datetime.datetime,
    until: datetime.datetime,
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .issuer_name(issuer)
        .subject_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(since)
        .not_valid_after(until)
    )


def _name(common_name: str) -> x509.Name:
    # At most 64 characters (ub-common-name); clients look at the alternative name.
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name[:64])])


def _signed_by(key: ec.EllipticCurvePrivateKey) -> x509.AuthorityKeyIdentifier:
    return x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key())


def _usage(*, authority: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not authority,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=authority,
        crl_sign=authority,
        encipher_only=False,
        decipher_only=False,
    )
