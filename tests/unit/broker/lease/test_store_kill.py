"""`kill -9` at the storage, for real: what was acknowledged is there, and what was not is whole or absent."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from leasehold.broker.lease.machine import Entry, State
from leasehold.broker.lease.store import SqliteLedger

WRITER = """
import itertools, os, signal, sys
from pathlib import Path
from sqlalchemy import Engine, event
from leasehold.broker.lease.machine import Entry, Revocability, State, activated, ending, gone
from leasehold.broker.lease.store import SqliteLedger

def write(folder, at):
    told = os.open(folder / "told", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    ledger = SqliteLedger(folder)
    passed = 0

    def point(*_):
        # Each is a place in the life of one statement: before it, after it, before its commit.
        nonlocal passed
        passed += 1
        if passed == at:
            os.kill(os.getpid(), signal.SIGKILL)

    for name in ("begin", "before_cursor_execute", "after_cursor_execute", "commit"):
        event.listen(Engine, name, point)

    for number in range(2):
        entry = ledger.intend(Entry(
            id=f"{number}", key=f"{number}", owner="o", task="t", credential="c", issuer="i", name=f"lh_{number}",
            revocability=Revocability.NOW, recipe=b"sealed" * 2000, state=State.INTENDED, epoch=1, created=1.0,
            expires=9.0, due=2.0,
        ))
        point()
        os.write(told, f"{number} intended\\n".encode())
        point()
        for change in (lambda e: activated(e, 8.0), lambda e: ending(e, 3.0), lambda e: gone(e, 4.0)):
            after = change(entry)
            ledger.change(entry, after)
            entry = after
            point()
            os.write(told, f"{number} {entry.state}\\n".encode())
            point()

for at in itertools.count(1):
    folder = Path(sys.argv[1]) / f"{at:03}"
    folder.mkdir()
    child = os.fork()
    if child == 0:
        write(folder, at)
        os._exit(0)
    status = os.waitpid(child, 0)[1]
    if status == 0:
        break
    assert os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL, status
"""
PLACE = ("intended", "active", "revoking", "revoked")
RESULTS = [f"{number} {place}" for number in range(2) for place in PLACE]


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """A folder for each place at which the writer was killed, in order; the last is of one that came to its end."""
    root = tmp_path_factory.mktemp("killed")
    done = subprocess.run(
        [sys.executable, "-c", WRITER, str(root)],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert done.returncode == 0, done.stderr
    return sorted(root.iterdir())


def found(folder: Path) -> list[str]:
    """How far the ledger says that the writer was, lease by lease."""
    ledger = SqliteLedger(folder)
    try:
        entries = ledger.entries()
        assert all(entry.recipe == b"sealed" * 2000 for entry in entries)
        assert all((entry.closed is None) == (entry.state is not State.REVOKED) for entry in entries)
        for entry in entries:
            assert entry.epoch == PLACE.index(entry.state) + 1
    finally:
        ledger.close()
    return [f"{entry.id} {place}" for entry in entries for place in PLACE[: PLACE.index(entry.state) + 1]]


def test_what_was_acknowledged_survives_and_nothing_is_half_there(
    killed: list[Path], intent: Callable[..., Entry]
) -> None:
    ahead = 0
    for folder in killed:
        acknowledged = (folder / "told").read_text().splitlines()
        assert acknowledged == RESULTS[: len(acknowledged)]
        there = found(folder)
        assert there == RESULTS[: len(there)]
        assert len(acknowledged) <= len(there) <= len(acknowledged) + 1, folder.name
        ahead += len(there) - len(acknowledged)
        goes_on(folder, intent("9"))
    assert len(killed) > 6 * len(RESULTS)
    assert ahead == len(RESULTS)  # killed behind each commit, before it was acknowledged


def goes_on(folder: Path, entry: Entry) -> None:
    """Who comes after a kill can write."""
    ledger = SqliteLedger(folder)
    try:
        ledger.intend(entry)
        assert ledger.entries()[-1] == entry
    finally:
        ledger.close()
