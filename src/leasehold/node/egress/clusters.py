"""One cluster for each credential and destination: dialled, verified and bound to the same name (DESIGN 5)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from envoy.config.cluster.v3 import cluster_pb2
from envoy.config.core.v3 import protocol_pb2
from envoy.extensions.filters.http.upstream_codec.v3 import upstream_codec_pb2
from envoy.extensions.filters.network.http_connection_manager.v3 import http_connection_manager_pb2 as hcm_pb2
from envoy.extensions.transport_sockets.tls.v3 import secret_pb2
from envoy.extensions.upstreams.http.v3 import http_protocol_options_pb2 as http_pb2

from leasehold.core.model import InjectAws
from leasehold.core.secret import Secret
from leasehold.node.egress.model import Upstream
from leasehold.node.egress.scrub import upstream_filters
from leasehold.node.egress.shared import ads, assignment, pack, upstream_tls
from leasehold.node.egress.signing import TOKEN_HEADER, session_token, signing_filters
from leasehold.node.egress.xds import CLUSTER, SECRET, Key

_HTTP_OPTIONS = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"


def secret_name(upstream: Upstream) -> str:
    return f"{upstream.name}/secret"


def release(upstream: Upstream, addresses: Sequence[str], value: Secret | None, trusted_ca: str) -> dict[Key, Any]:
    """The cluster, and the secret (whole header value) that it injects. ``trusted_ca``: path of a PEM file."""
    found: dict[Key, Any] = {(CLUSTER, upstream.name): _cluster(upstream, addresses, value, trusted_ca)}
    if value is not None:
        value = session_token(value) if isinstance(upstream.inject, InjectAws) else value
        name = secret_name(upstream)
        found[(SECRET, name)] = secret_pb2.Secret(
            name=name, generic_secret=secret_pb2.GenericSecret(secret={"inline_bytes": value.reveal()})
        )
    return found


def withdraw(upstream: Upstream) -> dict[Key, None]:
    """What removes the cluster and its secret."""
    return {(CLUSTER, upstream.name): None, (SECRET, secret_name(upstream)): None}


def _cluster(
    upstream: Upstream, addresses: Sequence[str], value: Secret | None, trusted_ca: str
) -> cluster_pb2.Cluster:
    destination = upstream.destination
    cluster = cluster_pb2.Cluster(
        name=upstream.name,
        type=cluster_pb2.Cluster.STATIC,
        connect_timeout={"seconds": 10},
        per_connection_buffer_limit_bytes={"value": 1 << 20},
        load_assignment=assignment(upstream.name, destination.port, addresses),
        typed_extension_protocol_options={_HTTP_OPTIONS: pack(_http_options(upstream, value))},
        circuit_breakers={
            "thresholds": [
                {
                    "max_connections": {"value": 4096},
                    "max_requests": {"value": 8192},
                    "max_pending_requests": {"value": 4096},
                }
            ]
        },
    )
    if destination.scheme == "https":
        cluster.transport_socket.name = "tls"
        cluster.transport_socket.typed_config.CopyFrom(pack(upstream_tls(destination, trusted_ca)))
    return cluster


def _http_options(upstream: Upstream, value: Secret | None) -> http_pb2.HttpProtocolOptions:
    inject = TOKEN_HEADER if isinstance(upstream.inject, InjectAws) else upstream.inject
    filters = upstream_filters(inject, secret_name(upstream), ads())
    if isinstance(upstream.inject, InjectAws) and value is not None:
        filters += signing_filters(upstream.inject, value)
    options = http_pb2.HttpProtocolOptions(
        http_filters=[
            *filters,
            hcm_pb2.HttpFilter(name="codec", typed_config=pack(upstream_codec_pb2.UpstreamCodec())),
        ]
    )
    http1 = protocol_pb2.Http1ProtocolOptions()
    if upstream.websocket or upstream.destination.scheme == "http":
        options.explicit_http_config.http_protocol_options.CopyFrom(http1)
        return options
    http2 = protocol_pb2.Http2ProtocolOptions(
        initial_stream_window_size={"value": 1 << 20}, initial_connection_window_size={"value": 1 << 23}
    )
    options.auto_config.http_protocol_options.CopyFrom(http1)
    options.auto_config.http2_protocol_options.CopyFrom(http2)
    return options
