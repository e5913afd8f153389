"""Pieces of Envoy's messages that listeners, clusters and streams have in common."""

from __future__ import annotations

from collections.abc import Sequence

from envoy.config.accesslog.v3.accesslog_pb2 import AccessLog
from envoy.config.core.v3 import address_pb2, config_source_pb2, grpc_service_pb2
from envoy.config.endpoint.v3 import endpoint_components_pb2, endpoint_pb2
from envoy.extensions.access_loggers.grpc.v3 import als_pb2
from envoy.extensions.access_loggers.open_telemetry.v3 import logs_service_pb2
from envoy.extensions.filters.network.set_filter_state.v3 import set_filter_state_pb2
from envoy.extensions.transport_sockets.tls.v3 import common_pb2, tls_pb2
from envoy.type.matcher.v3 import string_pb2
from google.protobuf.any_pb2 import Any as AnyProto
from google.protobuf.message import Message

from leasehold.node.egress import usage
from leasehold.node.egress.model import BROKER_CLUSTER, Destination, Leaf

LOG_NAME = "leasehold"
AUTHZ_TIMEOUT_S = 330


def pack(message: Message) -> AnyProto:
    """Wrap a message in ``Any``."""
    packed = AnyProto()
    packed.Pack(message, deterministic=True)
    return packed


def ads() -> config_source_pb2.ConfigSource:
    return config_source_pb2.ConfigSource(ads={}, resource_api_version=config_source_pb2.V3)


def grpc(timeout_s: int | None = None) -> grpc_service_pb2.GrpcService:
    service = grpc_service_pb2.GrpcService(envoy_grpc={"cluster_name": BROKER_CLUSTER})
    if timeout_s is not None:
        service.timeout.seconds = timeout_s
    return service


def task_state(task: str) -> AnyProto:
    """Mark each connection with its task, so that one stream of access logs serves all compartments."""
    value = {
        "object_key": usage.TASK_STATE,
        "factory_key": "envoy.string",
        "format_string": {"text_format_source": {"inline_string": task}},
    }
    # The listener's filter has no class in xds-protos; the network filter's message has the same field and number.
    same = set_filter_state_pb2.Config(on_new_connection=[value])
    return AnyProto(
        type_url="type.googleapis.com/envoy.extensions.filters.listener.set_filter_state.v3.Config",
        value=same.SerializeToString(deterministic=True),
    )


def access_log(*, tcp: bool = False, stream: bool = False) -> AccessLog:
    """The log of uses: one short text for each, because Envoy's fixed record costs as much as the request itself.

    On a listener (``tcp``) only what no filter chain took; a ``stream`` has a text of its own. One configuration for
    all compartments: Envoy has a stream, a buffer and a timer for each different one.
    """
    config = logs_service_pb2.OpenTelemetryAccessLogConfig(
        common_config=als_pb2.CommonGrpcAccessLogConfig(
            log_name=LOG_NAME,
            grpc_service=grpc(),
            transport_api_version=config_source_pb2.V3,
            buffer_flush_interval={"nanos": 50_000_000},
            buffer_size_bytes={"value": 1 << 17},
        ),
        disable_builtin_labels=True,
        body={"string_value": usage.STREAM_FORMAT if stream else usage.FORMAT},
    )
    log = AccessLog(name="uses", typed_config=pack(config))
    if tcp:
        log.filter.response_flag_filter.flags.append("NR")
    return log


def downstream_tls(leaf: Leaf, protocols: Sequence[str] = ()) -> tls_pb2.DownstreamTlsContext:
    """What a client in the compartment gets to see. ``protocols``: for ALPN."""
    return tls_pb2.DownstreamTlsContext(
        common_tls_context=tls_pb2.CommonTlsContext(
            tls_params={"tls_minimum_protocol_version": common_pb2.TlsParameters.TLSv1_2},
            tls_certificates=[
                common_pb2.TlsCertificate(
                    certificate_chain={"inline_bytes": leaf.chain},
                    private_key={"inline_bytes": leaf.key.reveal()},
                )
            ],
            alpn_protocols=protocols,
        )
    )


def assignment(name: str, port: int, addresses: Sequence[str]) -> endpoint_pb2.ClusterLoadAssignment:
    """The addresses of one name."""
    sockets = [address_pb2.Address(socket_address={"address": a, "port_value": port}) for a in addresses]
    # The first address and the others of the same name: RFC 8305, not load balancing.
    endpoint = endpoint_components_pb2.Endpoint(
        address=sockets[0],
        additional_addresses=[endpoint_components_pb2.Endpoint.AdditionalAddress(address=s) for s in sockets[1:]],
    )
    return endpoint_pb2.ClusterLoadAssignment(cluster_name=name, endpoints=[{"lb_endpoints": [{"endpoint": endpoint}]}])


def upstream_tls(destination: Destination, trusted_ca: str) -> tls_pb2.UpstreamTlsContext:
    """Verified against ``trusted_ca`` (path of a PEM file), for the destination's very name."""
    return tls_pb2.UpstreamTlsContext(
        sni=destination.host,
        common_tls_context=tls_pb2.CommonTlsContext(
            tls_params={"tls_minimum_protocol_version": common_pb2.TlsParameters.TLSv1_2},
            validation_context=common_pb2.CertificateValidationContext(
                trusted_ca={"filename": trusted_ca},
                match_typed_subject_alt_names=[
                    common_pb2.SubjectAltNameMatcher(
                        san_type=common_pb2.SubjectAltNameMatcher.DNS,
                        matcher=string_pb2.StringMatcher(exact=destination.host),
                    )
                ],
            ),
        ),
    )
