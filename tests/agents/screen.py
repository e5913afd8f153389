"""A terminal that a program can fill and a test can read: a tmux server of one's own."""

from __future__ import annotations

import os
import shlex
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self


class Screen:
    """Runs ``command`` in a terminal of ``columns`` by ``rows``; its last screen stays when it ends."""

    def __init__(
        self, command: Sequence[str], *, folder: Path, env: Mapping[str, str], columns: int = 110, rows: int = 36
    ) -> None:
        self._socket = folder / "tmux.sock"
        self._env = {**env, "TERM": "xterm-256color"}
        line = shlex.join(["env", "-i", *(f"{name}={value}" for name, value in self._env.items()), *command])
        size = ["-x", str(columns), "-y", str(rows)]
        self._tmux("-f", os.devnull, "new-session", "-d", *size, "sleep 0.2; exec " + line)
        self._tmux("set-option", "-g", "remain-on-exit", "on")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def text(self) -> str:
        """What the screen shows and what has scrolled off it."""
        return self._tmux("capture-pane", "-p", "-J", "-S", "-5000")

    def shown(self) -> str:
        """What the screen shows now."""
        return self._tmux("capture-pane", "-p")

    def type(self, text: str) -> None:
        self._tmux("send-keys", "-l", text)

    def press(self, key: str) -> None:
        """A key by tmux's name: Enter, Escape, C-c …"""
        self._tmux("send-keys", key)

    def resize(self, columns: int, rows: int) -> None:
        self._tmux("resize-window", "-x", str(columns), "-y", str(rows))

    def exit_code(self) -> int | None:
        """The command's exit code, or ``None`` while it runs."""
        dead, _, status = self._tmux("display-message", "-p", "#{pane_dead}:#{pane_dead_status}").strip().partition(":")
        return int(status or 0) if dead == "1" else None

    def wait(self, ready: Callable[[str], bool], *, timeout_s: float) -> bool:
        """Whether the screen came to show what ``ready`` looks for, in time and before the command ended."""
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            ended = self.exit_code() is not None
            if ready(self.text()):
                return True
            if ended:
                return False
            time.sleep(0.1)
        return False

    def wait_end(self, *, timeout_s: float) -> int | None:
        """The command's exit code, or ``None`` if it still runs after ``timeout_s``."""
        deadline = time.monotonic() + timeout_s
        while self.exit_code() is None and time.monotonic() < deadline:
            time.sleep(0.1)
        return self.exit_code()

    def close(self) -> None:
        """End the terminal and what runs in it; idempotent."""
        if self._socket.exists():
            subprocess.run(["tmux", "-S", self._socket, "kill-server"], capture_output=True, check=False)
            self._socket.unlink(missing_ok=True)

    def _tmux(self, *arguments: str) -> str:
        command = ["tmux", "-u", "-S", str(self._socket), *arguments]
        env = {"PATH": os.environ["PATH"], "LANG": "C.UTF-8"}
        return subprocess.run(command, check=True, capture_output=True, text=True, env=env).stdout
