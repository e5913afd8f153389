"""The authority of one compartment, and what a verifier that honours name constraints makes of its leaves."""

from __future__ import annotations

import datetime
import ipaddress

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_pem_private_key, pkcs12
from cryptography.x509.oid import ExtendedKeyUsageOID
from cryptography.x509.verification import PolicyBuilder, Store, VerificationError

from leasehold.node.egress.certificates import CompartmentCA

_NOW = datetime.datetime(2026, 1, 1, 12, tzinfo=datetime.UTC)
_NAMES = ["b.test", "api.forge.example"]
_LIFETIME_S = 3600


@pytest.fixture(scope="module")
def authority() -> CompartmentCA:
    return CompartmentCA.create(_NAMES, _NOW, _LIFETIME_S)


def _chain(authority: CompartmentCA, name: str) -> list[x509.Certificate]:
    return x509.load_pem_x509_certificates(authority.leaf(name)[0])


def _root(authority: CompartmentCA) -> x509.Certificate:
    return x509.load_pem_x509_certificate(authority.pem)


def _constraints(certificate: x509.Certificate) -> x509.Extension[x509.NameConstraints]:
    return certificate.extensions.get_extension_for_class(x509.NameConstraints)


@pytest.mark.parametrize("name", _NAMES)
def test_a_leaf_is_trusted_for_its_name_and_for_no_other(authority: CompartmentCA, name: str) -> None:
    leaf, issuer = _chain(authority, name)
    trusted = PolicyBuilder().store(Store([_root(authority)])).time(_NOW)
    verified = trusted.build_server_verifier(x509.DNSName(name)).verify(leaf, [issuer])
    assert verified == [leaf, issuer, _root(authority)]
    with pytest.raises(VerificationError):
        trusted.build_server_verifier(x509.DNSName("evil.test")).verify(leaf, [issuer])


@pytest.mark.parametrize("name", ["evil.test", "sub.b.test", "B.test", "b.test.", "*.b.test", ""])
def test_no_leaf_is_made_for_a_name_of_somebody_else(authority: CompartmentCA, name: str) -> None:
    with pytest.raises(ValueError, match="is not a name of this compartment"):
        authority.leaf(name)


def test_both_authorities_are_constrained_to_the_names_and_to_no_address(authority: CompartmentCA) -> None:
    for certificate in (_root(authority), _chain(authority, "b.test")[1]):
        constraints = _constraints(certificate)
        assert constraints.critical
        assert constraints.value.permitted_subtrees == [x509.DNSName(name) for name in sorted(_NAMES)]
        assert constraints.value.excluded_subtrees == [
            x509.IPAddress(ipaddress.ip_network("0.0.0.0/0")),
            x509.IPAddress(ipaddress.ip_network("::/0")),
        ]


def test_without_a_name_only_one_is_permitted_that_never_exists() -> None:
    authority = CompartmentCA.create([], _NOW, _LIFETIME_S)
    assert _constraints(_root(authority)).value.permitted_subtrees == [x509.DNSName("invalid")]
    with pytest.raises(ValueError, match="invalid is not a name"):
        authority.leaf("invalid")


def test_only_the_authorities_can_sign_and_the_lower_one_only_leaves(authority: CompartmentCA) -> None:
    leaf, issuer = _chain(authority, "b.test")
    basics = [c.extensions.get_extension_for_class(x509.BasicConstraints) for c in (_root(authority), issuer, leaf)]
    assert [(b.value.ca, b.value.path_length, b.critical) for b in basics] == [
        (True, 1, True),
        (True, 0, True),
        (False, None, True),
    ]
    usages = [c.extensions.get_extension_for_class(x509.KeyUsage).value for c in (_root(authority), issuer, leaf)]
    assert [(u.key_cert_sign, u.crl_sign, u.digital_signature) for u in usages] == [
        (True, True, False),
        (True, True, False),
        (False, False, True),
    ]
    extended = leaf.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(extended) == [ExtendedKeyUsageOID.SERVER_AUTH]


def test_everything_ends_with_the_compartment_and_began_before_a_clock_that_lags(authority: CompartmentCA) -> None:
    for certificate in (_root(authority), *_chain(authority, "b.test")):
        assert certificate.not_valid_before_utc == _NOW - datetime.timedelta(minutes=5)
        assert certificate.not_valid_after_utc == _NOW + datetime.timedelta(seconds=_LIFETIME_S)


def test_the_key_is_the_leafs_and_not_an_authoritys(authority: CompartmentCA) -> None:
    leaf, issuer = _chain(authority, "b.test")
    _, key = authority.leaf("b.test")
    own = load_pem_private_key(key.reveal(), None).public_key()
    assert own == leaf.public_key()
    assert own not in (issuer.public_key(), _root(authority).public_key())


def test_a_name_too_long_for_a_common_name_stands_in_the_alternative_name() -> None:
    name = ".".join(["a" * 40, "b" * 40, "test"])
    leaf = _chain(CompartmentCA.create([name], _NOW, _LIFETIME_S), name)[0]
    alternative = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert alternative.get_values_for_type(x509.DNSName) == [name]
    assert leaf.subject.rfc4514_string() == f"CN={name[:64]}"


def test_two_compartments_do_not_trust_each_other(authority: CompartmentCA) -> None:
    other = CompartmentCA.create(_NAMES, _NOW, _LIFETIME_S)
    leaf, issuer = _chain(other, "b.test")
    trusted = PolicyBuilder().store(Store([_root(authority)])).time(_NOW)
    with pytest.raises(VerificationError):
        trusted.build_server_verifier(x509.DNSName("b.test")).verify(leaf, [issuer])


def test_java_opens_its_trust_store_without_a_password(authority: CompartmentCA) -> None:
    store = pkcs12.load_pkcs12(authority.truststore(), None)
    assert store.key is None
    assert [entry.certificate for entry in store.additional_certs] == [_root(authority)]
    # Java takes only those for trusted that say so (Oracle's trustedKeyUsage).
    assert bytes.fromhex("060c6086480186f966adca7b0101") in authority.truststore()


def test_what_the_agent_gets_holds_no_key(authority: CompartmentCA) -> None:
    assert authority.pem.count(b"-----BEGIN ") == 1
    assert authority.leaf("b.test")[0].count(b"-----BEGIN CERTIFICATE-----") == 2
    assert b"PRIVATE" not in authority.pem + authority.leaf("b.test")[0]
