"""Envoy with the product's filters, between the peers of the scrubber's tests; the credential, and how to look for it.

All on loopback, without TLS: what is tested stands behind it.
"""

from __future__ import annotations

import base64
import html
import json
import re
import socket
import urllib.parse
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h2.config
import h2.connection
from envoy.config.core.v3 import config_source_pb2
from google.protobuf.json_format import MessageToDict

from integration.scrubber_peers import (
    PATIENCE_S,
    Headers,
    Response,
    Script2,
    Upstream1,
    Upstream2,
    chunked,
    parse,
    read_all,
)
from leasehold.core.model import Inject, InjectBasic, InjectHeader, InjectQuery
from leasehold.core.secret import Secret
from leasehold.node.egress.process import RUNTIME, envoy_binary
from leasehold.node.egress.scrub import secret_header_value, upstream_filters
from servers.encodings import ENCODINGS, find
from servers.process import Child

_TYPES = "type.googleapis.com/envoy.extensions."

SECRET = b"tok_R7x/9Kq+LwB2mZ4vN8sJ1hD5gF3yQ=0cTuPa"
HONEST = b'{"caf\\u00e9": "100%25 \\/ &amp; tok_ R7x/", "n": [1, 2, 3]}\n'
BEARER = InjectHeader(name="Authorization", format="Bearer {secret}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A cluster of the Envoy under test: chosen by the Host header ``name``."""

    name: str
    port: int
    inject: Inject | None
    secret: bytes = b""
    http2: bool = False


class Rotating:
    """A secret that comes from a file and changes when the file is replaced."""

    def __init__(self, folder: Path, name: str, value: bytes) -> None:
        self.path = folder / "secrets.json"
        self._name = name
        self.write(value)

    def write(self, value: bytes) -> None:
        secret = {
            "@type": _TYPES + "transport_sockets.tls.v3.Secret",
            "name": self._name,
            "generic_secret": {"secret": {"inline_string": value.decode()}},
        }
        fresh = self.path.with_suffix(".new")
        fresh.write_text(json.dumps({"resources": [secret]}))
        fresh.rename(self.path)


class Envoy:
    """Envoy with one listener, and the product's filters in the cluster of each target."""

    def __init__(
        self,
        folder: Path,
        targets: Iterable[Target],
        *,
        scripts: Path | None = None,
        rotating: Path | None = None,
        level: str = "warning",
    ) -> None:
        self.port, self.admin = _free_port(), _free_port()
        self.log = folder / "envoy.log"
        config = folder / "envoy.json"
        config.write_text(json.dumps(_bootstrap(self.port, self.admin, list(targets), scripts, rotating)))
        command = [str(envoy_binary()), "-c", str(config), "--concurrency", "1", "--disable-hot-restart"]
        self._child = Child([*command, "--log-level", level], log=self.log)
        self._child.wait_until(lambda: _answers(self.port))

    def close(self) -> None:
        self._child.close()

    def admin_page(self, path: str) -> bytes:
        with socket.create_connection(("127.0.0.1", self.admin), PATIENCE_S) as connection:
            connection.sendall(f"GET {path} HTTP/1.1\r\nhost: admin\r\nconnection: close\r\n\r\n".encode())
            return read_all(connection)

    def get(self, target: str, path: str = "/", headers: bytes = b"", method: bytes = b"GET") -> Response:
        """One HTTP/1.1 exchange, headers as given byte by byte."""
        with self.open(target, path, headers + b"connection: close\r\n", method) as connection:
            return parse(read_all(connection), method)

    @contextmanager
    def open(
        self, target: str, path: str = "/", headers: bytes = b"", method: bytes = b"GET"
    ) -> Iterator[socket.socket]:
        """The connection, after the request was sent."""
        with socket.create_connection(("127.0.0.1", self.port), PATIENCE_S) as connection:
            connection.settimeout(PATIENCE_S)
            connection.sendall(b"%s %s HTTP/1.1\r\nhost: %s\r\n" % (method, path.encode(), target.encode()))
            connection.sendall(headers + b"\r\n")
            yield connection

    def get2(self, target: str, path: str = "/", headers: Headers = ()) -> Response:
        """One HTTP/2 exchange; it sees trailers and where the frames end."""
        session = h2.connection.H2Connection(h2.config.H2Configuration(header_encoding="utf-8"))
        session.initiate_connection()
        fields = [(":method", "GET"), (":scheme", "http"), (":authority", target), (":path", path), *headers]
        session.send_headers(1, fields, end_stream=True)
        response = Response()
        with socket.create_connection(("127.0.0.1", self.port), PATIENCE_S) as connection:
            while not response.ended:
                connection.sendall(session.data_to_send())
                data = connection.recv(65536)
                for event in session.receive_data(data) if data else ():
                    response.take(event, session)
                if not data:
                    response.ended = "reset"
        return response


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def _answers(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except OSError:
        return False
    return True


def _bootstrap(
    port: int, admin: int, targets: Sequence[Target], scripts: Path | None, rotating: Path | None
) -> dict[str, Any]:
    hosts = [
        {
            "name": target.name,
            "domains": [target.name],
            "routes": [{"match": {"prefix": "/"}, "route": {"cluster": target.name, "timeout": "0s"}}],
        }
        for target in targets
    ]
    router = {"name": "router", "typed_config": {"@type": _TYPES + "filters.http.router.v3.Router"}}
    manager = {
        "@type": _TYPES + "filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "test",
        "http_filters": [router],
        "route_config": {"virtual_hosts": hosts},
        "upgrade_configs": [{"upgrade_type": "websocket"}],
    }
    secrets = [
        {"name": f"{t.name}/secret", "generic_secret": {"secret": {"inline_string": _value(t)}}}
        for t in targets
        if t.inject is not None
    ]
    listener = {
        "name": "agents",
        "address": _address(port),
        "filter_chains": [{"filters": [{"name": "http", "typed_config": manager}]}],
    }
    return {
        "node": {"id": "test", "cluster": "test"},
        "admin": {"address": _address(admin)},
        "layered_runtime": RUNTIME,
        "static_resources": {
            "listeners": [listener],
            "clusters": [_cluster(target, scripts, rotating) for target in targets],
            "secrets": secrets,
        },
    }


def _value(target: Target) -> str:
    assert target.inject is not None
    return secret_header_value(target.inject, Secret(target.secret)).reveal().decode()


def _cluster(target: Target, scripts: Path | None, rotating: Path | None) -> dict[str, Any]:
    source = None
    if rotating is not None:
        source = config_source_pb2.ConfigSource(path_config_source={"path": str(rotating)})
    filters = [MessageToDict(f) for f in upstream_filters(target.inject, f"{target.name}/secret", source)]
    if scripts is not None:
        for each in filters:
            _use_scripts(each, scripts)
    filters.append(
        {"name": "codec", "typed_config": {"@type": _TYPES + "filters.http.upstream_codec.v3.UpstreamCodec"}}
    )
    options = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
    protocol = {"http2_protocol_options" if target.http2 else "http_protocol_options": {}}
    endpoint = {"endpoint": {"address": _address(target.port)}}
    return {
        "name": target.name,
        "load_assignment": {"cluster_name": target.name, "endpoints": [{"lb_endpoints": [endpoint]}]},
        "typed_extension_protocol_options": {
            options: {
                "@type": _TYPES + "upstreams.http.v3.HttpProtocolOptions",
                "explicit_http_config": protocol,
                "http_filters": filters,
            }
        },
    }


def _use_scripts(each: Mapping[str, Any], scripts: Path) -> None:
    """Take the scripts from another folder: a copy that was broken on purpose."""
    source = each["typedConfig"].get("defaultSourceCode")
    if source is not None:
        ours = Path(__file__).parents[2] / "src" / "leasehold" / "node" / "egress"
        source["inlineString"] = source["inlineString"].replace(_escaped(str(ours)), _escaped(str(scripts)))


def _escaped(text: str) -> str:
    return "".join(f"\\{byte:03d}" for byte in text.encode())


def _address(port: int) -> dict[str, Any]:
    return {"socket_address": {"address": "127.0.0.1", "port_value": port}}


class Parts:
    """One Envoy and both upstreams, for the whole file."""

    def __init__(self, folder: Path, scripts: Path | None = None, level: str = "warning") -> None:
        self.one, self.two = Upstream1(), Upstream2()
        one, two = self.one.port, self.two.port
        key = InjectHeader(name="X-Custom")
        targets = [
            Target(name="one", port=one, inject=BEARER, secret=SECRET),
            Target(name="two", port=two, inject=BEARER, secret=SECRET, http2=True),
            Target(name="basic", port=one, inject=InjectBasic(username="x-access-token"), secret=SECRET),
            Target(name="query", port=one, inject=InjectQuery(name="api_key"), secret=SECRET),
            Target(name="custom", port=one, inject=key, secret=SECRET),
            Target(name="oracle", port=two, inject=key, secret=SECRET, http2=True),
            Target(name="fuzz", port=two, inject=BEARER, secret=SECRET, http2=True),
            Target(name="short", port=one, inject=BEARER, secret=b"pa55"),
            Target(name="long", port=one, inject=BEARER, secret=SECRET * 30),
            Target(name="open", port=one, inject=None),
        ]
        self.envoy = Envoy(folder, targets, scripts=scripts, level=level)

    def close(self) -> None:
        self.envoy.close()
        self.one.close()
        self.two.close()

    def reflect(self, *pieces: bytes, target: str = "one", headers: bytes = b"") -> Response:
        """The answer when the upstream sends ``pieces``, each in a chunk and (nearly always) a segment of its own."""
        parts: list[bytes | float] = []
        for part in chunked(*pieces, headers=headers):
            parts += [part, 0.002]
        self.one.answer(*parts)
        return self.envoy.get(target)

    def reflect2(
        self, *pieces: bytes, end: str = "last", headers: Sequence[tuple[str, str]] = (), target: str = "two"
    ) -> Response:
        """The same over HTTP/2, each piece in a frame of its own."""
        trailers = (("x-trailer", SECRET.decode()), ("x-honest", "kept"))
        self.two.answer(Script2(pieces=pieces, headers=((":status", "200"), *headers), trailers=trailers, end=end))
        return self.envoy.get2(target)


def percent_some(data: bytes) -> bytes:
    return b"".join(b"%%%02x" % byte if number % 3 else bytes([byte]) for number, byte in enumerate(data))


def json_some(data: bytes) -> bytes:
    return b"".join(b"\\u%04X" % byte if number % 2 else bytes([byte]) for number, byte in enumerate(data))


FORMS: dict[str, Callable[[bytes], bytes]] = {
    **ENCODINGS,
    "base64+1": lambda data: base64.b64encode(b"x" + data + b"y"),
    "base64+2": lambda data: base64.b64encode(b"xy" + data + b"zz"),
    "base64 of the header": lambda data: base64.b64encode(b"Authorization: Bearer " + data),
    "percent in part": percent_some,
    "percent twice": lambda data: urllib.parse.quote(urllib.parse.quote(data, safe=""), safe="").encode(),
    "json": lambda data: json.dumps(data.decode()).replace("/", "\\/").encode(),
    "json in part": json_some,
    "json in json": lambda data: json.dumps(
        json.dumps(data.decode()).replace("/", "\\/").replace("+", "\\u002b")
    ).encode(),
    "html": lambda data: html.escape(data.decode()).replace("/", "&#x2F;").replace("+", "&#43;").encode(),
    "lower case": bytes.lower,
    "upper case": bytes.upper,
}


def leaks(text: bytes) -> list[str]:
    """In which ways ``text`` gives the secret, or twelve bytes of it in a row, away."""
    views = {
        "as it is": text,
        "percent": re.sub(rb"%([0-9a-fA-F]{2})", lambda m: bytes([int(m[1], 16)]), text),
        "json": re.sub(rb"\\+u00([0-9a-fA-F]{2})", lambda m: bytes([int(m[1], 16)]), text).replace(b"\\", b""),
        "html": html.unescape(text.decode("latin-1")).encode("latin-1", "replace"),
    }
    found = [f"{view}: {form}" for view, data in views.items() for form in find(SECRET, data)]
    parts = {SECRET[i : i + 12] for i in range(len(SECRET) - 11)}
    return found + [f"{view}: {part!r}" for view, data in views.items() for part in parts if part in data]
