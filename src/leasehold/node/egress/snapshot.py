"""From a compartment to Envoy's resources: listeners, routes, clusters, secrets. Pure: records in, messages out.

One filter chain and one route table for each name, one cluster for each credential and destination (DESIGN 4, step 4).
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from envoy.config.core.v3 import address_pb2, base_pb2, config_source_pb2, protocol_pb2
from envoy.config.listener.v3 import listener_components_pb2, listener_pb2
from envoy.config.route.v3 import route_components_pb2, route_pb2
from envoy.extensions.filters.http.ext_authz.v3 import ext_authz_pb2
from envoy.extensions.filters.http.router.v3 import router_pb2
from envoy.extensions.filters.listener.tls_inspector.v3 import tls_inspector_pb2
from envoy.extensions.filters.network.http_connection_manager.v3 import http_connection_manager_pb2 as hcm_pb2
from envoy.type.matcher.v3 import regex_pb2, string_pb2

from leasehold.core.limits import LIMITS
from leasehold.core.model import DEFAULT_METHODS, InjectAws, Rule
from leasehold.core.paths import to_regex
from leasehold.node.egress import metadata, streams
from leasehold.node.egress.model import Destination, Leaf, Listen, State, Upstream
from leasehold.node.egress.replies import denial_body, local_replies
from leasehold.node.egress.shared import AUTHZ_TIMEOUT_S, access_log, ads, downstream_tls, grpc, pack, task_state
from leasehold.node.egress.xds import LISTENER, ROUTE, Key

AUTHZ_FILTER = "leasehold.authz"
STREAM_IDLE_S = 4000
_METADATA_PORT = 80
OVERRIDE_HEADERS = (
    "x-http-method-override",
    "x-http-method",
    "x-method-override",
    "x-original-url",
    "x-rewrite-url",
)


def listener_name(task: str, port: int) -> str:
    return f"{task}/{port}"


def route_name(task: str, destination: Destination | None, port: int) -> str:
    """The route table of one name; ``None`` is the plain HTTP table of a port."""
    return f"{task}/{destination.host}:{port}" if destination else f"{task}/:{port}"


def listeners(
    task: str,
    listen: Listen,
    ports: Mapping[int, str],
    upstreams: Sequence[Upstream],
    leaves: Mapping[str, Leaf],
) -> dict[Key, Any]:
    """The listeners of a compartment. ``ports``: port to scheme; ``leaves``: host to certificate."""
    found: dict[Key, Any] = {}
    for port, scheme in ports.items():
        name = listener_name(task, port)
        message = listener_pb2.Listener(
            name=name,
            address=_address(listen, port),
            per_connection_buffer_limit_bytes={"value": 1 << 20},
            bind_to_port={"value": True},
            access_log=[access_log(tcp=True)],
            listener_filters=[{"name": "task", "typed_config": task_state(task)}],
        )
        if scheme == "https":
            message.listener_filters.add(
                name="tls",
                typed_config=pack(tls_inspector_pb2.TlsInspector(enable_ja3_fingerprinting={"value": False})),
            )
            for destination in sorted({u.destination for u in upstreams}, key=lambda d: d.host):
                if (destination.scheme, destination.port) == ("https", port):
                    message.filter_chains.append(_tls_chain(task, destination, leaves[destination.host]))
        else:
            message.filter_chains.append(_plain_chain(task, port))
        found[(LISTENER, name)] = message
    return found | streams.listeners(task, listen, upstreams, leaves)


def holder(socket: str) -> dict[Key, Any]:
    """A listener that nobody can use. Envoy drops an access log's buffer with its last user, and a compartment that
    has just closed has uses in it: this one keeps the log alive."""
    manager = hcm_pb2.HttpConnectionManager(
        stat_prefix="holder",
        route_config=_table("holder", [_unknown_host("host-not-allowed", 403)]),
        http_filters=[hcm_pb2.HttpFilter(name="router", typed_config=pack(router_pb2.Router()))],
        access_log=[access_log()],
    )
    name = "leasehold/holder"
    message = listener_pb2.Listener(
        name=name,
        address=address_pb2.Address(pipe={"path": socket, "mode": 0o600}),
        access_log=[access_log(tcp=True)],
        filter_chains=[listener_components_pb2.FilterChain(filters=[{"name": "http", "typed_config": pack(manager)}])],
    )
    return {(LISTENER, name): message}


def cut(listeners: Mapping[Key, Any], over: Sequence[Upstream]) -> dict[Key, Any]:
    """The listeners with the filter chains of these upstreams changed: Envoy cuts what is open on a changed chain.

    A chain serves one name (all names of a port without TLS), so other credentials' streams there are cut too.
    """
    found: dict[Key, Any] = {}
    hosts = {(u.destination.port, u.destination.host) for u in over}
    for key, old in listeners.items():
        new = listener_pb2.Listener()
        new.CopyFrom(old)
        where = key[1].rpartition("/")[2]
        for chain in new.filter_chains:
            names = list(chain.filter_chain_match.server_names)
            if any(str(at) == where and (not names or host in names) for at, host in hosts):
                chain.name += "'"
                found[key] = new
    return found


def routes(
    task: str, ports: Mapping[int, str], upstreams: Sequence[Upstream], states: Mapping[str, State]
) -> dict[Key, Any]:
    """The route tables of these ports. ``upstreams``: all of the compartment's; ``states``: upstream name to state."""
    found: dict[Key, Any] = {}
    for port, scheme in ports.items():
        here = [u for u in upstreams if (u.destination.scheme, u.destination.port) == (scheme, port)]
        hosts: dict[Destination, list[Upstream]] = {}
        for upstream in here:
            hosts.setdefault(upstream.destination, []).append(upstream)
        virtual_hosts = [_virtual_host(d, members, states) for d, members in hosts.items()]
        if scheme == "http":
            name = route_name(task, None, port)
            if port == _METADATA_PORT:
                virtual_hosts += _metadata(upstreams)
            found[(ROUTE, name)] = _table(name, [*virtual_hosts, _unknown_host("host-not-allowed", 403)])
            continue
        for destination, virtual_host in zip(hosts, virtual_hosts, strict=True):
            name = route_name(task, destination, port)
            found[(ROUTE, name)] = _table(name, [virtual_host, _unknown_host("misdirected-request", 421)])
    return found


def _metadata(upstreams: Sequence[Upstream]) -> list[route_components_pb2.VirtualHost]:
    """For SDKs of AWS; nothing where no credential is one of AWS."""
    regions = [upstream.inject.region for upstream in upstreams if isinstance(upstream.inject, InjectAws)]
    return metadata.virtual_hosts(regions[0], AUTHZ_FILTER) if regions else []


def _table(name: str, virtual_hosts: Sequence[route_components_pb2.VirtualHost]) -> route_pb2.RouteConfiguration:
    return route_pb2.RouteConfiguration(
        name=name,
        virtual_hosts=virtual_hosts,
        validate_clusters={"value": False},
        ignore_port_in_host_matching=False,
    )


def _address(listen: Listen, port: int) -> address_pb2.Address:
    if listen.netns is None:
        return address_pb2.Address(pipe={"path": listen.sockets[port], "mode": 0o600})
    return address_pb2.Address(
        socket_address={
            "address": "::",
            "ipv4_compat": True,
            "port_value": port,
            "network_namespace_filepath": listen.netns,
        }
    )


def _tls_chain(task: str, destination: Destination, leaf: Leaf) -> listener_components_pb2.FilterChain:
    return listener_components_pb2.FilterChain(
        name=destination.host,
        filter_chain_match={"server_names": [destination.host], "transport_protocol": "tls"},
        transport_socket={"name": "tls", "typed_config": pack(downstream_tls(leaf, ("h2", "http/1.1")))},
        filters=[_connection_manager(task, route_name(task, destination, destination.port))],
    )


def _plain_chain(task: str, port: int) -> listener_components_pb2.FilterChain:
    return listener_components_pb2.FilterChain(
        name="plain", filters=[_connection_manager(task, route_name(task, None, port))]
    )


def _connection_manager(task: str, table: str) -> listener_components_pb2.Filter:
    manager = hcm_pb2.HttpConnectionManager(
        stat_prefix=task,
        codec_type=hcm_pb2.HttpConnectionManager.AUTO,
        rds={"config_source": ads(), "route_config_name": table},
        http_filters=[
            hcm_pb2.HttpFilter(name=AUTHZ_FILTER, typed_config=pack(_authz())),
            hcm_pb2.HttpFilter(name="router", typed_config=pack(router_pb2.Router(suppress_envoy_headers=True))),
        ],
        common_http_protocol_options=protocol_pb2.HttpProtocolOptions(
            idle_timeout={"seconds": STREAM_IDLE_S},
            max_headers_count={"value": LIMITS.request_headers_max},
            headers_with_underscores_action=protocol_pb2.HttpProtocolOptions.REJECT_REQUEST,
        ),
        http2_protocol_options=protocol_pb2.Http2ProtocolOptions(
            max_concurrent_streams={"value": 256},
            initial_stream_window_size={"value": 1 << 20},
            initial_connection_window_size={"value": 1 << 23},
        ),
        max_request_headers_kb={"value": LIMITS.request_headers_kb_max},
        request_headers_timeout={"seconds": 60},
        stream_idle_timeout={"seconds": STREAM_IDLE_S},
        delayed_close_timeout={"seconds": 1},
        server_header_transformation=hcm_pb2.HttpConnectionManager.PASS_THROUGH,
        normalize_path={"value": True},
        merge_slashes=True,
        path_with_escaped_slashes_action=hcm_pb2.HttpConnectionManager.KEEP_UNCHANGED,
        strip_trailing_host_dot=True,
        use_remote_address={"value": False},
        skip_xff_append=True,
        generate_request_id={"value": False},
        upgrade_configs=[
            hcm_pb2.HttpConnectionManager.UpgradeConfig(upgrade_type="websocket", enabled={"value": False})
        ],
        local_reply_config=local_replies(),
        access_log=[access_log()],
    )
    return listener_components_pb2.Filter(name="http", typed_config=pack(manager))


def _authz() -> ext_authz_pb2.ExtAuthz:
    return ext_authz_pb2.ExtAuthz(
        grpc_service=grpc(AUTHZ_TIMEOUT_S),
        transport_api_version=config_source_pb2.V3,
        failure_mode_allow=False,
        status_on_error={"code": 503},
        clear_route_cache=False,
        allowed_headers={"patterns": [string_pb2.StringMatcher(exact=":authority")]},
    )


def _unknown_host(code: str, status: int) -> route_components_pb2.VirtualHost:
    return route_components_pb2.VirtualHost(name="other", domains=["*"], routes=[_deny("deny/host", code, status)])


def _virtual_host(
    destination: Destination, upstreams: Sequence[Upstream], states: Mapping[str, State]
) -> route_components_pb2.VirtualHost:
    """Routes in the order: what is refused whoever asks, the rules, the denial that says what the rules are."""
    found = [
        _deny("deny/override", "method-override", 403, headers=[{"name": name, "present_match": True}])
        for name in OVERRIDE_HEADERS
    ]
    for upstream in upstreams:
        for rule in upstream.rules:
            found += [_allow(upstream, states[upstream.name], rule, match) for match in _matches(rule)]
    rules = [rule for upstream in upstreams for rule in upstream.rules]
    found.append(_deny("deny/rule", "rule-not-allowed", 403, destination=destination, rules=rules))
    domains = [destination.host, f"{destination.host}:{destination.port}"]
    return route_components_pb2.VirtualHost(name=destination.host, domains=domains, routes=found)


def _deny(
    name: str,
    code: str,
    status: int,
    *,
    headers: Sequence[Mapping[str, Any]] = (),
    destination: Destination | None = None,
    rules: Sequence[Rule] = (),
) -> route_components_pb2.Route:
    return route_components_pb2.Route(
        name=name,
        match=route_components_pb2.RouteMatch(
            prefix="/", headers=[route_components_pb2.HeaderMatcher(**h) for h in headers]
        ),
        direct_response={
            "status": status,
            "body": {"inline_string": json.dumps(denial_body(code, destination, rules))},
        },
        response_headers_to_add=[
            base_pb2.HeaderValueOption(header={"key": k, "value": v}, append_action="OVERWRITE_IF_EXISTS_OR_ADD")
            for k, v in (("content-type", "application/json"), ("x-leasehold-decision", f"deny; code={code}"))
        ],
        typed_per_filter_config={AUTHZ_FILTER: pack(ext_authz_pb2.ExtAuthzPerRoute(disabled=True))},
    )


def _matches(rule: Rule) -> list[route_components_pb2.RouteMatch]:
    """The matches of one rule, over the canonical path and the method."""
    if rule.git is not None:
        repository = f"/{re.escape(rule.git.repository.removesuffix('.git'))}(?:\\.git)?"
        services = ["git-upload-pack"] + (["git-receive-pack"] if rule.git.access == "write" else [])
        # The whole :path is matched: a second `service` parameter must not tell the server something else.
        return [
            match
            for service in services
            for match in (
                _match(("GET",), target=f"{repository}/info/refs\\?service={service}"),
                _match(("POST",), target=f"{repository}/{service}"),
            )
        ]
    methods = rule.methods or DEFAULT_METHODS
    if rule.websocket:
        methods = ("GET",)
    if not rule.paths:
        return [_match(methods)]
    return [_match(methods, path=to_regex(pattern)) for pattern in rule.paths]


def _match(
    methods: Sequence[str], *, path: str | None = None, target: str | None = None
) -> route_components_pb2.RouteMatch:
    headers = [_regex_header(":method", "|".join(methods))]
    if target is not None:
        headers.append(_regex_header(":path", target))
    where = {"safe_regex": regex_pb2.RegexMatcher(regex=path)} if path is not None else {"prefix": "/"}
    return route_components_pb2.RouteMatch(headers=headers, **where)


def _regex_header(name: str, regex: str) -> route_components_pb2.HeaderMatcher:
    return route_components_pb2.HeaderMatcher(
        name=name, string_match=string_pb2.StringMatcher(safe_regex=regex_pb2.RegexMatcher(regex=regex))
    )


def _allow(
    upstream: Upstream, state: State, rule: Rule, match: route_components_pb2.RouteMatch
) -> route_components_pb2.Route:
    name = f"allow/{upstream.name}"
    if state is State.CLOSED:
        closed = _deny(f"closed/{upstream.name}", "access-ended", 403)
        closed.match.CopyFrom(match)
        return closed
    action = route_components_pb2.RouteAction(
        cluster=upstream.name,
        timeout={"seconds": 0},
        host_rewrite_literal=upstream.destination.authority,
        cluster_not_found_response_code=route_components_pb2.RouteAction.SERVICE_UNAVAILABLE,
    )
    if upstream.websocket:
        action.upgrade_configs.add(upgrade_type="websocket", enabled={"value": True})
    if state is State.LIVE:
        authz = ext_authz_pb2.ExtAuthzPerRoute(disabled=True)
    else:
        authz = ext_authz_pb2.ExtAuthzPerRoute(check_settings={"context_extensions": {"upstream": upstream.name}})
    return route_components_pb2.Route(
        name=name,
        match=match,
        route=action,
        # A cookie that a credentialed endpoint sets is a credential of its own, minted by ours.
        response_headers_to_remove=("set-cookie", "set-cookie2") if upstream.credential else (),
        typed_per_filter_config={AUTHZ_FILTER: pack(authz)},
    )
