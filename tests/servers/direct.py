"""Runs a client against the upstreams without the product in between; a hosts file names them."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from servers.people import inside_namespace
from servers.upstreams import Upstreams


def run(
    up: Upstreams,
    command: Sequence[str],
    *,
    env: Mapping[str, str] | None = None,
    cwd: Path,
    timeout: float = 60.0,
) -> subprocess.CompletedProcess[str]:
    """``command`` with the test authority as the only trusted one. Needs root (a mount namespace)."""
    hosts = cwd / "hosts"
    lines = [f"{address} {name}\n" for name, address in up.resolve().items()]
    hosts.write_text("127.0.0.1 localhost\n" + "".join(lines))
    inner = inside_namespace(["env", f"--chdir={cwd}", *command], binds=[(hosts, Path("/etc/hosts"))], folder=cwd)
    return subprocess.run(
        inner,
        env={**trust(up.ca.path), "PATH": os.environ["PATH"], "HOME": str(cwd), **(env or {})},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        encoding="utf-8",
        errors="surrogateescape",
        timeout=timeout,
        check=False,
    )


def trust(authority: Path) -> dict[str, str]:
    """The variables by which clients find the authorities that they trust."""
    openssl = ("SSL_CERT_FILE", "CURL_CA_BUNDLE", "REQUESTS_CA_BUNDLE", "GIT_SSL_CAINFO", "PIP_CERT")
    others = ("NODE_EXTRA_CA_CERTS", "NPM_CONFIG_CAFILE", "GRPC_DEFAULT_SSL_ROOTS_FILE_PATH")
    return dict.fromkeys(openssl + others, str(authority))
