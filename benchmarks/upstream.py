"""The upstream that all contenders share: nginx with TLS on a loopback address of its own."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import threading
import time
from pathlib import Path

from servers.ca import TestCa

HOST = "bench.leasehold.test"
SINK_PORT = 8443
_CONFIG = """
daemon off; master_process off; pid {folder}/nginx.pid; error_log {folder}/error.log warn;
worker_processes 1;
events {{ worker_connections 4096; }}
http {{
  access_log off; keepalive_requests 100000000; keepalive_timeout 1h; sendfile on; client_max_body_size 0;
  send_timeout 2h;
  client_body_temp_path {folder}/b; proxy_temp_path {folder}/p; fastcgi_temp_path {folder}/f;
  uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s;
  server {{
    listen {address}:443 ssl;
    ssl_certificate {crt}; ssl_certificate_key {key};
    ssl_session_cache shared:a:1m;
    location = /small {{ default_type application/json; return 200 '{small}'; }}
    location / {{ root {folder}/files; }}
  }}
}}
"""
SMALL = '{"data": "' + "x" * 1000 + '"}'


class Upstream:
    """Started on construction; ``close`` ends it."""

    def __init__(self, folder: Path, bulk_bytes: int) -> None:
        self.address = f"127.{os.getpid() % 200 + 20}.{time.monotonic_ns() % 250}.1"
        self.ca = TestCa(folder)
        files = folder / "files"
        files.mkdir()
        # A sparse file: the disk is not what is measured.
        with (files / "bulk").open("wb") as bulk:
            bulk.truncate(bulk_bytes)
        crt, key = self.ca.leaf((HOST,))
        config = folder / "nginx.conf"
        config.write_text(_CONFIG.format(folder=folder, address=self.address, crt=crt, key=key, small=SMALL))
        nginx = shutil.which("nginx", path="/usr/sbin:/usr/bin:/sbin") or "nginx"
        self._sink = Sink(self.address, self.ca)
        self._process = subprocess.Popen([nginx, "-p", str(folder), "-c", str(config)], stderr=subprocess.DEVNULL)
        wait_for(self.address, 443)

    def close(self) -> None:
        self._process.terminate()
        self._process.wait()


class Sink:
    """Reads uploads to their end and answers 200: nginx alone answers before it has read."""

    def __init__(self, address: str, ca: TestCa) -> None:
        self._context = ca.server_context((HOST,), alpn=("http/1.1",))
        self._listener = socket.create_server((address, SINK_PORT))
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            client, _ = self._listener.accept()
            threading.Thread(target=self._read, args=(client,), daemon=True).start()

    def _read(self, client: socket.socket) -> None:
        with self._context.wrap_socket(client, server_side=True) as stream:
            tail, buffer = b"", bytearray(1 << 18)
            # Uploads here come from a pipe, so they are chunked (RFC 9112, 7.1) and end with an empty chunk.
            while not tail.endswith(b"\r\n0\r\n\r\n"):
                count = stream.recv_into(buffer)
                if not count:
                    return
                tail = (tail + bytes(buffer[max(0, count - 16) : count]))[-16:]
            stream.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\nconnection: close\r\n\r\nok\n")


def wait_for(address: str, port: int, timeout_s: float = 20) -> None:
    """Return when ``address:port`` accepts; ``TimeoutError`` when it never does."""
    until = time.monotonic() + timeout_s
    while time.monotonic() < until:
        with socket.socket() as probe:
            if probe.connect_ex((address, port)) == 0:
                return
        time.sleep(0.02)
    raise TimeoutError(f"{address}:{port} does not accept")
