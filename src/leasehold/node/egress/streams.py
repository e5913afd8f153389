"""Connections that are no HTTP: a listener for each host, and the way behind it when its credential is there.

Each connection asks for one cluster by name. While Envoy does not know it, it asks the broker (on-demand CDS), and the
connection waits: that is the first use (DESIGN 4, step 6). What the cluster leads to is the protocol's own: a pooler
that logs in, the host itself, or a few bytes that say why not. Envoy asks for a name once, so each attempt has its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from envoy.config.cluster.v3 import cluster_pb2
from envoy.config.core.v3 import address_pb2
from envoy.config.endpoint.v3 import endpoint_components_pb2, endpoint_pb2
from envoy.config.listener.v3 import listener_components_pb2, listener_pb2
from envoy.extensions.filters.listener.tls_inspector.v3 import tls_inspector_pb2
from envoy.extensions.filters.network.tcp_proxy.v3 import tcp_proxy_pb2

from leasehold.node.egress.model import Leaf, Listen, Upstream
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
from leasehold.node.egress.usage import ATTEMPT
from leasehold.node.egress.xds import CLUSTER, LISTENER, Key


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
            filter_chains=_chains(task, upstream, leaves[upstream.destination.host]),
        )
        if upstream.destination.scheme == "redis":
            inspector = tls_inspector_pb2.TlsInspector()
            message.listener_filters.add(name="tls", typed_config=pack(inspector))
            message.continue_on_listener_filters_timeout = True
        found[(LISTENER, name)] = message
    return found


def cluster_name(upstream: Upstream, attempt: int) -> str:
    """What the upstream's listener asks for in its ``attempt``."""
    return f"{upstream.name}{ATTEMPT}{attempt}"


def redirected(listener: listener_pb2.Listener, cluster: str) -> listener_pb2.Listener:
    """A listener that asks for another cluster. What is open on it ends when Envoy takes it on."""
    new = listener_pb2.Listener()
    new.CopyFrom(listener)
    for chain in new.filter_chains:
        for each in chain.filters:
            proxy = tcp_proxy_pb2.TcpProxy()
            if each.typed_config.Unpack(proxy):
                proxy.cluster = cluster
                each.typed_config.CopyFrom(pack(proxy))
    return new


def pipe_cluster(name: str, path: str) -> dict[Key, Any]:
    """A cluster at a unix socket of this node."""
    endpoint = endpoint_components_pb2.Endpoint(address=address_pb2.Address(pipe={"path": path}))
    load = endpoint_pb2.ClusterLoadAssignment(cluster_name=name, endpoints=[{"lb_endpoints": [{"endpoint": endpoint}]}])
    return {(CLUSTER, name): _cluster(name, load)}


def direct_cluster(name: str, port: int, addresses: Sequence[str]) -> dict[Key, Any]:
    """A cluster at the host itself: its protocol protects itself."""
    return {(CLUSTER, name): _cluster(name, assignment(name, port, addresses))}


def tls_server(upstream: Upstream, addresses: Sequence[str], trusted_ca: str, path: str) -> dict[Key, Any]:
    """A unix socket at ``path`` that leads to the server, over TLS that is verified for its name."""
    name = _server(upstream)
    cluster = _cluster(name, assignment(name, upstream.destination.port, addresses))
    cluster.transport_socket.name = "tls"
    cluster.transport_socket.typed_config.CopyFrom(pack(upstream_tls(upstream.destination, trusted_ca)))
    proxy = tcp_proxy_pb2.TcpProxy(stat_prefix="server", cluster=name, idle_timeout={"seconds": 0})
    listener = listener_pb2.Listener(
        name=name,
        address=address_pb2.Address(pipe={"path": path, "mode": 0o600}),
        filter_chains=[{"filters": [{"name": "tcp", "typed_config": pack(proxy)}]}],
    )
    return {(CLUSTER, name): cluster, (LISTENER, name): listener}


def withdraw(upstream: Upstream, attempt: int) -> dict[Key, None]:
    """What removes all of an attempt but the compartment's listener."""
    clusters = (cluster_name(upstream, attempt), _server(upstream))
    return {(LISTENER, _server(upstream)): None, **dict.fromkeys((CLUSTER, name) for name in clusters)}


def _server(upstream: Upstream) -> str:
    return f"{upstream.name}/server"


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


def _chains(task: str, upstream: Upstream, leaf: Leaf) -> list[listener_components_pb2.FilterChain]:
    """A Redis client begins with TLS or does not; the others ask for it within their protocol, behind this."""
    scheme = upstream.destination.scheme
    filters = [{"name": "tcp", "typed_config": pack(_proxy(task, upstream))}]
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


def _proxy(task: str, upstream: Upstream) -> tcp_proxy_pb2.TcpProxy:
    return tcp_proxy_pb2.TcpProxy(
        stat_prefix=task,
        cluster=cluster_name(upstream, 0),
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
