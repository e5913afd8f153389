"""What stands between a cluster and its upstream: the agent's own credentials out, ours in, and never back (step 7).

Filters, in the order of the request: ``header_mutation`` takes every carrier of a credential off, the injector sets
ours, ``scrubber.lua`` finishes the request and reads the response. ``docs/scrubbing.md`` says what is covered and why.
"""

from __future__ import annotations

import base64
import json
import re
from pathlib import Path

from envoy.config.common.mutation_rules.v3 import mutation_rules_pb2
from envoy.config.core.v3 import base_pb2, config_source_pb2, extension_pb2
from envoy.extensions.filters.http.credential_injector.v3 import credential_injector_pb2
from envoy.extensions.filters.http.header_mutation.v3 import header_mutation_pb2
from envoy.extensions.filters.http.lua.v3 import lua_pb2
from envoy.extensions.filters.network.http_connection_manager.v3 import http_connection_manager_pb2 as hcm_pb2
from envoy.extensions.http.injected_credentials.generic.v3 import generic_pb2
from envoy.extensions.transport_sockets.tls.v3 import secret_pb2
from envoy.type.matcher.v3 import regex_pb2, string_pb2
from google.protobuf.any_pb2 import Any as AnyProto
from google.protobuf.message import Message

from leasehold.core.errors import SecretUnavailable
from leasehold.core.model import InjectBasic, InjectHeader, InjectQuery, InjectValue
from leasehold.core.secret import Secret

PRIVATE_HEADER = "x-leasehold-credential"
"""Carries a credential from the injector to the scrubber when it is delivered in the query; never leaves Envoy."""

CREDENTIAL_HEADERS = (
    "api-key",
    "apikey",
    "authorization",
    "circle-token",
    "cookie",
    "cookie2",
    "dd-api-key",
    "dd-application-key",
    "fastly-key",
    "job-token",
    "ocp-apim-subscription-key",
    "private-token",
    "proxy-authorization",
    "x-access-token",
    "x-algolia-api-key",
    "x-amz-security-token",
    "x-api-key",
    "x-api-token",
    "x-apikey",
    "x-auth-key",
    "x-auth-token",
    "x-authorization",
    "x-client-cert",
    "x-consul-token",
    "x-figma-token",
    "x-forwarded-access-token",
    "x-forwarded-authorization",
    "x-forwarded-client-cert",
    "x-functions-key",
    "x-gitlab-token",
    "x-goog-api-key",
    "x-goog-iam-authorization-token",
    "x-goog-iap-jwt-assertion",
    "x-honeycomb-team",
    "x-jfrog-art-api",
    "x-ms-token-aad-access-token",
    "x-nomad-token",
    "x-original-authorization",
    "x-rapidapi-key",
    "x-serverless-authorization",
    "x-session-token",
    "x-shopify-access-token",
    "x-subject-token",
    "x-token",
    "x-user-token",
    "x-vault-token",
)
"""Carriers of the agent's own credentials; none of them reaches an endpoint that has a credential of ours."""

# Sliced, compressed or framed by an extension, a body could not be searched: RFC 9110 14.2, 13.1.5; RFC 6455 9.1.
_UNSEARCHABLE = ("range", "if-range", "sec-websocket-extensions")
_ONLY_IDENTITY = (
    ("accept-encoding", base_pb2.HeaderValueOption.OVERWRITE_IF_EXISTS_OR_ADD),
    ("grpc-accept-encoding", base_pb2.HeaderValueOption.OVERWRITE_IF_EXISTS),
)
# A session that our credential opened is another credential; the agent could not send it back here anyway.
MINTED_HEADERS = ("set-cookie", "set-cookie2", "x-subject-token", "x-auth-token", "x-access-token")

_SHORTEST_SECRET = 4
_LONGEST_VALUE = 16_384
_SOURCES = Path(__file__).parent
_LOADER = """
local hooks
local function run(name, handle)
  hooks = hooks or assert(loadfile({script}))({settings})
  hooks[name](handle)
end
function envoy_on_request(handle)
  if pcall(run, "request", handle) then return end
  handle:respond({{[":status"] = "502", ["content-type"] = "application/json",
    ["x-leasehold-decision"] = "error; code=scrubber-failed"}}, {failed})
end
function envoy_on_response(handle) hooks.response(handle) end
"""
_FAILED = {
    "code": "scrubber-failed",
    "message": "The request could not be prepared.",
    "hint": "This is a defect in Leasehold; please report it.",
}


def secret_header_value(inject: InjectValue, secret: Secret) -> Secret:
    """The whole value of the header that is injected for ``inject``.

    ``SecretUnavailable`` when the secret cannot be sent that way: it has a line break, NUL or another control
    character, is not ASCII (but in basic authentication), is shorter than 4 bytes, or makes the value longer than
    16 KiB.
    """
    value = secret.reveal()
    if len(value) < _SHORTEST_SECRET:
        raise SecretUnavailable(
            f"a secret must have at least {_SHORTEST_SECRET} bytes",
            hint="nothing so short can be kept from coming back in answers; use a longer one",
        )
    before, after = _around(inject)
    whole = before + value + after
    if isinstance(inject, InjectBasic):
        whole = b"Basic " + base64.b64encode(inject.username.encode() + b":" + value)
    for text in (value, whole):
        if any((byte < 0x20 and byte != 0x09) or byte == 0x7F for byte in text):
            raise SecretUnavailable(
                "the secret has a line break or another control character",
                hint="store it again without the newline at its end: printf %s … | leasehold secret set NAME",
            )
    if not whole.isascii():
        raise SecretUnavailable("the secret is not ASCII", hint="a header or a query carries ASCII only")
    if whole != whole.strip():
        raise SecretUnavailable(
            "the secret begins or ends with a blank", hint="HTTP takes blanks off both ends of a header"
        )
    if len(whole) > _LONGEST_VALUE:
        raise SecretUnavailable(
            f"the header with the secret is longer than {_LONGEST_VALUE} bytes",
            hint="servers do not take such headers; use a shorter credential",
        )
    return Secret(whole)


def upstream_filters(
    inject: InjectValue | None, secret_name: str, sds_config: config_source_pb2.ConfigSource | None
) -> list[hcm_pb2.HttpFilter]:
    """The filters of one cluster before its codec; none for a cluster without a credential.

    ``secret_name``: the generic secret with :func:`secret_header_value`, got over ``sds_config`` (``None``: it is
    in the bootstrap).
    """
    if inject is None:
        return []
    header = _header(inject)
    generic = generic_pb2.Generic(
        credential=secret_pb2.SdsSecretConfig(name=secret_name, sds_config=sds_config), header=header
    )
    injector = credential_injector_pb2.CredentialInjector(
        overwrite=True,
        allow_request_without_credential=False,
        credential=extension_pb2.TypedExtensionConfig(name="generic", typed_config=_pack(generic)),
    )
    scrubber = lua_pb2.Lua(default_source_code=base_pb2.DataSource(inline_string=_loader(inject, header)))
    return [
        hcm_pb2.HttpFilter(name="leasehold.carriers", typed_config=_pack(_carriers(header))),
        hcm_pb2.HttpFilter(name="leasehold.injector", typed_config=_pack(injector)),
        hcm_pb2.HttpFilter(name="leasehold.scrubber", typed_config=_pack(scrubber)),
    ]


def _header(inject: InjectValue) -> str:
    if isinstance(inject, InjectHeader):
        return inject.name.lower()
    return PRIVATE_HEADER if isinstance(inject, InjectQuery) else "authorization"


def _around(inject: InjectValue) -> tuple[bytes, bytes]:
    """What stands before and after the secret (or, in basic authentication, its base64) in the header's value."""
    if isinstance(inject, InjectBasic):
        return b"Basic ", b""
    if isinstance(inject, InjectQuery):
        return b"", b""
    before, found, after = inject.format.partition("{secret}")
    if not found or "{secret}" in after:
        raise SecretUnavailable(
            f"the format of header {inject.name} does not have {{secret}} once",
            hint='write, for example, format = "Bearer {secret}"',
        )
    return before.encode(), after.encode()


def _carriers(header: str) -> header_mutation_pb2.HeaderMutation:
    removed = dict.fromkeys((*CREDENTIAL_HEADERS, *_UNSEARCHABLE, PRIVATE_HEADER, header))
    # One pattern costs half of what as many lookups do, for each request.
    any_of_them = string_pb2.StringMatcher(safe_regex=regex_pb2.RegexMatcher(regex="|".join(map(re.escape, removed))))
    on_match = mutation_rules_pb2.HeaderMutation.RemoveOnMatch(key_matcher=any_of_them)
    request = [mutation_rules_pb2.HeaderMutation(remove_on_match=on_match)]
    for name, action in _ONLY_IDENTITY:
        value = base_pb2.HeaderValue(key=name, value="identity")
        option = base_pb2.HeaderValueOption(header=value, append_action=action)
        request.append(mutation_rules_pb2.HeaderMutation(append=option))
    response = [mutation_rules_pb2.HeaderMutation(remove=name) for name in MINTED_HEADERS]
    return header_mutation_pb2.HeaderMutation(
        mutations=header_mutation_pb2.Mutations(request_mutations=request, response_mutations=response)
    )


def _loader(inject: InjectValue, header: str) -> str:
    """The script of one cluster. It loads the real one at the first request, in the worker that needs it: Envoy runs
    it in the main thread too, once for each cluster, and there it would only take memory."""
    before, after = _around(inject)
    settings = {
        "folder": _lua(f"{_SOURCES}/"),
        "header": _lua(header),
        "before": str(len(before)),
        "after": str(len(after)),
        "basic": "true" if isinstance(inject, InjectBasic) else "false",
        "query": _lua(inject.name) if isinstance(inject, InjectQuery) else "nil",
    }
    table = "{" + ", ".join(f"{name} = {value}" for name, value in settings.items()) + "}"
    failed = _lua(json.dumps({"error": _FAILED}))
    return _LOADER.format(script=_lua(str(_SOURCES / "scrubber.lua")), settings=table, failed=failed)


def _lua(text: str) -> str:
    """``text`` as a Lua string literal."""
    return '"' + "".join(f"\\{byte:03d}" for byte in text.encode()) + '"'


def _pack(message: Message) -> AnyProto:
    packed = AnyProto()
    packed.Pack(message, deterministic=True)
    return packed
