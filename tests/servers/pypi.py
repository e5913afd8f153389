"""pypiserver behind nginx, with a password for everything: one private package, ``acme-widget``."""

from __future__ import annotations

import base64
import hashlib
import secrets
import sys
import zipfile
from pathlib import Path

from servers import htpasswd
from servers.base import Place
from servers.nginx import NginxUpstream
from servers.process import Child, accepts, free_port

USER = "reader"
PACKAGE = "acme-widget"
VERSION = "1.2.0"
MESSAGE = "the private widget works"

_LOCATIONS = """
    location / {{
      proxy_pass http://{address}:{port};
      proxy_set_header Host $http_host;
      proxy_set_header X-Forwarded-Proto https;
      proxy_request_buffering off;
    }}
"""


class PypiServer(NginxUpstream):
    """``credential`` is the password of :data:`USER`; ``acme_widget.hello()`` returns :data:`MESSAGE`."""

    def __init__(self, place: Place) -> None:
        super().__init__(place)
        self.credential = f"pypi/{secrets.token_urlsafe(24)}+="
        self.user = USER
        packages = place.folder / "packages"
        packages.mkdir()
        build_wheel(packages)
        passwords = htpasswd.write(place.folder / "passwords", USER, self.credential)
        port = free_port(self.address)
        self._children.append(_pypiserver(place, packages, passwords, port))
        self._front(_LOCATIONS.format(address=self.address, port=port))

    @property
    def index_url(self) -> str:
        return f"{self.url}/simple/"


def _pypiserver(place: Place, packages: Path, passwords: Path, port: int) -> Child:
    command = [
        sys.executable,
        "-m",
        "pypiserver",
        "run",
        "-p",
        str(port),
        "-i",
        place.address,
        "--disable-fallback",
    ]
    command += ["--server", "wsgiref", "-P", str(passwords), "-a", "update,download,list", str(packages)]
    child = Child(command, log=place.folder / "pypiserver.log")
    child.wait_until(accepts(place.address, port))
    return child


def build_wheel(folder: Path) -> Path:
    """Write a pure wheel (PEP 427) by hand: no build tool, no network."""
    stem = f"acme_widget-{VERSION}"
    info = f"{stem}.dist-info"
    files = {
        "acme_widget.py": f"def hello() -> str:\n    return {MESSAGE!r}\n",
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {PACKAGE}\nVersion: {VERSION}\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = "".join(f"{name},sha256={_digest(text)},{len(text)}\n" for name, text in files.items())
    path = folder / f"{stem}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as wheel:
        for name, text in files.items():
            wheel.writestr(name, text)
        wheel.writestr(f"{info}/RECORD", f"{record}{info}/RECORD,,\n")
    return path


def _digest(text: str) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()
