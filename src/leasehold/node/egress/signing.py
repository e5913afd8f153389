"""Requests to AWS, signed anew outside of the compartment: the filters of one cluster (Signature Version 4).

What an SDK has signed with a placeholder loses its signature, and Envoy signs it with the leased session. For S3 the
payload stays unsigned (TLS protects it), so a body of any size streams; others want its hash, and Envoy holds it for
that.
"""

from __future__ import annotations

import json
from functools import cache
from importlib.resources import files

from envoy.config.core.v3 import base_pb2
from envoy.extensions.common.aws.v3 import credential_provider_pb2
from envoy.extensions.filters.http.aws_request_signing.v3 import aws_request_signing_pb2
from envoy.extensions.filters.http.lua.v3 import lua_pb2
from envoy.extensions.filters.network.http_connection_manager.v3 import http_connection_manager_pb2 as hcm_pb2
from envoy.type.matcher.v3 import string_pb2

from leasehold.core.errors import EgressError
from leasehold.core.model import InjectAws, InjectHeader
from leasehold.core.secret import Secret
from leasehold.node.egress.replies import error
from leasehold.node.egress.shared import pack

_UNSIGNED = ("s3",)
_NOT_SIGNED = ("user-agent", "accept-encoding", "expect", "transfer-encoding", "connection", "te")
_MALFORMED = error(
    "request-malformed",
    "An upload that is signed in chunks is not well-formed, or not as long as it says.",
    "Let the SDK leave the payload unsigned: then a body of any size streams.",
)


TOKEN_HEADER = InjectHeader(name="x-amz-security-token")
"""The part of a session that is sent. It is injected and scrubbed like any other; the signature comes after it."""


def session_token(session: Secret) -> Secret:
    return Secret(_fields(session)["session_token"].encode())


def signing_filters(inject: InjectAws, session: Secret) -> list[hcm_pb2.HttpFilter]:
    """``session``: JSON with ``access_key_id``, ``secret_access_key`` and ``session_token``."""
    fields = _fields(session)
    inline = credential_provider_pb2.InlineCredentialProvider(
        access_key_id=fields["access_key_id"],
        secret_access_key=fields["secret_access_key"],
        session_token=fields["session_token"],
    )
    signing = aws_request_signing_pb2.AwsRequestSigning(
        service_name=inject.service,
        region=inject.region,
        use_unsigned_payload=inject.service in _UNSIGNED,
        # Whoever is on the way may change these, and SDKs sign none of them either.
        match_excluded_headers=[string_pb2.StringMatcher(exact=name) for name in _NOT_SIGNED],
        credential_provider=credential_provider_pb2.AwsCredentialProvider(inline_credential=inline),
    )
    plain = lua_pb2.Lua(default_source_code=base_pb2.DataSource(inline_string=_script()))
    return [
        hcm_pb2.HttpFilter(name="leasehold.unsigned", typed_config=pack(plain)),
        hcm_pb2.HttpFilter(name="leasehold.signing", typed_config=pack(signing)),
    ]


def _fields(session: Secret) -> dict[str, str]:
    fields: dict[str, str] = json.loads(session.reveal())
    if not {"access_key_id", "secret_access_key", "session_token"} <= fields.keys():
        raise EgressError("the credential is no session of AWS", hint="its issuer should be aws-sts")
    return fields


@cache
def _script() -> str:
    body = "".join(f"\\{byte:03d}" for byte in json.dumps(_MALFORMED).encode())
    return f'local MALFORMED = "{body}"\n' + files(__package__).joinpath("aws.lua").read_text()
