"""An ordinary user of the machine for one session, and mount namespaces in which it can work."""

from __future__ import annotations

import os
import pwd
import secrets
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

CHECKOUT = Path(__file__).parents[2]
_TRIES = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Person:
    """A user who is not root."""

    name: str
    uid: int
    gid: int


@contextmanager
def ordinary_user() -> Iterator[Person]:
    """A new user without a home, removed at the end. Needs root."""
    name = f"lh-test-{secrets.token_hex(4)}"
    _account("useradd", "--no-create-home", "--home-dir", "/nonexistent", "--shell", "/bin/sh", name)
    try:
        entry = pwd.getpwnam(name)
        yield Person(name=name, uid=entry.pw_uid, gid=entry.pw_gid)
    finally:
        _account("userdel", name)


def _account(*command: str) -> None:
    """Run one of the account tools, again while another process holds their lock."""
    for attempt in range(_TRIES):
        done = subprocess.run(
            [f"/usr/sbin/{command[0]}", *command[1:]], capture_output=True, text=True, check=False, timeout=30
        )
        if done.returncode == 0:
            return
        if "lock" not in done.stderr or attempt == _TRIES - 1:
            raise OSError(f"{command[0]} {command[-1]}: {done.stderr.strip()}")
        time.sleep(0.25)


def inside_namespace(
    command: Sequence[str],
    *,
    person: Person | None = None,
    binds: Sequence[tuple[Path, Path]] = (),
    folder: Path,
) -> list[str]:
    """``command`` in a private mount namespace, as ``person``.

    ``binds``: files laid over others (source, target). The checkout and the interpreter are made reachable for
    ``person`` where a folder above them is closed: it is covered by one that holds nothing else. ``folder``: where
    to put the script.
    """
    steps = [f"mount --bind {_quote(source)} {_quote(target)}" for source, target in binds]
    if person is not None:
        steps += _open_folders()
    if not steps and person is None:
        return list(command)
    become = _become(person)
    script = folder / f"enter-{secrets.token_hex(4)}.sh"
    script.write_text("\n".join(["set -e", *steps, f"cd {_quote(Path('/'))}", f'exec {become} "$@"', ""]))
    return ["unshare", "--mount", "--propagation", "private", "sh", str(script), *command]


def _become(person: Person | None) -> str:
    if person is None:
        return ""
    return f"setpriv --reuid {person.uid} --regid {person.gid} --clear-groups --inh-caps=-all --"


def _open_folders() -> list[str]:
    """Steps that make the checkout and the interpreter reachable by everybody, in a namespace; none if they are."""
    wanted = dict.fromkeys([CHECKOUT, Path(sys.prefix), Path(sys.base_prefix)])
    closed = {path: at for path in wanted if (at := _closed_above(path)) is not None}
    numbered = list(enumerate(closed, start=4))
    steps = [f"exec {number}<{_quote(path)}" for number, path in numbered]
    steps += [f"mount -t tmpfs -o mode=0755 tmpfs {_quote(at)}" for at in dict.fromkeys(closed.values())]
    for number, path in numbered:
        steps.append(f"mkdir -p {_quote(path)}")
        steps.append(f"mount --no-canonicalize --bind /proc/self/fd/{number} {_quote(path)}")
        steps.append(f"exec {number}<&-")
    return steps


def _closed_above(path: Path) -> Path | None:
    """The outermost folder above ``path`` that not everybody may enter."""
    return next((at for at in reversed(path.parents) if not at.stat().st_mode & 0o001), None)


def _quote(path: Path) -> str:
    text = os.fspath(path)
    if "'" in text:
        raise ValueError(f"path {text!a} has a quote")
    return f"'{text}'"
