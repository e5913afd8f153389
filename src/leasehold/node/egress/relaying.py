"""Starts relays: what a client of another protocol talks to before the server; see :mod:`leasehold.node.relay`."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path

import leasehold
from leasehold.node.egress.confined import Confined
from leasehold.node.egress.model import Leaf

_CONFIG = "/run/relay.json"


class Relay(Confined):
    """One relay; ``socket`` is where it listens."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.socket = folder / "relay.sock"

    async def serve(self, protocol: str, leaf: Leaf, told: Mapping[str, object], *, network: bool = False) -> None:
        """Start it; ``EgressError`` when it does not start. ``told``: what the protocol needs; secrets may be in it."""
        config = {
            **told,
            "protocol": protocol,
            "socket": str(self.socket),
            "chain": leaf.chain.decode(),
            "key": leaf.key.reveal().decode(),
        }
        sources = {
            str(Path(path).resolve()) for path in (sys.prefix, sys.base_prefix, Path(leasehold.__file__).parents[1])
        }
        readable = sorted(path for path in sources if not path.startswith("/usr/") and path != "/usr")
        behind = {str(Path(str(told["upstream"])).parent)} - {str(self.folder)} if "upstream" in told else set()
        await self.start(
            [sys.executable, "-I", "-m", "leasehold.node.relay", _CONFIG],
            socket=self.socket,
            files={_CONFIG: json.dumps(config).encode()},
            readable=[*readable, *behind],
            network=network,
        )
