"""nginx in front of a server: TLS on the session's address, and a log of each request with its credential."""

from __future__ import annotations

import shutil
from pathlib import Path

from servers.base import Place, Upstream
from servers.process import Child, accepts

_CONFIG = """
daemon off;
master_process off;
pid {folder}/nginx.pid;
error_log stderr warn;
events {{ worker_connections 512; }}
http {{
  log_format received escape=none '$request|$http_host|$http_authorization'
    '|$http_cookie|$http_x_api_key|$http_user_agent';
  access_log {folder}/received.log received;
  client_body_temp_path {folder}/body;
  proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi;
  scgi_temp_path {folder}/scgi;
  client_max_body_size 0;
  server {{
    listen {address}:{port} ssl http2;
    server_name {host};
    ssl_certificate {crt};
    ssl_certificate_key {key};
{locations}
  }}
}}
"""


class NginxUpstream(Upstream):
    """An upstream behind nginx. ``recorded()``: one line per request that nginx has answered."""

    def __init__(self, place: Place, names: tuple[str, ...] = ()) -> None:
        super().__init__(place)
        self._children: list[Child] = []
        self._names = (place.host, *names)
        self._received = place.folder / "received.log"

    def _front(self, locations: str) -> None:
        """Start nginx with ``locations`` (nginx's own syntax) and wait until it accepts."""
        crt, key = self.place.ca.leaf(self._names)
        config = self.place.folder / "nginx.conf"
        text = _CONFIG.format(
            folder=self.place.folder,
            address=self.address,
            port=self.port,
            host=self.host,
            crt=crt,
            key=key,
            locations=locations,
        )
        config.write_text(text)
        self._received.touch()
        log = self.place.folder / "nginx.log"
        program = shutil.which("nginx", path="/usr/sbin:/usr/bin:/usr/local/sbin:/usr/local/bin") or "nginx"
        child = Child([program, "-c", str(config), "-e", "stderr", "-p", str(self.place.folder)], log=log)
        self._children.append(child)
        child.wait_until(accepts(self.address, self.port))

    def recorded(self) -> list[bytes]:
        return self._received.read_bytes().splitlines()

    def clear(self) -> None:
        with Path.open(self._received, "r+b") as file:
            file.truncate()

    def close(self) -> None:
        while self._children:
            self._children.pop().close()
