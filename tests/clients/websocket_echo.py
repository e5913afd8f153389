"""A WebSocket client: ``URL``. Prints the echo, or the status and body with which the upgrade was refused."""

import sys

from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

try:
    with connect(sys.argv[1], open_timeout=20, close_timeout=5) as socket:
        socket.send("hello over a socket")
        print("ECHO", socket.recv(timeout=20))
except InvalidStatus as refused:
    print("HTTP", refused.response.status_code, refused.response.headers.get("x-leasehold-decision"))
    print((refused.response.body or b"").decode())
