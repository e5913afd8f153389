"""The second half of the story: servers that make a credential for each task, and take it back."""

from __future__ import annotations

import json
import pwd
import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, Self

from contract.postgres_subject import DatabaseSubject
from contract.subject import Subject
from servers import moto, postgres, sshd
from servers.moto import MotoServer
from servers.postgres import PostgresServer
from servers.sshd import SshServer
from servers.upstreams import Upstreams


class Provider(Protocol):
    """One server of the story. ``secret``: the issuer's own, which the agent must not get either."""

    name: str
    host: str
    what: str
    gone: str

    @property
    def secret(self) -> str: ...

    def configuration(self, folder: Path) -> str:
        """Its credential in the operator's file; ``folder`` is the broker's."""

    def left(self) -> Sequence[str]:
        """What the provider still has of ours, by its own word."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Database:
    """PostgreSQL: a role of its own for each task."""

    subject: Subject
    host: str
    port: int
    name: str = "orders"
    what: str = "a role in PostgreSQL"
    gone: str = "asked: no role of ours is left"

    @property
    def secret(self) -> str:
        return self.subject.secret.reveal().decode()

    def configuration(self, folder: Path) -> str:
        parameters = {**self.subject.parameters(), "ca": str(folder / "upstream-ca.pem")}
        return credential(self.name, "postgres", folder, self.secret, parameters) + endpoint(
            self.name, {"host": self.host, "port": self.port, "protocol": "postgres"}
        )

    def left(self) -> Sequence[str]:
        return [name for name in self.subject.accounts() if name.startswith("lh_")]


@dataclass(frozen=True, slots=True, kw_only=True)
class CodeHost:
    """OpenSSH with two repositories: a certificate for each task, refused once it is in the list of revoked ones."""

    server: SshServer
    host: str = sshd.HOST
    name: str = "code"
    what: str = "a certificate for SSH"
    gone: str = "asked: every certificate that it let in is in its list of revoked ones"

    @property
    def secret(self) -> str:
        return self.server.authority.read_text()

    def configuration(self, folder: Path) -> str:
        parameters = {"grants": ["principal git"], "krl": str(self.server.revoked)}
        keys = {"host": self.host, "port": self.server.port, "protocol": "ssh", "host_keys": [self.server.host_key]}
        return credential(self.name, "ssh-ca", folder, self.secret, parameters) + endpoint(self.name, keys)

    def left(self) -> Sequence[str]:
        """Certificates that the host has let in, and would let in again."""
        used = set(re.findall(r'Accepted certificate ID "(lh_\w+)"', self.server.log.read_text()))
        listed = subprocess.run(
            ["/usr/bin/ssh-keygen", "-Q", "-l", "-f", str(self.server.revoked)],
            capture_output=True,
            text=True,
            check=True,
        )
        return sorted(used - set(re.findall(r"id: (lh_\w+)", listed.stdout)))


@dataclass(frozen=True, slots=True, kw_only=True)
class ObjectStore:
    """S3 as moto knows it: a session of a role for each task. AWS takes none back, so it can only expire."""

    server: MotoServer
    host: str = moto.HOST
    name: str = "builds"
    what: str = "a session of a role in AWS"
    gone: str = "AWS takes no session back; it ends by itself within minutes, and only the broker had it"

    @property
    def secret(self) -> str:
        return str(json.loads(self.server.secret)["secret_access_key"])

    def configuration(self, folder: Path) -> str:
        parameters = {
            "server": self.server.url,
            "region": moto.REGION,
            "assume": self.server.role,
            "ca": str(folder / "upstream-ca.pem"),
            "grants": [f"s3:{action} on arn:aws:s3:::{moto.BUCKET}/*" for action in ("PutObject", "GetObject")],
        }
        lines = credential(self.name, "aws-sts", folder, self.server.secret, parameters)
        lines += endpoint(self.name, {"host": self.host, "port": self.server.port, "methods": ["GET", "HEAD", "PUT"]})
        return lines + f'inject = {{ aws = {{ service = "s3", region = "{moto.REGION}" }} }}\n'

    def left(self) -> Sequence[str]:
        """AWS does not say."""
        return ()


class Providers:
    """All of them, beside the upstreams of ``up``. ``account``: of this machine, whose repositories they are."""

    def __init__(self, up: Upstreams, account: str) -> None:
        self._stack = ExitStack()
        self.all: list[Provider] = []
        server = PostgresServer()
        self._stack.callback(server.close)
        subject = DatabaseSubject(server)
        self._stack.callback(subject.close)
        up.beside[postgres.HOST] = server.ca
        self.all.append(Database(subject=subject, host=postgres.HOST, port=server.port))
        code = SshServer({account: "git"})
        self._stack.callback(code.close)
        repository = code.repository("infra", account)
        for path in (code.revoked.parent, code.revoked):
            shutil.chown(path, account, pwd.getpwnam(account).pw_gid)  # whose broker writes to it
        up.beside[sshd.HOST] = server.ca
        self.all.append(CodeHost(server=code))
        store = MotoServer()
        self._stack.callback(store.close)
        up.beside[moto.HOST] = store.ca
        self.all.append(ObjectStore(server=store))
        self.variables = {
            "DATABASE": f"host={postgres.HOST} port={server.port} dbname=orders",
            "REPOSITORY": f"ssh://{account}@{sshd.HOST}:{code.port}{repository}",
            "STORE": f"https://{moto.HOST}:{store.port}",
        }

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def configuration(self, folder: Path) -> str:
        """What the operator's file has of them."""
        return "".join(provider.configuration(folder) for provider in self.all)


def credential(name: str, issuer: str, folder: Path, secret: str, parameters: Mapping[str, object]) -> str:
    """One that its issuer makes; the issuer's own secret goes to a file of the broker's."""
    path = folder / f"{name}.secret"
    path.touch(mode=0o600)
    path.write_text(secret)
    lines = {
        "issuer": issuer,
        "secret": f"file:{path}",
        "environment": "development",
        "role": "execute",
        "max_ttl": "15m",
        **parameters,
    }
    return f"\n[credentials.{name}]\n" + "".join(f"{key} = {json.dumps(value)}\n" for key, value in lines.items())


def endpoint(name: str, keys: Mapping[str, object]) -> str:
    return f"[[credentials.{name}.endpoints]]\n" + "".join(f"{k} = {json.dumps(v)}\n" for k, v in keys.items())
