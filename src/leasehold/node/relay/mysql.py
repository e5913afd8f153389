"""MySQL and MariaDB: the relay logs in, and lets whoever comes in."""

from __future__ import annotations

import socket
import ssl
from typing import Any

Met = tuple[socket.socket, socket.socket, bytes]


def meet(told: dict[str, Any], client: socket.socket, context: ssl.SSLContext | None) -> Met:
    """Not yet."""
    raise ValueError("not yet")
