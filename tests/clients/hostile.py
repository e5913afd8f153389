"""Sends exactly these bytes and prints what comes back: ``HOST PORT SNI|- BASE64…`` (one write each)."""

import base64
import socket
import ssl
import sys

host, port, name, *writes = sys.argv[1:]
try:
    stream = socket.create_connection((host, int(port)), timeout=5)
    if name != "-":
        context = ssl.create_default_context()
        context.check_hostname = False
        stream = context.wrap_socket(stream, server_hostname=name)
    stream.settimeout(2)
    for write in writes:
        stream.sendall(base64.b64decode(write))
    while data := stream.recv(65_536):
        sys.stdout.buffer.write(data)
except TimeoutError:
    print("\nQUIET")
except (OSError, ValueError) as error:
    print("\nFAILED", type(error).__name__, error)
