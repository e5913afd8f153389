"""The control of the experiment: an ordinary sandbox in which the agent *has* its key, as people run agents today.

It shares the host's network, so names are given by a hosts file, and sees the system read-only and an empty home.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from agents import install
from leasehold.core.profiles import environment, home_files, profile_for

_ETC = ("passwd", "group", "ssl", "alternatives", "ld.so.cache", "nsswitch.conf", "localtime", "terminfo")


def home(folder: Path, profile: str, *, workspace: Path, key: tuple[str, str]) -> None:
    """Put the profile's files into ``folder``; ``key`` is the variable and its value."""
    for file in home_files(profile_for(profile, []), workspace=str(workspace), placeholders=dict([key])):
        path = folder / file.path
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(file.text)


def sandboxed(
    command: Sequence[str], *, home: Path, workspace: Path, ca: Path, addresses: Mapping[str, str]
) -> list[str]:
    """The command line that runs ``command``; ``addresses`` go into a hosts file in ``home``."""
    hosts = home / ".hosts"
    hosts.write_text(
        "".join(f"{address} {name}\n" for name, address in {"localhost": "127.0.0.1", **addresses}.items())
    )
    read_only = [Path("/usr"), *(Path("/etc", name) for name in _ETC), *map(Path, install.tools())]
    line = ["bwrap", "--unshare-pid", "--unshare-ipc", "--unshare-uts", "--die-with-parent", "--new-session"]
    line += ["--proc", "/proc", "--dev", "/dev", "--tmpfs", "/tmp", "--ro-bind", str(ca), "/run/ca.pem"]
    for name in ("bin", "sbin", "lib", "lib64"):
        if Path("/", name).is_symlink():
            line += ["--symlink", str(Path("/", name).readlink()), f"/{name}"]
    for path in read_only:
        line += ["--ro-bind-try", str(path), str(path)]
    line += ["--ro-bind", str(hosts), "/etc/hosts", "--bind", str(home), str(home)]
    return [*line, "--bind", str(workspace), str(workspace), "--chdir", str(workspace), "--", *command]


def settings(profile: str, *, home: Path, key: tuple[str, str]) -> dict[str, str]:
    """The environment of such a run."""
    trust = ("SSL_CERT_FILE", "NODE_EXTRA_CA_CERTS", "REQUESTS_CA_BUNDLE")
    return {
        "PATH": "/usr/local/bin:/usr/bin:/bin",
        "HOME": str(home),
        "LANG": "C.UTF-8",
        "TERM": "dumb",
        **dict.fromkeys(trust, "/run/ca.pem"),
        **environment(profile_for(profile, []), root=os.geteuid() == 0),
        **dict([key]),
    }
