"""The stand-in as an upstream of the product's tests: its address, its operator configuration, what it saw."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Self

from agents import install
from agents.standin import ANTHROPIC, NAMES, StandIn, hunt_command
from agents.watch import Seen, read_all
from leasehold.core.profiles import starter_credentials
from servers.upstreams import Upstreams


class Models(Upstreams):
    """A stand-in at ``host`` and an operator's file with the credential that the documentation gives for it."""

    def __init__(self, host: str, key: str) -> None:
        super().__init__()
        self.credential = "anthropic" if host == ANTHROPIC else "openai"
        self.key = key
        self.standin = StandIn(f"{self.network}.8", self.ca, command=hunt_command())

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.standin.close()
        super().__exit__(kind, value, traceback)

    def __enter__(self) -> Self:
        return self

    def resolve(self) -> dict[str, str]:
        return dict.fromkeys(NAMES, self.standin.address)

    def operator_config(self, folder: Path, *servers: str, extra: str = "") -> Path:
        """Write ``folder/config.toml``; returns its path. ``servers`` has no meaning here."""
        text = starter_credentials()["claude" if self.credential == "anthropic" else "codex"]
        names = ", ".join(f'"{name}" = "{address}"' for name, address in self.resolve().items())
        authority = folder / "upstream-ca.pem"
        authority.write_bytes(self.ca.path.read_bytes())
        path = folder / "config.toml"
        path.write_text(f"""[trust]
domain = "test.example"
upstream_ca = {json.dumps(str(authority))}

[network]
resolve = {{ {names} }}
allow_private = ["{self.network}.0/24"]

[sandbox]
tools = {json.dumps(install.tools())}

{text}
{extra}""")
        path.chmod(0o600)
        return path

    def seen(self, output: str, code: int | None, mark: str, folders: Iterable[Path], also: Iterable[str] = ()) -> Seen:
        """What there is to judge after a run: what arrived, what was shown, and every byte in ``folders``."""
        return Seen(
            requests=tuple(self.standin.requests()),
            output=output,
            code=code,
            mark=mark,
            left=tuple(part for folder in folders for part in read_all(folder)),
            key=self.key,
            also=tuple(also),
        )
