"""What the tests of the egress share: upstreams by example, and a reader of route tables that goes as Envoy goes."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from envoy.config.listener.v3.listener_components_pb2 import FilterChain
from envoy.config.listener.v3.listener_pb2 import Listener
from envoy.config.route.v3.route_components_pb2 import HeaderMatcher, Route, RouteMatch
from envoy.config.route.v3.route_pb2 import RouteConfiguration
from envoy.extensions.filters.http.ext_authz.v3.ext_authz_pb2 import ExtAuthzPerRoute
from envoy.extensions.filters.network.http_connection_manager.v3.http_connection_manager_pb2 import (
    HttpConnectionManager,
)
from google.protobuf.any_pb2 import Any as AnyProto

from leasehold.core.model import InjectHeader, Rule
from leasehold.core.secret import Secret
from leasehold.node.egress.model import Leaf, Upstream, upstreams
from leasehold.node.egress.snapshot import AUTHZ_FILTER

TASK = "t1"
FORGE, DOCS = "api.forge.example", "docs.example"
BEARER = InjectHeader(name="Authorization", format="Bearer {secret}")

M = TypeVar("M")


def one(credential: str | None = "forge", **rule: Any) -> Upstream:
    """The one upstream of one rule; with a credential unless ``None`` is given."""
    rule = {"host": FORGE, "inject": BEARER if credential else None} | rule
    (found,) = upstreams(TASK, [(credential, Rule(**rule))])
    return found


def leaves(*hosts: str) -> dict[str, Leaf]:
    """A certificate for each, by which it can be told from the others."""
    return {host: Leaf(chain=f"chain of {host}".encode(), key=Secret(f"key of {host}".encode())) for host in hosts}


def unpacked(packed: AnyProto, kind: type[M]) -> M:
    message: Any = kind()
    assert packed.Unpack(message), f"holds {packed.type_url}"
    return message  # type: ignore[no-any-return]


def manager_of(chain: FilterChain) -> HttpConnectionManager:
    """The chain's connection manager, its only filter."""
    (only,) = chain.filters
    return unpacked(only.typed_config, HttpConnectionManager)


def tables_of(listener: Listener) -> list[str]:
    """Names of the route tables that the chains of a listener read."""
    return [manager_of(chain).rds.route_config_name for chain in listener.filter_chains]


@dataclass(frozen=True, slots=True)
class Answer:
    """What a route does: passes to ``cluster``, having ``asked`` for an upstream first or not, or denies by itself."""

    route: Route

    @property
    def cluster(self) -> str:
        return str(self.route.route.cluster)

    @property
    def status(self) -> int:
        return int(self.route.direct_response.status)

    @property
    def error(self) -> dict[str, str]:
        body: dict[str, dict[str, str]] = json.loads(self.route.direct_response.body.inline_string)
        return body["error"]

    @property
    def code(self) -> str:
        """The code of a denial; empty for what passes."""
        return "" if self.cluster else self.error["code"]

    @property
    def headers(self) -> dict[str, str]:
        return {option.header.key: option.header.value for option in self.route.response_headers_to_add}

    @property
    def asked(self) -> str:
        """The upstream that the broker is asked about before; empty when it is not asked."""
        authz = unpacked(self.route.typed_per_filter_config[AUTHZ_FILTER], ExtAuthzPerRoute)
        assert authz.disabled == (not authz.HasField("check_settings"))
        return str(authz.check_settings.context_extensions["upstream"]) if not authz.disabled else ""


def ask(
    table: RouteConfiguration,
    target: str = "/",
    method: str = "GET",
    host: str = FORGE,
    headers: Iterable[str] = (),
) -> Answer:
    """The answer to a request: the exact domain before ``*``, then the first route that matches, as Envoy chooses."""
    by_domain = {domain: virtual for virtual in table.virtual_hosts for domain in virtual.domains}
    virtual_host = by_domain.get(host, by_domain["*"])
    given = {":method": method, ":path": target} | dict.fromkeys(headers, "x")
    return Answer(next(route for route in virtual_host.routes if _matches(route.match, target, given)))


def _matches(match: RouteMatch, target: str, given: Mapping[str, str]) -> bool:
    path = target.partition("?")[0]
    kind = match.WhichOneof("path_specifier")
    assert kind in ("prefix", "safe_regex")
    there = path.startswith(match.prefix) if kind == "prefix" else _whole(match.safe_regex.regex, path)
    return there and all(_has(header, given) for header in match.headers)


def _has(header: HeaderMatcher, given: Mapping[str, str]) -> bool:
    if header.present_match:
        return header.name in given
    return _whole(header.string_match.safe_regex.regex, given.get(header.name, ""))


def _whole(regex: str, text: str) -> bool:
    # Without a regex nothing would be asked for, and here everything but the empty text refused.
    assert regex
    return re.fullmatch(regex, text, re.DOTALL) is not None
