"""A host that trusts the issuer ``ssh-ca``, with two accounts that two principals may log in to."""

from __future__ import annotations

import fcntl
import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from contract.subject import Material, Refused
from leasehold.broker.issuers.builtin import BUILTIN, Parameters
from leasehold.broker.issuers.ports import Issuer
from leasehold.core.secret import Secret
from servers.sshd import ADDRESS, SshServer

_TIMEOUT_S = 30.0


class LoginSession:
    """A login that goes on. The host asks for nothing any more, so what ends it is the way to it, or its own end."""

    def __init__(self, command: Sequence[str]) -> None:
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
        assert self._process.stdout is not None
        if self._process.stdout.readline() != b"in\n":
            self.close()
            raise Refused("no login")

    def alive(self) -> bool:
        return self._process.poll() is None

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()


class SshSubject:
    """``deploy`` may log in as an ordinary user, ``audit`` as root."""

    scope = frozenset({"principal deploy", "principal audit", "permit-pty"})
    less = frozenset({"principal deploy"})
    outside = frozenset({"principal root"})
    ends_by_itself = False
    hostile: Sequence[Mapping[str, object]] = (
        *(
            {"grants": [grant]}
            for grant in (
                "",
                "principal",
                "principal ",
                "principal a b",
                "principal a,b",
                "principal *",
                "principal A",
                "principal a\n",
                "principal a\0",
                "permit-agent-forwarding",
                "permit-X11-forwarding",
                "permit-user-rc",
                "no-touch-required",
                "force-command=true",
            )
        ),
        {"grants": []},
        {"grants": ["permit-pty", "permit-pty"]},
        {"grants": "permit-pty"},
        {"command": ""},
        {"command": "true\nfalse"},
        {"sources": ["10.0.0.1/8"]},
        {"sources": ["everywhere"]},
        {"krl": "revoked"},
        {"krl": "/revoked\0"},
    )

    def __init__(self, server: SshServer, account: str) -> None:
        self.server = server
        self.secret = Secret(server.authority.read_bytes())
        self._folder = Path(tempfile.mkdtemp(prefix="lh-ssh-"))
        self.within: Sequence[str] = (f"{account} true", "root true", f"-tt {account} test -t 0")
        self.beyond: Sequence[str] = ("nobody true", f"-L0:127.0.0.1:1 -o ExitOnForwardFailure=yes {account} false")
        self.beyond_less = "root true"
        self._account = account
        self._open: list[LoginSession] = []
        busy = self._folder / "busy"
        busy.mkdir()
        self._held = os.open(busy, os.O_RDONLY)
        fcntl.flock(self._held, fcntl.LOCK_EX)

    def close(self) -> None:
        os.close(self._held)
        shutil.rmtree(self._folder)

    def parameters(self, address: tuple[str, int] | None = None) -> Mapping[str, object]:
        krl = self.server.revoked
        if address is not None:  # nothing can be reached or not: the list may be missing, or in use
            krl = self._folder / ("missing" if address[1] == self._nobody(address) else "busy") / "revoked"
        return {"grants": sorted(self.scope), "krl": str(krl)}

    def _nobody(self, address: tuple[str, int]) -> int:
        with socket.socket() as probe:
            return address[1] if probe.connect_ex(address) else 0

    def issuer(self, parameters: Mapping[str, object], secret: Secret) -> Issuer:
        table = Parameters("ssh-ca", parameters)
        issuer = BUILTIN["ssh-ca"](table, secret)
        table.done()
        return issuer

    def command(self, material: Material, words: Sequence[str]) -> list[str]:
        """``ssh`` with the key and the certificate in files of its own."""
        folder = Path(tempfile.mkdtemp(dir=self._folder))
        key = folder / "key"
        key.touch(mode=0o600)
        key.write_bytes(material["private_key"].reveal())
        (folder / "key-cert.pub").write_bytes(material["certificate"].reveal() + b"\n")
        known = folder / "known"
        known.write_text(f"[{ADDRESS}]:{self.server.port} {self.server.host_key}\n")
        *options, account, command = words if len(words) > 1 else (*words, "true")
        settings = {
            "IdentitiesOnly": "yes",
            "IdentityAgent": "none",
            "UserKnownHostsFile": str(known),
            "BatchMode": "yes",
            "LogLevel": "ERROR",
        }
        chosen = [part for name, value in settings.items() for part in ("-o", f"{name}={value}")]
        where = ["-p", str(self.server.port), "-i", str(key), "-l", account]
        return ["ssh", "-F", "none", *chosen, *where, *options, ADDRESS, command]

    def attempt(self, material: Material, operation: str) -> None:
        words = operation.split(" ")
        at = next(i for i, word in enumerate(words) if not word.startswith("-") and "=" not in word)
        command = self.command(material, [*words[:at], words[at], " ".join(words[at + 1 :])])
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=_TIMEOUT_S)
        if done.returncode != 0:
            raise Refused(done.stderr)

    def open(self, material: Material) -> LoginSession:
        self._open.append(LoginSession(self.command(material, [self._account, "echo in; exec cat"])))
        return self._open[-1]

    def accounts(self) -> Collection[str]:
        return ()

    def plant(self, name: str) -> None:
        """There is nothing that could be left half made."""

    def remove(self, name: str) -> None:
        """See :meth:`plant`."""

    def expires(self, name: str) -> float | None:
        return None

    def sessions(self, name: str) -> int:
        return sum(session.alive() for session in self._open)
