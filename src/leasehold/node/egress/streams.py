"""Connections that are no HTTP: a listener for each host, and the way behind it when its credential is there.

Each connection asks for one cluster by name. While Envoy does not know it, it asks the broker (on-demand CDS), and the
connection waits: that is the first use (DESIGN 4, step 6). What the cluster leads to is the protocol's own: a pooler
that logs in, Envoy's Redis filter, the host itself, or a few bytes that say why not.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from envoy.config.cluster.v3 import cluster_pb2
from envoy.config.core.v3 import address_pb2, base_pb2, grpc_service_pb2
from envoy.config.endpoint.v3 import endpoint_components_pb2, endpoint_pb2
from envoy.config.listener.v3 import listener_components_pb2, listener_pb2
from envoy.extensions.filters.listener.tls_inspector.v3 import tls_inspector_pb2
from envoy.extensions.filters.network.redis_proxy.v3 import redis_proxy_pb2
from envoy.extensions.filters.network.tcp_proxy.v3 import tcp_proxy_pb2
from envoy.extensions.transport_sockets.raw_buffer.v3 import raw_buffer_pb2
from envoy.extensions.transport_sockets.starttls.v3 import starttls_pb2
from google.protobuf.any_pb2 import Any as AnyProto
from google.protobuf.struct_pb2 import Struct
from xds.type.v3 import typed_struct_pb2

from leasehold.core.secret import Secret
from leasehold.node.egress.model import BROKER_CLUSTER, Leaf, Listen, Upstream
from leasehold.node.egress.shared import (
    AUTHZ_TIMEOUT_S,
    access_log,
    ads,
    assignment,
    downstream_tls,
    pack,
    task_state,
    upstream_tls,
)
from leasehold.node.egress.xds import CLUSTER, LISTENER, Key

_REDIS_OPTIONS = "envoy.filters.network.redis_proxy"
_POSTGRES = "type.googleapis.com/envoy.extensions.filters.network.postgres_proxy.v3alpha.PostgresProxy"


def listener_name(task: str, upstream: Upstream) -> str:
    """Unlike those for HTTP, it has the host in it."""
    return f"{task}/{upstream.destination.host}:{upstream.destination.port}"


def listeners(task: str, listen: Listen, upstreams: Sequence[Upstream], leaves: Mapping[str, Leaf]) -> dict[Key, Any]:
    """A listener for each host of another protocol, at the address that its name resolves to in the compartment."""
    found: dict[Key, Any] = {}
    for upstream in upstreams:
        if not upstream.destination.is_stream:
            continue
        name = listener_name(task, upstream)
        message = listener_pb2.Listener(
            name=name,
            address=_address(listen, upstream),
            per_connection_buffer_limit_bytes={"value": 1 << 20},
            listener_filters=[{"name": "task", "typed_config": task_state(task)}],
            filter_chains=_chains(upstream, leaves[upstream.destination.host]),
        )
        if upstream.destination.scheme == "redis":
            inspector = tls_inspector_pb2.TlsInspector()
            message.listener_filters.add(name="tls", typed_config=pack(inspector))
            message.continue_on_listener_filters_timeout = True
        found[(LISTENER, name)] = message
    return found


def pipe_cluster(upstream: Upstream, path: str) -> dict[Key, Any]:
    """The upstream's cluster, at a unix socket of this node."""
    endpoint = endpoint_components_pb2.Endpoint(address=address_pb2.Address(pipe={"path": path}))
    load = endpoint_pb2.ClusterLoadAssignment(
        cluster_name=upstream.name, endpoints=[{"lb_endpoints": [{"endpoint": endpoint}]}]
    )
    return {(CLUSTER, upstream.name): _cluster(upstream.name, load)}


def direct_cluster(upstream: Upstream, addresses: Sequence[str]) -> dict[Key, Any]:
    """The upstream's cluster, at the host itself: its protocol protects itself."""
    load = assignment(upstream.name, upstream.destination.port, addresses)
    return {(CLUSTER, upstream.name): _cluster(upstream.name, load)}


def redis_server(
    upstream: Upstream, addresses: Sequence[str], username: str, password: Secret, trusted_ca: str, path: str
) -> dict[Key, Any]:
    """The Redis filter behind a unix socket at ``path``, and the cluster of the server that it logs in to."""
    name = f"{upstream.name}/server"
    cluster = _cluster(name, assignment(name, upstream.destination.port, addresses))
    options = redis_proxy_pb2.RedisProtocolOptions(
        auth_username=base_pb2.DataSource(inline_string=username),
        auth_password=base_pb2.DataSource(inline_string=password.reveal().decode()),
    )
    cluster.typed_extension_protocol_options[_REDIS_OPTIONS].CopyFrom(pack(options))
    cluster.transport_socket.name = "tls"
    cluster.transport_socket.typed_config.CopyFrom(pack(upstream_tls(upstream.destination, trusted_ca)))
    service = grpc_service_pb2.GrpcService(envoy_grpc={"cluster_name": BROKER_CLUSTER}, timeout={"seconds": 10})
    proxy = redis_proxy_pb2.RedisProxy(
        stat_prefix=upstream.name,
        settings={"op_timeout": {"seconds": 3600}, "enable_redirection": False},
        prefix_routes={"catch_all_route": {"cluster": name}},
        # Whatever password a client sends is right: it is not what it is let in with.
        external_auth_provider={"grpc_service": service},
    )
    listener = listener_pb2.Listener(
        name=name,
        address=address_pb2.Address(pipe={"path": path, "mode": 0o600}),
        filter_chains=[{"filters": [{"name": _REDIS_OPTIONS, "typed_config": pack(proxy)}]}],
    )
    return {(CLUSTER, name): cluster, (LISTENER, name): listener}


def withdraw(upstream: Upstream) -> dict[Key, None]:
    """What removes all of it but the compartment's listener."""
    server = f"{upstream.name}/server"
    return {(CLUSTER, upstream.name): None, (CLUSTER, server): None, (LISTENER, server): None}


def _address(listen: Listen, upstream: Upstream) -> address_pb2.Address:
    destination = upstream.destination
    if listen.netns is None:
        return address_pb2.Address(pipe={"path": listen.streams[destination.host, destination.port], "mode": 0o600})
    return address_pb2.Address(
        socket_address={
            "address": listen.addresses[destination.host],
            "port_value": destination.port,
            "network_namespace_filepath": listen.netns,
        }
    )


def _chains(upstream: Upstream, leaf: Leaf) -> list[listener_components_pb2.FilterChain]:
    """Clients with and without TLS are served, each in its protocol's way."""
    scheme = upstream.destination.scheme
    filters = [{"name": "tcp", "typed_config": pack(_proxy(upstream))}]
    if scheme == "postgres":
        config = {"stat_prefix": "postgres", "enable_sql_parsing": False, "downstream_ssl": "ALLOW"}
        starttls = starttls_pb2.StartTlsConfig(
            cleartext_socket_config=raw_buffer_pb2.RawBuffer(), tls_socket_config=downstream_tls(leaf)
        )
        return [
            listener_components_pb2.FilterChain(
                name="postgres",
                transport_socket={"name": "starttls", "typed_config": pack(starttls)},
                filters=[{"name": "postgres", "typed_config": _by_name(_POSTGRES, config)}, *filters],
            )
        ]
    plain = listener_components_pb2.FilterChain(name="plain", filters=filters)
    if scheme != "redis":
        return [plain]
    encrypted = listener_components_pb2.FilterChain(
        name="tls",
        filter_chain_match={"transport_protocol": "tls"},
        transport_socket={"name": "tls", "typed_config": pack(downstream_tls(leaf))},
        filters=filters,
    )
    return [encrypted, plain]


def _proxy(upstream: Upstream) -> tcp_proxy_pb2.TcpProxy:
    return tcp_proxy_pb2.TcpProxy(
        stat_prefix="stream",
        cluster=upstream.name,
        on_demand={"odcds_config": ads(), "timeout": {"seconds": AUTHZ_TIMEOUT_S}},
        idle_timeout={"seconds": 0},
        access_log=[access_log(stream=True)],
        access_log_options={"flush_access_log_on_connected": True},
    )


def _cluster(name: str, load: endpoint_pb2.ClusterLoadAssignment) -> cluster_pb2.Cluster:
    return cluster_pb2.Cluster(
        name=name,
        type=cluster_pb2.Cluster.STATIC,
        connect_timeout={"seconds": 10},
        per_connection_buffer_limit_bytes={"value": 1 << 20},
        load_assignment=load,
    )


def _by_name(type_url: str, config: Mapping[str, Any]) -> AnyProto:
    """A message that has no class here: Envoy reads it by the names of its fields."""
    value = Struct()
    value.update(config)
    return pack(typed_struct_pb2.TypedStruct(type_url=type_url, value=value))
