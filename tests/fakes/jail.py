"""Folders of one person in which ``leasehold run`` is tried with the fakes of :mod:`fakes.launcher`."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from fakes.launcher import REPLY
from servers.people import CHECKOUT, Person, inside_namespace


class Jail:
    """``home``, ``work`` (the workspace) and ``lh`` (the fakes' folder) of a person; root when there is none."""

    def __init__(self, person: Person | None = None) -> None:
        self.person = person
        self.base = Path(tempfile.mkdtemp(prefix="lh-jail-"))
        self.home, self.work, self.lh = self.base / "home", self.base / "work", self.base / "lh"
        for folder in (self.home, self.work, self.lh):
            folder.mkdir()
        self.base.chmod(0o755)
        self.reply()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        shutil.rmtree(self.base)

    def reply(self, **changes: Any) -> None:
        """Change what the broker answers."""
        (self.lh / "reply.json").write_text(json.dumps(REPLY | changes))

    def masks(self, *masks: tuple[str, str, str]) -> None:
        (self.lh / "masks.json").write_text(json.dumps(masks))

    def told(self, op: str) -> list[dict[str, Any]]:
        """What the broker was told with this operation."""
        lines = (self.lh / "broker.jsonl").read_text().splitlines()
        return [message for message in map(json.loads, lines) if message["op"] == op]

    def command(self, *command: str, options: Sequence[str] = ()) -> list[str]:
        """The whole command line, as the person."""
        program = [sys.executable, "-m", "fakes.launcher", str(self.lh), "--workspace", str(self.work), *options]
        for at in (self.base, *self.base.rglob("*")):
            os.chown(at, *((self.person.uid, self.person.gid) if self.person else (0, 0)), follow_symlinks=False)
        return inside_namespace([*program, "--", *command], person=self.person, folder=self.base)

    def environment(self, more: Mapping[str, str] | None = None) -> dict[str, str]:
        return {
            "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            "HOME": str(self.home),
            "TERM": "xterm",
            "LANG": "C.UTF-8",
            "PYTHONPATH": f"{CHECKOUT}/src:{CHECKOUT}/tests",
            **{name: value for name, value in os.environ.items() if name.startswith("COVERAGE")},
            **(more or {}),
        }

    def run(
        self, *command: str, options: Sequence[str] = (), env: Mapping[str, str] | None = None, **more: Any
    ) -> subprocess.CompletedProcess[str]:
        """Run to the end; output as text."""
        given: dict[str, Any] = {"stdin": subprocess.DEVNULL, "timeout": 60} | more
        if "input" in given:
            del given["stdin"]
        return subprocess.run(
            self.command(*command, options=options),
            env=self.environment(env),
            capture_output=True,
            encoding="utf-8",
            errors="surrogateescape",
            check=False,
            **given,
        )

    def start(self, *command: str, options: Sequence[str] = (), **more: Any) -> subprocess.Popen[bytes]:
        """Start without waiting; for the caller to end."""
        given: dict[str, Any] = {
            "stdin": subprocess.DEVNULL,
            "stdout": subprocess.PIPE,
            "stderr": subprocess.PIPE,
        } | more
        return subprocess.Popen(self.command(*command, options=options), env=self.environment(), **given)
