"""A client that ignores all proxy variables: ``ADDRESS PORT NAME PATH``. Speaks HTTP/1.1 over TLS."""

import socket
import ssl
import sys

address, port, name, path = sys.argv[1:5]
context = ssl.create_default_context()
try:
    plain = socket.create_connection((address, int(port)), timeout=10)
    with plain, context.wrap_socket(plain, server_hostname=name) as stream:
        stream.sendall(f"GET {path} HTTP/1.1\r\nhost: {name}\r\nconnection: close\r\n\r\n".encode())
        while data := stream.recv(65_536):
            print(data.decode(errors="replace"), end="")
except OSError as error:
    print("FAILED", type(error).__name__, error)
