"""Where SDKs of AWS look for a key when none is configured, answered inside the compartment with placeholders.

The instance metadata service (version 2 only: https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/instancedata-data-retrieval.html)
and the endpoint for containers (https://docs.aws.amazon.com/sdkref/latest/guide/feature-container-credentials.html).
Envoy answers by itself; nothing is dialled, and what is signed with a placeholder is signed anew outside.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from envoy.config.core.v3 import base_pb2
from envoy.config.route.v3 import route_components_pb2
from envoy.extensions.filters.http.ext_authz.v3 import ext_authz_pb2

from leasehold.node.egress.shared import pack

ACCESS_KEY = "AKIALEASEHOLDOUTSIDE"
SECRET_KEY = "signed-outside-by-leasehold"  # noqa: S105  # a placeholder
CONTAINER_PATH = "/v2/credentials/leasehold"
_CONTAINER, _INSTANCE = "169.254.170.2", "169.254.169.254"
_TOKEN = "x-aws-ec2-metadata-token"  # noqa: S105  # a header
_ROLES = "/latest/meta-data/iam/security-credentials/"
_ENDS = "2099-12-31T23:59:59Z"
"""A placeholder is never over: what is leased ends outside."""
_KEY = {"AccessKeyId": ACCESS_KEY, "SecretAccessKey": SECRET_KEY, "Token": "leasehold", "Expiration": _ENDS}
_KEY_OF_INSTANCE = {"Code": "Success", "LastUpdated": "2000-01-01T00:00:00Z", "Type": "AWS-HMAC", **_KEY}


def virtual_hosts(region: str, authz_filter: str) -> list[route_components_pb2.VirtualHost]:
    """Both, for a task that has a credential of AWS in that region. ``authz_filter``: which asks nobody here."""

    def answer(
        method: str, path: str, status: int, body: str, *, header: str = "", more: Mapping[str, str] | None = None
    ) -> route_components_pb2.Route:
        headers: list[dict[str, Any]] = [{"name": ":method", "string_match": {"exact": method}}] if method else []
        if header:
            headers.append({"name": header, "present_match": True})
        return route_components_pb2.Route(
            name="deny/metadata" if status >= 400 else "metadata",
            match=route_components_pb2.RouteMatch(
                **({"path": path} if path else {"prefix": "/"}),
                headers=[route_components_pb2.HeaderMatcher(**each) for each in headers],
            ),
            direct_response={"status": status, "body": {"inline_string": body}},
            response_headers_to_add=[
                base_pb2.HeaderValueOption(header={"key": k, "value": v}, append_action="OVERWRITE_IF_EXISTS_OR_ADD")
                for k, v in {"content-type": "text/plain", **(more or {})}.items()
            ],
            typed_per_filter_config={authz_filter: pack(ext_authz_pb2.ExtAuthzPerRoute(disabled=True))},
        )

    lasts = {f"{_TOKEN}-ttl-seconds": "21600"}
    instance = [
        answer("PUT", "/latest/api/token", 200, "leasehold", header=f"{_TOKEN}-ttl-seconds", more=lasts),
        answer("GET", _ROLES, 200, "leasehold", header=_TOKEN),
        answer("GET", f"{_ROLES}leasehold", 200, json.dumps(_KEY_OF_INSTANCE), header=_TOKEN),
        answer("GET", "/latest/meta-data/placement/region", 200, region, header=_TOKEN),
        answer("GET", "/latest/meta-data/placement/availability-zone", 200, f"{region}a", header=_TOKEN),
        answer("", "", 404, "There is no such instance: leasehold answers what SDKs need.", header=_TOKEN),
        answer("", "", 401, "A token is needed: PUT /latest/api/token."),
    ]
    container = [
        answer("GET", CONTAINER_PATH, 200, json.dumps(_KEY), more={"content-type": "application/json"}),
        answer("", "", 404, f"There is {CONTAINER_PATH} and nothing else."),
    ]
    return [
        route_components_pb2.VirtualHost(name=host, domains=[host, f"{host}:80"], routes=routes)
        for host, routes in ((_INSTANCE, instance), (_CONTAINER, container))
    ]
