"""Clusters: one name that is dialled and verified, one credential that is added, and no second try."""

from __future__ import annotations

from typing import Any

import pytest
from envoy.config.cluster.v3.cluster_pb2 import Cluster
from envoy.extensions.filters.http.credential_injector.v3.credential_injector_pb2 import CredentialInjector
from envoy.extensions.http.injected_credentials.generic.v3.generic_pb2 import Generic
from envoy.extensions.transport_sockets.tls.v3.common_pb2 import SubjectAltNameMatcher, TlsParameters
from envoy.extensions.transport_sockets.tls.v3.tls_pb2 import UpstreamTlsContext
from envoy.extensions.upstreams.http.v3.http_protocol_options_pb2 import HttpProtocolOptions

from leasehold.core.model import Rule
from leasehold.core.secret import Secret
from leasehold.node.egress.clusters import release, secret_name, withdraw
from leasehold.node.egress.model import Upstream, upstreams
from leasehold.node.egress.xds import CLUSTER, SECRET, Key
from unit.node.egress.parts import BEARER, DOCS, FORGE, TASK, one, unpacked

_CA = "/etc/ssl/ca.pem"
_VALUE = Secret(b"Bearer made-up-value")


def _cluster(upstream: Upstream, *addresses: str) -> Cluster:
    value = _VALUE if upstream.credential else None
    found: Cluster = release(upstream, addresses or ("192.0.2.1",), value, _CA)[(CLUSTER, upstream.name)]
    return found


def _http(cluster: Cluster) -> HttpProtocolOptions:
    (options,) = cluster.typed_extension_protocol_options.values()
    return unpacked(options, HttpProtocolOptions)


def _dialled(cluster: Cluster) -> list[tuple[str, int]]:
    assignment = cluster.load_assignment
    assert assignment.cluster_name == cluster.name
    ((endpoint,),) = [[lb.endpoint for lb in locality.lb_endpoints] for locality in assignment.endpoints]
    first = [endpoint.address.socket_address]
    found = first + [more.address.socket_address for more in endpoint.additional_addresses]
    return [(address.address, address.port_value) for address in found]


def test_only_the_addresses_that_were_released_are_dialled_in_their_order() -> None:
    cluster = _cluster(one(port=8443), "192.0.2.1", "2001:db8::1", "192.0.2.2")
    assert cluster.type == Cluster.STATIC
    assert _dialled(cluster) == [("192.0.2.1", 8443), ("2001:db8::1", 8443), ("192.0.2.2", 8443)]
    assert _dialled(_cluster(one(), "192.0.2.9")) == [("192.0.2.9", 443)]


def test_where_a_request_goes_is_not_the_requests_choice() -> None:
    for upstream in (one(), one(None, host=DOCS, port=80, scheme="http")):
        cluster = _cluster(upstream)
        assert cluster.WhichOneof("cluster_discovery_type") == "type"
        assert cluster.type not in (Cluster.ORIGINAL_DST, Cluster.LOGICAL_DNS, Cluster.STRICT_DNS)
        assert cluster.WhichOneof("lb_config") is None


def test_the_upstream_is_verified_by_the_name_that_the_credential_is_bound_to() -> None:
    socket = _cluster(one()).transport_socket
    context = unpacked(socket.typed_config, UpstreamTlsContext)
    assert context.sni == FORGE
    common = context.common_tls_context
    assert common.tls_params.tls_minimum_protocol_version == TlsParameters.TLSv1_2
    validation = common.validation_context
    assert validation.trusted_ca.filename == _CA
    (name,) = validation.match_typed_subject_alt_names
    assert name.san_type == SubjectAltNameMatcher.DNS
    assert (name.matcher.WhichOneof("match_pattern"), name.matcher.exact) == ("exact", FORGE)
    assert not validation.allow_expired_certificate
    assert not validation.trust_chain_verification


def test_a_host_of_plain_http_has_no_tls_and_is_given_no_credential() -> None:
    plain = one(None, host=DOCS, port=80, scheme="http")
    assert not _cluster(plain).HasField("transport_socket")
    assert release(plain, ["192.0.2.1"], None, _CA).keys() == {(CLUSTER, plain.name)}


def test_it_is_the_scheme_and_not_the_port_that_asks_for_tls() -> None:
    assert _cluster(one(port=8443)).HasField("transport_socket")
    assert not _cluster(one(None, host=DOCS, port=443, scheme="http")).HasField("transport_socket")


def test_the_secret_is_beside_the_cluster_and_not_in_it() -> None:
    upstream = one()
    found: dict[Key, Any] = release(upstream, ["192.0.2.1"], _VALUE, _CA)
    assert found.keys() == {(CLUSTER, upstream.name), (SECRET, f"{upstream.name}/secret")}
    secret = found[(SECRET, secret_name(upstream))]
    assert secret.name == secret_name(upstream)
    assert secret.generic_secret.secret.inline_bytes == _VALUE.reveal()
    assert _VALUE.reveal() not in found[(CLUSTER, upstream.name)].SerializeToString()


def test_each_credential_at_each_destination_has_its_cluster_which_injects_its_own_secret() -> None:
    rules = [
        (name, Rule(host=host, inject=BEARER)) for name in ("forge", "npm") for host in ("a.test", "b.test", "a.test")
    ]
    found = upstreams(TASK, rules)
    clusters = [_cluster(upstream) for upstream in found]
    assert [cluster.name for cluster in clusters] == [
        f"{TASK}/0/forge/a.test:443",
        f"{TASK}/1/forge/b.test:443",
        f"{TASK}/2/npm/a.test:443",
        f"{TASK}/3/npm/b.test:443",
    ]
    for cluster in clusters:
        injector = unpacked(_http(cluster).http_filters[1].typed_config, CredentialInjector)
        generic = unpacked(injector.credential.typed_config, Generic)
        assert generic.credential.name == f"{cluster.name}/secret"
        assert generic.credential.sds_config.WhichOneof("config_source_specifier") == "ads"


def test_the_credential_is_added_and_scrubbed_last_before_the_wire() -> None:
    names = [http_filter.name for http_filter in _http(_cluster(one())).http_filters]
    assert names == ["leasehold.carriers", "leasehold.injector", "leasehold.scrubber", "codec"]
    alone = [http_filter.name for http_filter in _http(_cluster(one(None, host=DOCS))).http_filters]
    assert alone == ["codec"]


@pytest.mark.parametrize(
    ("rule", "config"),
    [
        ({}, "auto_config"),
        ({"websocket": True}, "explicit_http_config"),
        ({"scheme": "http", "port": 80}, "explicit_http_config"),
    ],
)
def test_http_2_is_agreed_on_in_tls_and_an_upgrade_gets_a_connection_of_http_1(
    rule: dict[str, Any], config: str
) -> None:
    options = _http(_cluster(one(None, **rule)))
    assert options.WhichOneof("upstream_protocol_options") == config
    if config == "explicit_http_config":
        assert options.explicit_http_config.WhichOneof("protocol_config") == "http_protocol_options"
    else:
        assert options.auto_config.HasField("http2_protocol_options")
        assert not options.auto_config.HasField("http3_protocol_options")


def test_a_request_is_tried_once_and_what_waits_is_limited() -> None:
    cluster = _cluster(one())
    assert not _http(cluster).HasField("common_http_protocol_options")
    (threshold,) = cluster.circuit_breakers.thresholds
    assert not threshold.HasField("retry_budget")
    limits = (threshold.max_connections.value, threshold.max_requests.value, threshold.max_pending_requests.value)
    assert limits == (4096, 8192, 4096)
    assert cluster.connect_timeout.seconds == 10


def test_withdrawing_takes_the_cluster_and_the_secret() -> None:
    upstream = one()
    assert withdraw(upstream) == {(CLUSTER, upstream.name): None, (SECRET, secret_name(upstream)): None}
    assert withdraw(upstream).keys() == release(upstream, ["192.0.2.1"], _VALUE, _CA).keys()
