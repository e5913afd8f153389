"""Whom Leasehold is measured beside, each started on loopback in front of the same upstream."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.upstream import HOST, Upstream, wait_for
from leasehold.node.egress.process import envoy_binary

TOKEN = "bench-credential-0123456789abcdef"  # noqa: S105  # made up; nothing accepts it
ROOT = Path(__file__).resolve().parent.parent
PEERS = ROOT / ".venv-peers"


@dataclass(frozen=True, slots=True, kw_only=True)
class Contender:
    """``url``: the base URL for a client on the host. ``headers``: what that client has to send."""

    name: str
    url: str
    headers: tuple[str, ...] = ()


@contextmanager
def direct(upstream: Upstream) -> Iterator[Contender]:
    """TLS straight to the upstream."""
    yield Contender(name="direct TLS", url=f"https://{upstream.address}")


@contextmanager
def bare_envoy(upstream: Upstream, folder: Path, port: int, workers: int) -> Iterator[Contender]:
    """The same Envoy: terminates TLS, sets one header, dials verified TLS, and nothing else."""
    crt, key = upstream.ca.leaf((HOST, "127.0.0.1"))
    config = folder / "bare-envoy.json"
    config.write_text(json.dumps(_bare(upstream, crt, key, port)))
    command = [str(envoy_binary()), "-c", str(config), "--concurrency", str(workers), "--disable-hot-restart"]
    with _running([*command, "--log-level", "error"], port):
        yield Contender(name="bare Envoy", url=f"https://127.0.0.1:{port}")


@contextmanager
def mitmproxy(upstream: Upstream, folder: Path, port: int) -> Iterator[Contender]:
    """mitmproxy as reverse proxy with a one-line addon that sets the header."""
    addon = folder / "addon.py"
    addon.write_text(f"def request(flow): flow.request.headers['authorization'] = 'Bearer {TOKEN}'\n")
    command = [str(PEERS / "bin" / "mitmdump"), "--quiet", "--mode", f"reverse:https://{HOST}@{port}"]
    command += ["--set", f"ssl_verify_upstream_trusted_ca={upstream.ca.path}", "--set", "ssl_insecure=false"]
    command += [
        "--set",
        f"confdir={folder / 'mitm'}",
        "--set",
        "keep_host_header=false",
        "--set",
        "http2=false",
    ]
    with _running(_with_hosts(upstream, folder, [*command, "-s", str(addon)]), port):
        yield Contender(name="mitmproxy", url=f"https://127.0.0.1:{port}")


@contextmanager
def nono(upstream: Upstream, folder: Path, port: int) -> Iterator[Contender]:
    """nono-py's reverse route with a bearer header; its client side is plain HTTP by design."""
    script = folder / "nono.py"
    script.write_text(
        textwrap.dedent(f"""
        import json, os, sys, time
        import nono_py
        route = nono_py.RouteConfig(
            prefix="bench", upstream="https://{HOST}", credential_key="env://BENCH_TOKEN",
            inject_header="Authorization", credential_format="Bearer {{}}", tls_ca={str(upstream.ca.path)!r},
        )
        handle = nono_py.start_proxy(
            nono_py.ProxyConfig(allowed_hosts=["{HOST}"], routes=[route], bind_port={port}, max_connections=512)
        )
        print(json.dumps({{**handle.env_vars(), **handle.credential_env_vars()}}), flush=True)
        print(handle.diagnostics_json(), file=sys.stderr, flush=True)
        sys.stdin.read()
        """)
    )
    process = subprocess.Popen(
        _with_hosts(upstream, folder, [str(PEERS / "bin" / "python"), str(script)]),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={"PATH": "/usr/bin:/bin", "BENCH_TOKEN": TOKEN},
    )
    try:
        assert process.stdout is not None
        told = json.loads(process.stdout.readline())
        wait_for("127.0.0.1", port)
        yield Contender(
            name="nono-py (plain HTTP inside)",
            url=f"http://127.0.0.1:{port}/bench",
            headers=(f"Authorization: Bearer {told['NONO_PROXY_TOKEN']}",),
        )
    finally:
        process.kill()
        process.wait()


@contextmanager
def _running(command: Sequence[str], port: int) -> Iterator[None]:
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=sys.stderr, stderr=sys.stderr)
    try:
        wait_for("127.0.0.1", port)
        yield
    finally:
        process.kill()
        process.wait()


def _with_hosts(upstream: Upstream, folder: Path, command: Sequence[str]) -> list[str]:
    """The peers resolve by the system: they get a hosts file of their own, in a mount namespace of their own."""
    hosts = folder / "hosts"
    hosts.write_text(f"127.0.0.1 localhost\n{upstream.address} {HOST}\n")
    script = 'mount --bind "$0" /etc/hosts && exec "$@"'
    return ["unshare", "--mount", "sh", "-c", script, str(hosts), *command]


def _bare(upstream: Upstream, crt: Path, key: Path, port: int) -> dict[str, object]:
    prefix = "type.googleapis.com/envoy.extensions."
    tls = prefix + "transport_sockets.tls.v3."
    route = {
        "match": {"prefix": "/"},
        "route": {"cluster": "up", "host_rewrite_literal": HOST, "timeout": "0s"},
        "request_headers_to_add": [
            {
                "header": {"key": "authorization", "value": f"Bearer {TOKEN}"},
                "append_action": "OVERWRITE_IF_EXISTS_OR_ADD",
            }
        ],
    }
    manager = {
        "@type": prefix + "filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "bare",
        "http_filters": [{"name": "r", "typed_config": {"@type": prefix + "filters.http.router.v3.Router"}}],
        "route_config": {"virtual_hosts": [{"name": "v", "domains": ["*"], "routes": [route]}]},
    }
    certificate = {"certificate_chain": {"filename": str(crt)}, "private_key": {"filename": str(key)}}
    chain = {
        "filters": [{"name": "h", "typed_config": manager}],
        "transport_socket": {
            "name": "tls",
            "typed_config": {
                "@type": tls + "DownstreamTlsContext",
                "common_tls_context": {
                    "tls_certificates": [certificate],
                    "alpn_protocols": ["h2", "http/1.1"],
                },
            },
        },
    }
    validation = {"trusted_ca": {"filename": str(upstream.ca.path)}}
    endpoint = {"endpoint": {"address": {"socket_address": {"address": upstream.address, "port_value": 443}}}}
    return {
        "static_resources": {
            "listeners": [
                {
                    "name": "l",
                    "address": {"socket_address": {"address": "127.0.0.1", "port_value": port}},
                    "filter_chains": [chain],
                }
            ],
            "clusters": [
                {
                    "name": "up",
                    "type": "STATIC",
                    "load_assignment": {"cluster_name": "up", "endpoints": [{"lb_endpoints": [endpoint]}]},
                    "transport_socket": {
                        "name": "tls",
                        "typed_config": {
                            "@type": tls + "UpstreamTlsContext",
                            "sni": HOST,
                            "common_tls_context": {"validation_context": validation},
                        },
                    },
                }
            ],
        }
    }
