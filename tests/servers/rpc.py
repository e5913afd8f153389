"""A gRPC server with TLS: unary and server streaming, bearer token in the metadata, which it reflects.

Messages are plain UTF-8 texts: generic handlers, so no generated code is needed.
"""

from __future__ import annotations

import hmac
import json
import secrets
import threading
from collections.abc import Iterator
from concurrent import futures
from functools import partial
from typing import Any

import grpc

from servers.base import Place, Upstream

SERVICE = "leasehold.test.Echo"


class GrpcServer(Upstream):
    """Methods ``Unary``, ``Stream``, ``Reflect``, ``Admin``. ``recorded()``: method and metadata of calls."""

    def __init__(self, place: Place) -> None:
        super().__init__(place)
        self.credential = f"grpc/{secrets.token_urlsafe(24)}+="
        self._lock = threading.Lock()
        self._received: list[bytes] = []
        crt, key = place.ca.leaf((place.host,))
        tls = grpc.ssl_server_credentials([(key.read_bytes(), crt.read_bytes())])
        self._server = grpc.server(futures.ThreadPoolExecutor(max_workers=8))
        self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, self._handlers()),))
        bound = self._server.add_secure_port(f"{place.address}:{place.port}", tls)
        if bound != place.port:
            raise OSError(f"gRPC could not listen on {place.address}:{place.port}")
        self._server.start()

    def recorded(self) -> list[bytes]:
        with self._lock:
            return list(self._received)

    def clear(self) -> None:
        with self._lock:
            self._received.clear()

    def close(self) -> None:
        self._server.stop(None).wait(5)

    def _handlers(self) -> dict[str, grpc.RpcMethodHandler[Any, Any]]:
        unary = grpc.unary_unary_rpc_method_handler
        return {
            "Unary": unary(partial(self._unary, "Unary")),
            "Admin": unary(partial(self._unary, "Admin")),
            "Reflect": unary(self._reflect),
            "Stream": grpc.unary_stream_rpc_method_handler(self._stream),
        }

    def _unary(self, method: str, message: bytes, context: grpc.ServicerContext) -> bytes:
        self._admit(method, context)
        return b"echo: " + message

    def _stream(self, message: bytes, context: grpc.ServicerContext) -> Iterator[bytes]:
        self._admit("Stream", context)
        for number in range(5):
            yield b"%d: %b" % (number, message)

    def _reflect(self, message: bytes, context: grpc.ServicerContext) -> bytes:
        """Everything that came as metadata, in the message, in a header and in a trailer."""
        found = self._admit("Reflect", context)
        token = found.get("authorization", "")
        context.send_initial_metadata((("x-reflect", token),))
        context.set_trailing_metadata((("x-reflect-trailer", token),))
        return json.dumps(found).encode()

    def _admit(self, method: str, context: grpc.ServicerContext) -> dict[str, str]:
        found = {key: str(value) for key, value in context.invocation_metadata()}
        with self._lock:
            self._received.append(json.dumps({"method": method, **found}).encode())
        wanted = f"Bearer {self.credential}"
        if not hmac.compare_digest(found.get("authorization", "").encode(), wanted.encode()):
            context.abort(grpc.StatusCode.UNAUTHENTICATED, "a bearer token is needed")
        return found
