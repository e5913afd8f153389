"""The product as a user runs it, with state and sockets of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import TracebackType

from benchmarks.contenders import HOST, TOKEN
from benchmarks.upstream import Upstream

WORKERS = min(2, os.cpu_count() or 1)
"""As many Envoy workers as the daemon starts: bare Envoy gets the same."""
_CONFIG = """
[trust]
domain = "bench.example"
upstream_ca = "{ca}"
[network]
resolve = {{ "{host}" = "{address}" }}
allow_private = ["127.0.0.0/8"]
[credentials.bench]
issuer = "static"
secret = "file:{secret}"
environment = "development"
role = "execute"
max_ttl = "1h"
[[credentials.bench.endpoints]]
host = "{host}"
methods = ["GET"]
paths = ["/small", "/bulk"]
inject = {{ header = "Authorization", format = "Bearer {{secret}}" }}
[[credentials.bench.endpoints]]
host = "{host}"
port = 8443
methods = ["PUT"]
inject = {{ header = "Authorization", format = "Bearer {{secret}}" }}
"""


class Product:
    """A private Leasehold; the daemon starts with the first run and ends with this object."""

    def __init__(self, folder: Path, upstream: Upstream) -> None:
        self.workspace = folder / "workspace"
        self.workspace.mkdir()
        secret = folder / "secret"
        secret.write_text(TOKEN)
        secret.chmod(0o600)
        self.config = folder / "config.toml"
        self.config.write_text(_CONFIG.format(ca=upstream.ca.path, host=HOST, address=upstream.address, secret=secret))
        self.environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(folder / "home"),
            "XDG_STATE_HOME": str(folder / "state"),
            "XDG_RUNTIME_DIR": str(folder / "run"),
            "LEASEHOLD_CONFIG": str(self.config),
        }
        for name in ("home", "state", "run"):
            (folder / name).mkdir(mode=0o700)

    def __enter__(self) -> Product:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def leasehold(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """One command of the product's."""
        command = [str(Path(sys.executable).parent / "leasehold"), *arguments]
        return subprocess.run(command, env=self.environment, text=True, capture_output=True, check=False)

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        """``leasehold run -- command`` in the workspace."""
        return self.leasehold("run", "--workspace", str(self.workspace), "--", *command)

    def stop(self) -> None:
        """End the daemon."""
        self.leasehold("daemon", "stop")

    def envoy_pid(self) -> int:
        """The pid of the daemon's Envoy."""
        import json

        return int(json.loads(self.leasehold("daemon", "status", "--json").stdout)["envoy_pid"])

    def envoy_mb(self) -> float:
        """Resident memory of Envoy in MB."""
        for line in Path(f"/proc/{self.envoy_pid()}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) / 1024
        raise RuntimeError("Envoy has no VmRSS")
