"""Listeners of a compartment: who may connect, by which name, and what is asked of every request before a rule is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pytest
from envoy.config.core.v3.protocol_pb2 import HttpProtocolOptions
from envoy.config.listener.v3.listener_pb2 import Listener
from envoy.config.route.v3.route_pb2 import RouteConfiguration
from envoy.extensions.access_loggers.open_telemetry.v3.logs_service_pb2 import OpenTelemetryAccessLogConfig
from envoy.extensions.filters.http.ext_authz.v3.ext_authz_pb2 import ExtAuthz
from envoy.extensions.filters.http.router.v3.router_pb2 import Router
from envoy.extensions.filters.network.http_connection_manager.v3.http_connection_manager_pb2 import (
    HttpConnectionManager,
)
from envoy.extensions.filters.network.set_filter_state.v3.set_filter_state_pb2 import Config as FilterState
from envoy.extensions.transport_sockets.tls.v3.common_pb2 import TlsParameters
from envoy.extensions.transport_sockets.tls.v3.tls_pb2 import DownstreamTlsContext

from leasehold.core.limits import LIMITS
from leasehold.core.model import Rule
from leasehold.node.egress import usage
from leasehold.node.egress.model import BROKER_CLUSTER, Listen, State, Upstream, upstreams
from leasehold.node.egress.snapshot import AUTHZ_FILTER, holder, listeners, routes
from leasehold.node.egress.xds import LISTENER, ROUTE
from unit.node.egress.parts import DOCS, FORGE, TASK, ask, leaves, manager_of, one, tables_of, unpacked

_NETNS = Listen(netns="/run/ns/1")
_PORTS = {443: "https", 80: "http"}


def _listeners(found: Sequence[Upstream], listen: Listen = _NETNS, ports: Mapping[int, str] = _PORTS) -> list[Listener]:
    hosts = {upstream.destination.host for upstream in found}
    return list(listeners(TASK, listen, ports, found, leaves(*hosts)).values())


def _managers() -> list[HttpConnectionManager]:
    """One behind TLS, one of plain HTTP."""
    return [manager_of(listener.filter_chains[0]) for listener in _listeners([one()])]


def test_each_port_has_a_listener_inside_the_compartment_and_nowhere_else() -> None:
    secure, plain = _listeners([one()])
    for listener, port in ((secure, 443), (plain, 80)):
        address = listener.address.socket_address
        assert (address.network_namespace_filepath, address.port_value) == ("/run/ns/1", port)
        assert (address.address, address.ipv4_compat) == ("::", True)
        assert listener.name == f"{TASK}/{port}"


def test_without_a_namespace_it_listens_on_sockets_that_only_this_user_may_open() -> None:
    listen = Listen(sockets={443: "/run/s443", 80: "/run/s80"})
    pipes = [listener.address.pipe for listener in _listeners([one()], listen)]
    assert [(pipe.path, pipe.mode) for pipe in pipes] == [("/run/s443", 0o600), ("/run/s80", 0o600)]


def test_a_name_has_a_chain_of_its_own_with_its_certificate_and_its_table() -> None:
    found = upstreams(TASK, [("forge", Rule(host=FORGE)), ("npm", Rule(host=FORGE)), (None, Rule(host=DOCS))])
    secure = _listeners(found)[0]
    assert [list(chain.filter_chain_match.server_names) for chain in secure.filter_chains] == [[FORGE], [DOCS]]
    for chain, host in zip(secure.filter_chains, (FORGE, DOCS), strict=True):
        tls = unpacked(chain.transport_socket.typed_config, DownstreamTlsContext).common_tls_context
        (certificate,) = tls.tls_certificates
        assert certificate.certificate_chain.inline_bytes == f"chain of {host}".encode()
        assert certificate.private_key.inline_bytes == f"key of {host}".encode()
        assert tls.tls_params.tls_minimum_protocol_version == TlsParameters.TLSv1_2
        assert chain.filter_chain_match.transport_protocol == "tls"
    assert tables_of(secure) == [f"{TASK}/{FORGE}:443", f"{TASK}/{DOCS}:443"]


def test_a_name_that_nobody_allowed_and_what_is_not_tls_find_no_chain() -> None:
    secure = _listeners([one()])[0]
    assert not secure.HasField("default_filter_chain")
    assert all(chain.filter_chain_match.server_names for chain in secure.filter_chains)
    assert not any("*" in name for chain in secure.filter_chains for name in chain.filter_chain_match.server_names)


def test_names_of_another_port_or_scheme_are_not_served() -> None:
    found = upstreams(
        TASK,
        [
            (None, Rule(host="a.test", port=8443)),
            (None, Rule(host="b.test")),
            (None, Rule(host="c.test", port=80, scheme="http")),
        ],
    )
    first, second, plain = _listeners(found, ports={443: "https", 8443: "https", 80: "http"})
    assert tables_of(first) == [f"{TASK}/b.test:443"]
    assert tables_of(second) == [f"{TASK}/a.test:8443"]
    assert tables_of(plain) == [f"{TASK}/:80"]


def test_no_original_destination_is_ever_looked_for() -> None:
    for listener in _listeners([one()]):
        assert not listener.HasField("use_original_dst")
        names = [filter_.typed_config.type_url.rpartition(".envoy.")[2] for filter_ in listener.listener_filters]
        assert not any("original_dst" in name or "proxy_protocol" in name for name in names)
    filters = [len(listener.listener_filters) for listener in _listeners([one()])]
    assert filters == [2, 1]  # the task's mark; and the name, where there is TLS


def test_each_connection_is_marked_with_its_task_and_not_by_what_it_sends() -> None:
    for listener in _listeners([one()]):
        mark = listener.listener_filters[0].typed_config
        assert mark.type_url.endswith("listener.set_filter_state.v3.Config")
        state = FilterState()
        state.ParseFromString(mark.value)
        (value,) = state.on_new_connection
        assert value.object_key == usage.TASK_STATE
        assert value.format_string.text_format_source.inline_string == TASK


def test_every_table_that_a_listener_reads_is_there_and_each_route_leads_to_an_upstream() -> None:
    rules = [
        ("forge", Rule(host=FORGE)),
        ("npm", Rule(host=FORGE, paths=("/npm",))),
        (None, Rule(host=DOCS, port=8443)),
        (None, Rule(host=DOCS, port=80, scheme="http")),
    ]
    found = upstreams(TASK, rules)
    ports = {443: "https", 8443: "https", 80: "http", 8080: "http"}
    states = dict.fromkeys((upstream.name for upstream in found), State.LIVE)
    tables = routes(TASK, ports, found, states)
    read = [(ROUTE, name) for listener in _listeners(found, ports=ports) for name in tables_of(listener)]
    assert sorted(read) == sorted(tables)
    leads = {r.route.cluster for t in tables.values() for v in t.virtual_hosts for r in v.routes} - {""}
    assert leads == {upstream.name for upstream in found}
    assert not leads & {BROKER_CLUSTER}


@pytest.mark.parametrize("manager", _managers(), ids=["tls", "plain"])
class TestConnectionManager:
    """The same behind TLS and without it."""

    def test_what_is_checked_is_what_is_forwarded(self, manager: HttpConnectionManager) -> None:
        assert manager.normalize_path.value
        assert manager.merge_slashes
        # Servers differ in what an escaped slash is: it stays as it is, and no pattern's wildcard matches it.
        assert manager.path_with_escaped_slashes_action == HttpConnectionManager.KEEP_UNCHANGED
        assert manager.strip_trailing_host_dot
        options = manager.common_http_protocol_options
        assert options.headers_with_underscores_action == HttpProtocolOptions.REJECT_REQUEST

    def test_size_and_number_of_headers_are_limited(self, manager: HttpConnectionManager) -> None:
        assert manager.max_request_headers_kb.value == LIMITS.request_headers_kb_max
        assert manager.common_http_protocol_options.max_headers_count.value == LIMITS.request_headers_max
        assert manager.http2_protocol_options.max_concurrent_streams.value == 256
        assert manager.request_headers_timeout.seconds == 60

    def test_no_upgrade_without_a_rule_for_it(self, manager: HttpConnectionManager) -> None:
        upgrades = {upgrade.upgrade_type: upgrade.enabled.value for upgrade in manager.upgrade_configs}
        assert upgrades == {"websocket": False}
        assert not manager.http2_protocol_options.allow_connect

    def test_the_broker_is_asked_and_its_silence_denies(self, manager: HttpConnectionManager) -> None:
        authz, router = manager.http_filters
        assert (authz.name, router.name) == (AUTHZ_FILTER, "router")
        config = unpacked(authz.typed_config, ExtAuthz)
        assert config.grpc_service.envoy_grpc.cluster_name == BROKER_CLUSTER
        assert config.grpc_service.timeout.seconds == 330  # a person may have to answer
        assert not config.failure_mode_allow
        assert config.status_on_error.code == 503
        assert not config.clear_route_cache  # what was decided on is where it goes
        assert [pattern.exact for pattern in config.allowed_headers.patterns] == [":authority"]
        assert not config.HasField("with_request_body")

    def test_the_upstream_learns_nothing_of_the_proxy(self, manager: HttpConnectionManager) -> None:
        assert manager.skip_xff_append
        assert not manager.use_remote_address.value
        assert not manager.generate_request_id.value
        assert manager.server_header_transformation == HttpConnectionManager.PASS_THROUGH
        assert unpacked(manager.http_filters[1].typed_config, Router).suppress_envoy_headers

    def test_every_request_is_logged(self, manager: HttpConnectionManager) -> None:
        (log,) = manager.access_log
        assert not log.HasField("filter")
        config = unpacked(log.typed_config, OpenTelemetryAccessLogConfig)
        assert config.body.string_value == usage.FORMAT
        assert config.common_config.grpc_service.envoy_grpc.cluster_name == BROKER_CLUSTER

    def test_routes_come_from_the_broker(self, manager: HttpConnectionManager) -> None:
        assert manager.WhichOneof("route_specifier") == "rds"
        assert manager.rds.config_source.WhichOneof("config_source_specifier") == "ads"

    def test_failures_of_envoy_read_like_every_denial(self, manager: HttpConnectionManager) -> None:
        assert len(manager.local_reply_config.mappers) == 5


def test_a_connection_that_no_chain_takes_is_logged_once() -> None:
    for listener in _listeners([one()]):
        (log,) = listener.access_log
        assert list(log.filter.response_flag_filter.flags) == ["NR"]


def test_the_logs_of_all_compartments_are_one_configuration() -> None:
    logs = {
        manager_of(chain).access_log[0].SerializeToString(deterministic=True)
        for task in (TASK, "t2")
        for listener in listeners(task, _NETNS, _PORTS, [one()], leaves(FORGE)).values()
        for chain in listener.filter_chains
    }
    assert len(logs) == 1


def test_the_holder_keeps_the_log_alive_and_lets_nobody_through() -> None:
    (listener,) = holder("/run/holder").values()
    assert holder("/run/holder").keys() == {(LISTENER, "leasehold/holder")}
    assert (listener.address.pipe.path, listener.address.pipe.mode) == ("/run/holder", 0o600)
    manager = manager_of(listener.filter_chains[0])
    table: RouteConfiguration = manager.route_config
    for target, method in (("/", "GET"), ("/x", "POST")):
        answer = ask(table, target, method)
        assert (answer.cluster, answer.status, answer.code) == ("", 403, "host-not-allowed")
    (held,) = manager.access_log
    (used,) = _managers()[0].access_log
    assert held == used


def test_a_leafs_key_is_in_its_listener_only() -> None:
    found = [one()]
    for listener in _listeners(found)[1:]:
        assert b"key of" not in listener.SerializeToString()
    for table in routes(TASK, _PORTS, found, {found[0].name: State.LIVE}).values():
        assert b"key of" not in table.SerializeToString()
    assert b"key of" in _listeners(found)[0].SerializeToString()
