"""The commands as they look in a shell: each file of ``transcripts/`` is a session, played against a broker.

``$`` begins a command, what follows is its standard output; ``2> `` begins a line of standard error, ``=> `` an exit
code other than 0. The session's folder is the home folder and reads as ``~``.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from fakes.vault_broker import VaultBroker
from leasehold.broker.vault.store import Vault
from leasehold.core.secret import Secret

TRANSCRIPTS = sorted((Path(__file__).parent / "transcripts").glob("*.txt"))
CHECKOUT = Path(__file__).parents[2]
NOW = 97_445  # 1970-01-02T03:04:05Z
CONFIG = """[trust]
domain = "dev.example"
upstream_ca = "@ca@"

[credentials.forge]
issuer = "static"
secret = "vault:forge-token"
environment = "development"
role = "execute"
max_ttl = "1h"

[[credentials.forge.endpoints]]
host = "api.forge.example"
port = 8443
methods = ["GET", "POST"]
paths = ["/repos/acme/web/**"]
inject = { header = "Authorization", format = "Bearer {secret}" }

[[credentials.forge.endpoints]]
host = "forge.example"
git = { repository = "acme/web", access = "read" }
inject = { basic = { username = "x-access-token" } }

[credentials.registry]
issuer = "static"
secret = "env:REGISTRY_TOKEN"
environment = "staging"
role = "fetch"
max_ttl = "15m"

[[credentials.registry.endpoints]]
host = "registry.example"
inject = { basic = { username = "reader" } }

[credentials.chat]
issuer = "static"
secret = "command:false --password x"
environment = "development"
role = "execute"
max_ttl = "1m"

[[credentials.chat.endpoints]]
host = "chat.example"
paths = ["/ws"]
websocket = true
inject = { query = "token" }
"""
PEM = "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n"


class Session:
    """A home folder with two configurations, ``leasehold`` in its path, and a broker."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name, mode in (("run", 0o755), ("run/leasehold", 0o700), ("bin", 0o755)):
            (folder / name).mkdir(mode=mode)
        vault = Vault(folder / "vault", Secret(b"k" * 32), lambda: NOW)
        self.broker = VaultBroker(folder / "run" / "leasehold" / "broker.sock", vault, {"REGISTRY_TOKEN": "s3cr3t"})
        program = folder / "bin" / "leasehold"
        program.write_text(f'#!/bin/sh\nexec {sys.executable} -m leasehold "$@"\n')
        program.chmod(0o755)
        for name, text in (("ca.pem", PEM), ("config.toml", CONFIG), ("none.toml", CONFIG.partition("\n\n")[0] + "\n")):
            (folder / name).write_text(text.replace("@ca@", str(folder / "ca.pem")))
            (folder / name).chmod(0o600)

    def play(self, command: str) -> str:
        """What the transcript says of a command, without the command."""
        done = subprocess.run(
            ["sh", "-c", command],
            cwd=self.folder,
            env={
                "PATH": f"{self.folder}/bin:/usr/bin:/bin",
                "HOME": str(self.folder),
                "XDG_RUNTIME_DIR": str(self.folder / "run"),
                "PYTHONPATH": str(CHECKOUT / "src"),
                "LANG": "C.UTF-8",
                "COLUMNS": "80",
            },
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=False,
            timeout=60,
        )
        output, errors = (text.decode().replace(str(self.folder), "~") for text in (done.stdout, done.stderr))
        said = output + "".join(f"2> {line}\n" for line in errors.splitlines())
        return said + (f"=> {done.returncode}\n" if done.returncode else "")


@pytest.fixture
def session(tmp_path: Path) -> Iterator[Session]:
    found = Session(tmp_path)
    yield found
    found.broker.stop()


def commands(transcript: str) -> list[tuple[str, str]]:
    """Each command and what is expected of it."""
    text = re.sub(r"^#.*\n", "", transcript, flags=re.MULTILINE)
    return [
        (block.partition("\n")[0], block.partition("\n")[2].strip("\n"))
        for block in re.split(r"^\$ ", text, flags=re.MULTILINE)[1:]
    ]


@pytest.mark.parametrize("path", TRANSCRIPTS, ids=lambda path: path.stem)
def test_a_session_looks_as_it_is_written(path: Path, session: Session) -> None:
    found = commands(path.read_text())
    assert found
    for command, expected in found:
        assert session.play(command).strip("\n") == expected, f"$ {command}"


def test_a_value_is_never_shown_or_stored_as_it_is(session: Session) -> None:
    """Whatever is asked of the commands afterwards."""
    value = "s3cr3t-that-nobody-sees"
    shown = session.play(f"printf {value} | leasehold secret set forge-token")
    for command in (
        "secret list",
        "secret list --json",
        "credential list",
        "credential check",
        "credential check --json",
    ):
        shown += session.play(f"LEASEHOLD_CONFIG=config.toml leasehold {command}")
    shown += session.play(f"leasehold secret set forge-token {value}")
    shown += session.play(f"leasehold secret set --value={value} forge-token")
    shown += session.play("leasehold secret rm forge-token")
    assert "forge-token" in shown
    assert value not in shown
    stored = [path.read_bytes() for path in session.folder.rglob("*") if path.is_file()]
    assert stored
    assert not any(value.encode() in content for content in stored)
    assert [message["name"] for message in session.broker.heard if message["op"] == "secret.set"] == ["forge-token"]
