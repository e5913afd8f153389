"""One HTTP/2 request with exactly these fields, unchecked: ``HOST SNI NAME=VALUE…``; prints status and body."""

import socket
import ssl
import sys

import h2.config
import h2.connection
import h2.events

host, name, *fields = sys.argv[1:]
context = ssl.create_default_context()
context.set_alpn_protocols(["h2"])
stream = context.wrap_socket(socket.create_connection((host, 443), timeout=5), server_hostname=name)
stream.settimeout(3)
config = h2.config.H2Configuration(
    header_encoding=None,
    validate_outbound_headers=False,
    normalize_outbound_headers=False,
    validate_inbound_headers=False,
)
connection = h2.connection.H2Connection(config=config)
connection.initiate_connection()
pairs = []
for field in fields:
    key, _, value = field[1:].partition("=") if field.startswith(":") else field.partition("=")
    pairs.append((((":" if field.startswith(":") else "") + key).encode(), value.encode()))
connection.send_headers(1, pairs, end_stream=True)
stream.sendall(connection.data_to_send())
try:
    while data := stream.recv(65_536):
        for event in connection.receive_data(data):
            if isinstance(event, h2.events.ResponseReceived):
                print("HTTP", dict(event.headers).get(b":status", b"").decode())
            elif isinstance(event, h2.events.DataReceived):
                print(event.data.decode(errors="replace"))
            elif isinstance(event, h2.events.StreamReset):
                print("RESET", event.error_code)
                sys.exit()
            elif isinstance(event, (h2.events.StreamEnded, h2.events.ConnectionTerminated)):
                sys.exit()
        stream.sendall(connection.data_to_send())
except OSError as error:
    print("FAILED", type(error).__name__, error)
