"""``leasehold run`` with small fakes around the real sandbox: ``python launcher.py FOLDER RUN-OPTIONS -- COMMAND``.

The broker is a thread at the other end of a socket pair that says what ``FOLDER/reply.json`` says; the network is a
namespace in which nothing listens. What the broker was told is in ``FOLDER/broker.jsonl``.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from leasehold.cli import run
from leasehold.core import wire
from leasehold.core.errors import SandboxError
from leasehold.core.record import record

_CLONE_NEWUSER, _CLONE_NEWPID, _CLONE_NEWNET = 0x10000000, 0x20000000, 0x40000000

REPLY: dict[str, Any] = {
    "ok": True,
    "task": "7f3k",
    "class": "local",
    "names": {"api.forge.test": "198.18.0.2"},
    "ports": [443, 80],
    "sockets": {},
    "streams": [],
    "exposed": {},
    "exposed_files": {},
    "ssh": None,
    "ca_pem": "-----BEGIN CERTIFICATE-----\nQUJD\n-----END CERTIFICATE-----\n",
    "truststore_b64": "UEtDUzEy",
    "placeholders": {"ANTHROPIC_API_KEY": "sk-ant-placeholder"},
    "expires_in_s": 3600,
    "grants": [
        {
            "name": "forge",
            "role": "execute",
            "environment": "development",
            "lines": ["api.forge.test /repos/**"],
            "when": "on first use",
        }
    ],
    "hosts": ["docs.test"],
    "sandbox": {"hide": [], "read_only": [], "tools": [], "env": []},
}
SUMMARY: dict[str, Any] = {
    "task": "7f3k",
    "class": "local",
    "exit_code": 0,
    "reason": "done",
    "duration_s": 1.5,
    "credentials": [
        {
            "name": "forge",
            "requests": 2,
            "first_use": 10.0,
            "ended": 20.0,
            "revocability": "stops-being-injected",
        }
    ],
    "hosts": [{"host": "docs.test", "requests": 1}],
    "denied": [
        {
            "method": "POST",
            "host": "api.forge.test",
            "path": "/keys",
            "reason": "rule-not-allowed",
            "count": 3,
        }
    ],
    "alarm": "",
    "secrets_exposed": 0,
    "exposed": [],
}


def _libc(name: str, *arguments: Any) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if getattr(libc, name)(*arguments) != 0:
        raise OSError(ctypes.get_errno(), name)


class EmptyNetwork:
    """A network namespace of its own, and nothing in it."""

    mode = "relay"
    netns_fd = -1

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.gate_fd, self._other_end = os.pipe()

    def serve(
        self, names: Mapping[str, str], ports: Sequence[int], sockets: Mapping[str, str], *_streams: object
    ) -> None:
        if (self._folder / "slow").exists():
            (self._folder / "serving").write_text("")
            time.sleep(30)
        if (self._folder / "no-network").exists():
            raise SandboxError("the network does not answer", hint="a fake")

    def enter(self, before_drop: Callable[[], None] | None = None) -> None:
        """Like the real one: its own network, and no capability from an ordinary user's own namespace."""
        if os.geteuid() == 0:
            _libc("unshare", _CLONE_NEWNET)
            if before_drop is not None:
                before_drop()
            return
        uid, gid = os.getuid(), os.getgid()
        _libc("unshare", _CLONE_NEWUSER | _CLONE_NEWNET)
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"{uid} {uid} 1")
        Path("/proc/self/gid_map").write_text(f"{gid} {gid} 1")
        if not (self._folder / "no-outer").exists():
            _libc("unshare", _CLONE_NEWPID)
        if before_drop is not None:
            before_drop()
        for capability in range(41):
            _libc("prctl", 24, capability, 0, 0, 0)
        _libc("capset", (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)())
        _libc("prctl", 38, 1, 0, 0, 0)

    def denied_names(self) -> dict[str, int]:
        return {"telemetry.test": 2}

    def close(self) -> None:
        os.close(self.gate_fd)


@record
class NoReport:
    def lines(self) -> list[str]:
        return ["handed back"]


def broker(sock: socket.socket, folder: Path, network: EmptyNetwork) -> None:
    """Answer, and write down what was said. Files in ``folder`` make it misbehave."""
    while (received := wire.receive(sock)) is not None:
        message, _ = received
        with (folder / "broker.jsonl").open("a") as log:
            log.write(json.dumps(message) + "\n")
        if message["op"] == "task.open":
            wire.send(sock, json.loads((folder / "reply.json").read_text()))
            if (folder / "die-early").exists():
                sock.close()
                return
        elif message["op"] == "task.started":
            wire.send(sock, {"event": "expired", "message": "the access has expired"})
            wire.send(sock, {"ok": True}, [sock.fileno()])
            if (folder / "die").exists():
                threading.Timer(0.3, sock.shutdown, [socket.SHUT_RDWR]).start()
            if (folder / "hang-up").exists():
                sock.close()
                return
            if (folder / "cut").exists():
                threading.Timer(0.3, os.close, [network._other_end]).start()
        elif (folder / "die-at-close").exists():
            sock.close()
            return
        else:
            wire.send(sock, {"ok": True, "summary": SUMMARY | {"exit_code": message["exit_code"]}})


def parts(folder: Path) -> run.Parts:
    network = EmptyNetwork(folder)

    def connect() -> socket.socket:
        ours, theirs = socket.socketpair()
        threading.Thread(target=broker, args=(theirs, folder, network), daemon=True).start()
        return ours

    def finish(journal: str) -> NoReport:
        (folder / "finished").write_text(journal)
        return NoReport()

    return run.Parts(
        load=run.load,
        network=lambda: cast("Any", network),
        connect=connect,
        masks=lambda workspace, sandbox: masks(folder),
        begin=lambda task, workspace, masks: cast("Any", f"{task} {time.time()}"),
        finish=cast("Any", finish),
        state_dir=str(folder / "state"),
        forbidden=(str(folder / "state"),),
        config=str(folder / "config.toml"),
    )


@record
class FakeMask:
    path: str
    kind: str
    content: bytes = b""


def masks(folder: Path) -> list[Any]:
    """What ``FOLDER/masks.json`` says, in order: path, kind, content."""
    listed = folder / "masks.json"
    given = json.loads(listed.read_text()) if listed.exists() else []
    return [FakeMask(path=path, kind=kind, content=content.encode()) for path, kind, content in given]


def main(argv: Sequence[str]) -> int:
    folder = Path(argv[0])
    parser = argparse.ArgumentParser()
    run.add_arguments(parser)
    return run.perform(parser.parse_args(argv[1:]), lambda: parts(folder))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
