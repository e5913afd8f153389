"""OpenSSH's server on loopback: it trusts an authority, and reads a list of revoked certificates at each login."""

from __future__ import annotations

import pwd
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path

from servers.process import Child, free_port

ADDRESS = "127.0.0.1"
HOST = "code.forge.test"
_SETTINGS = """
Port {port}
ListenAddress {address}
HostKey {folder}/host
PidFile none
TrustedUserCAKeys {folder}/authority.pub
RevokedKeys {folder}/lists/revoked
AuthorizedPrincipalsFile {folder}/principals/%u
AuthorizedKeysFile none
PasswordAuthentication no
KbdInteractiveAuthentication no
PermitRootLogin prohibit-password
UsePAM yes
StrictModes no
LogLevel VERBOSE
AcceptEnv GIT_PROTOCOL
Subsystem sftp internal-sftp
"""


class SshServer:
    """``principals``: account of this machine to who may log in to it. ``authority``: path of the key that it trusts;
    ``revoked``: of the list. ``host_key``: as in ``known_hosts``."""

    def __init__(self, principals: Mapping[str, str]) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="lh-sshd-"))
        self.folder.chmod(0o755)
        self.port = free_port(ADDRESS)
        self.authority = self.folder / "authority"
        self.revoked = self.folder / "lists" / "revoked"
        self.log = self.folder / "log"
        try:
            for name in ("host", "authority"):
                _keygen("-q", "-t", "ed25519", "-N", "", "-C", name, "-f", str(self.folder / name))
            self.revoked.parent.mkdir()
            _keygen("-q", "-k", "-f", str(self.revoked))
            (self.folder / "principals").mkdir()
            for account, principal in principals.items():
                pwd.getpwnam(account)
                (self.folder / "principals" / account).write_text(f"{principal}\n")
            self.host_key = " ".join((self.folder / "host.pub").read_text().split()[:2])
            settings = self.folder / "sshd_config"
            settings.write_text(_SETTINGS.format(port=self.port, address=ADDRESS, folder=self.folder))
            Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
            self._child = Child(["/usr/sbin/sshd", "-D", "-e", "-f", str(settings)], log=self.log)
            self._child.wait_until(self._answers)
        except BaseException:
            shutil.rmtree(self.folder)
            raise

    def repository(self, name: str, owner: str) -> Path:
        """A bare repository with one commit, which ``owner`` may write to."""
        path = self.folder / "repositories" / f"{name}.git"
        path.parent.mkdir(parents=True, exist_ok=True)
        run = [["git", "init", "-q", "--bare", "-b", "main", str(path)], ["chown", "-R", owner, str(path)]]
        for command in run:
            subprocess.run(command, check=True, timeout=20)
        return path

    def close(self) -> None:
        """End the server and the sessions that it has; idempotent."""
        if self.folder.exists():
            self._child.close()
            shutil.rmtree(self.folder)

    def _answers(self) -> bool:
        try:
            with socket.create_connection((ADDRESS, self.port), 1) as probe:
                return probe.recv(4) == b"SSH-"
        except OSError:
            return False


def _keygen(*arguments: str) -> None:
    subprocess.run(["ssh-keygen", *arguments], check=True, capture_output=True, timeout=20)
