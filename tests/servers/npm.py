"""Verdaccio behind nginx, without uplinks, for logged-in users only; it has the private :data:`PACKAGE`."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import os
import secrets
import shutil
import tarfile
import urllib.request
from pathlib import Path

from servers.base import Place
from servers.nginx import NginxUpstream
from servers.process import Child, ServerError, accepts, free_port

PACKAGE = "@acme/widget"
VERSION = "1.2.0"
MESSAGE = "the private npm widget works"

_PROGRAM = Path(__file__).parent / "node_modules" / "verdaccio" / "bin" / "verdaccio"
_USER = "reader"

_LOCATIONS = """
    location / {{
      proxy_pass http://{address}:{port};
      proxy_http_version 1.1;
      proxy_set_header Host $http_host;
      proxy_set_header X-Forwarded-Proto https;
    }}
"""


class NpmServer(NginxUpstream):
    """``credential`` is a bearer token of Verdaccio's; the package's function returns :data:`MESSAGE`."""

    def __init__(self, place: Place) -> None:
        super().__init__(place)
        port = free_port(self.address)
        self._inner = f"http://{self.address}:{port}"
        self._children.append(_verdaccio(place, port))
        self.credential = self._log_in()
        self._publish()
        self._front(_LOCATIONS.format(address=self.address, port=port))

    @property
    def registry(self) -> str:
        return f"{self.url}/"

    def _log_in(self) -> str:
        user: dict[str, object] = {"name": _USER, "password": secrets.token_urlsafe(16)}
        reply = self._put(f"/-/user/org.couchdb.user:{_USER}", user)
        return str(reply["token"])

    def _publish(self) -> None:
        data = build_tarball()
        name = f"widget-{VERSION}.tgz"
        version = {
            "name": PACKAGE,
            "version": VERSION,
            "main": "index.js",
            "dist": {
                "integrity": "sha512-" + base64.b64encode(hashlib.sha512(data).digest()).decode(),
                "shasum": hashlib.sha1(data, usedforsecurity=False).hexdigest(),
                "tarball": f"{self.url}/{PACKAGE}/-/{name}",
            },
        }
        attachment = {
            "content_type": "application/octet-stream",
            "data": base64.b64encode(data).decode(),
            "length": len(data),
        }
        self._put(
            "/" + PACKAGE.replace("/", "%2f"),
            {
                "_id": PACKAGE,
                "name": PACKAGE,
                "dist-tags": {"latest": VERSION},
                "versions": {VERSION: version},
                "_attachments": {name: attachment},
            },
        )

    def _put(self, path: str, body: dict[str, object]) -> dict[str, object]:
        headers = {"Content-Type": "application/json"}
        if self.credential:
            headers["Authorization"] = f"Bearer {self.credential}"
        request = urllib.request.Request(
            self._inner + path, data=json.dumps(body).encode(), headers=headers, method="PUT"
        )
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(request, timeout=20) as response:
            reply: dict[str, object] = json.load(response)
            return reply


def _verdaccio(place: Place, port: int) -> Child:
    node = shutil.which("node")
    if node is None or not _PROGRAM.exists():
        raise ServerError(f"{_PROGRAM} is not installed: npm ci --prefix {_PROGRAM.parents[3]}")
    config = {
        "storage": str(place.folder / "storage"),
        "auth": {"htpasswd": {"file": str(place.folder / "users"), "max_users": 1}},
        "uplinks": {},
        "packages": {"**": {"access": "$authenticated", "publish": "$authenticated"}},
        "web": {"enable": False},
        "log": {"type": "stdout", "format": "pretty", "level": "warn"},
    }
    path = place.folder / "config.yaml"
    path.write_text(json.dumps(config))
    env = {
        "PATH": os.environ.get("PATH", os.defpath),
        "HOME": str(place.folder),
        "VERDACCIO_PUBLIC_URL": place.url,
    }
    command = [node, str(_PROGRAM), "--config", str(path), "--listen", f"{place.address}:{port}"]
    child = Child(command, log=place.folder / "verdaccio.log", env=env)
    child.wait_until(accepts(place.address, port))
    return child


def build_tarball() -> bytes:
    """The package as ``npm pack`` would lay it out."""
    manifest = json.dumps({"name": PACKAGE, "version": VERSION, "main": "index.js"})
    files = {"package.json": manifest, "index.js": f"module.exports = () => {MESSAGE!r};\n"}
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as tar:
        for name, text in files.items():
            entry = tarfile.TarInfo(f"package/{name}")
            entry.size = len(text)
            tar.addfile(entry, io.BytesIO(text.encode()))
    return out.getvalue()
