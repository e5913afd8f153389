"""nginx on loopback with a place for each password file of a folder: who is in the file gets in (RFC 7617)."""

from __future__ import annotations

import http.client
import shutil
import tempfile
from collections.abc import Collection
from pathlib import Path

from servers.process import Child, accepts, free_port

ADDRESS = "127.0.0.1"
_CONFIG = """
daemon off;
master_process off;
pid {folder}/nginx.pid;
error_log stderr warn;
events {{ worker_connections 64; }}
http {{
  access_log off;
  client_body_temp_path {folder}/body;
  proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi;
  scgi_temp_path {folder}/scgi;
  server {{
    listen {address}:{port};
{locations}
  }}
}}
"""
_LOCATION = (
    "location /{realm} {{ auth_basic {realm}; auth_basic_user_file {passwords}/{realm}; try_files /none =404; }}"
)
_IN, _OUT = 404, 401  # nothing is there to be seen, but who may come in is told so


class RealmServer:
    """``passwords``: the folder of the files, which are there and empty."""

    def __init__(self, realms: Collection[str]) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="lh-realms-"))
        self.passwords = self._folder / "passwords"
        self.passwords.mkdir()
        for realm in realms:
            (self.passwords / realm).touch(mode=0o640)
        self.port = free_port(ADDRESS)
        locations = "\n".join(_LOCATION.format(realm=realm, passwords=self.passwords) for realm in realms)
        config = self._folder / "nginx.conf"
        config.write_text(
            _CONFIG.format(folder=self._folder, address=ADDRESS, port=self.port, locations=locations), encoding="ascii"
        )
        program = shutil.which("nginx", path="/usr/sbin:/usr/bin:/usr/local/sbin:/usr/local/bin") or "nginx"
        command = [program, "-c", str(config), "-e", "stderr", "-p", str(self._folder)]
        self._child = Child(command, log=self._folder / "nginx.log")
        self._child.wait_until(accepts(ADDRESS, self.port))

    def connection(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection(ADDRESS, self.port, timeout=10)

    def close(self) -> None:
        """End it, and remove what it left; idempotent."""
        self._child.close()
        shutil.rmtree(self._folder, ignore_errors=True)


def lets_in(connection: http.client.HTTPConnection, realm: str, authorization: str) -> bool:
    """Whether the realm does; on the same connection as before, if there was one."""
    connection.request("GET", f"/{realm}", headers={"Authorization": authorization})
    with connection.getresponse() as response:
        response.read()
        assert response.status in (_IN, _OUT), response.status
        return response.status == _IN
