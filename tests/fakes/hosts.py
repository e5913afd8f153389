"""A host and a request as data, for tests of what is made of them."""

from __future__ import annotations

from typing import Any

from leasehold.node.sandbox.plan import SandboxRequest
from leasehold.node.sandbox.system import Host

_HOST: dict[str, Any] = {
    "machine": "x86_64",
    "uid": 1000,
    "gid": 1000,
    "user": "ann",
    "group": "staff",
    "home": "/home/ann",
    "homes": ("/home/ann",),
    "root_links": (("/bin", "usr/bin"), ("/opt-lib", "")),
    "etc_files": ("/etc/services",),
    "etc_folders": ("/etc/alternatives",),
    "etc_links": (("/etc/localtime", "/usr/share/zoneinfo/UTC"),),
    "hidden": ("/usr/local/etc",),
    "proc_files": ("/proc/keys",),
    "proc_folders": (),
    "proc_read_only": ("/proc/irq",),
    "cpu": True,
    "tools": ("/home/ann/.cargo/bin",),
    "java_stores": ("/etc/ssl/certs/java/cacerts", "/usr/lib/jvm/x/lib/security/cacerts"),
    "python": "/usr/bin/python3.11",
    "python_prefix": "/usr",
    "package": "/usr/lib/leasehold",
    "git_user": (("name", "Ann"), ("email", "ann@work.test")),
}
_REQUEST: dict[str, Any] = {
    "workspace": "/home/ann/web",
    "cwd": "/home/ann/web/src",
    "masks": (),
    "tools": (),
    "hidden": (),
    "persist": (),
    "files": (),
    "forbidden": ("/home/ann/.local/state/leasehold",),
    "ca_pem": b"CA",
    "truststore": None,
    "grants": b"{}",
    "machine_id": "0" * 32,
    "control": -1,
    "command": ("make", "test"),
}


def a_host(**changes: Any) -> Host:
    return Host(**(_HOST | changes))


def a_request(**changes: Any) -> SandboxRequest:
    return SandboxRequest(**(_REQUEST | changes))
