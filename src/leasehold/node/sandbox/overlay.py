"""Folders of installed packages get a layer of the task's own (BOUNDARY F7): the agent installs what it likes, and what
runs outside stays what it was. The layer lies in the state folder and goes with the task.

overlayfs, mounted by the launcher's child in a mount namespace of its own, over the folder's own place. bubblewrap 0.8
cannot do it, but brings it along when it binds the workspace.
"""

from __future__ import annotations

import os

from leasehold.core.record import record
from leasehold.node.sandbox.beneath import Folder

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

_CLONE_NEWNS = 0x00020000
_MS_RDONLY, _MS_NOSUID, _MS_NODEV, _MS_REMOUNT, _MS_BIND, _MS_REC, _MS_PRIVATE = 1, 2, 4, 32, 4096, 16384, 1 << 18
# A bind mount's restrictions, which an ordinary user's namespace must repeat: statvfs's number, mount's number.
_LOCKED = ((2, 2), (4, 4), (8, 8), (1024, 1024), (2048, 2048), (4096, 1 << 21))


@record
class Overlay:
    """``path``: relative to the workspace. ``upper``, ``work``: empty folders, absolute and on one file system."""

    path: str
    upper: str
    work: str


def lay(workspace: str, overlays: Sequence[Overlay]) -> None:
    """In a forked child, before bubblewrap: needs CAP_SYS_ADMIN over its user namespace; takes a mount namespace.

    Where the kernel has no overlayfs for this caller or folder, the layer lies in memory, or else the folder becomes
    read-only: it never stays writable. ``OSError`` when not even that works.
    """
    if not overlays:
        return
    _call("unshare", _CLONE_NEWNS)
    _call("mount", None, b"/", None, _MS_REC | _MS_PRIVATE, None)
    with Folder(workspace) as folder:
        for overlay in overlays:
            with folder.inside(overlay.path) as target:
                _lay(target, overlay)


def _lay(target: int, overlay: Overlay) -> None:
    try:
        _overlay(target, overlay.upper, overlay.work)
    except OSError:
        base = overlay.upper.rpartition("/")[0]
        try:
            _call("mount", b"tmpfs", os.fsencode(base), b"tmpfs", _MS_NOSUID | _MS_NODEV, b"mode=0700")
            os.mkdir(overlay.upper, 0o700)
            os.mkdir(overlay.work, 0o700)
            _overlay(target, overlay.upper, overlay.work)
        except OSError:
            _read_only(target)


def _overlay(target: int, upper: str, work: str) -> None:
    with Folder(upper) as above, Folder(work) as scratch:
        # By descriptor: the paths may hold what overlayfs takes for separators, and can no longer be swapped.
        options = f"lowerdir={_proc(target)},upperdir={_proc(above.fd)},workdir={_proc(scratch.fd)}"
        options += ",userxattr" if os.geteuid() else ""
        place = _proc(target).encode()
        _call("mount", b"leasehold", place, b"overlay", _MS_NOSUID | _MS_NODEV, options.encode())


def _read_only(target: int) -> None:
    place = _proc(target).encode()
    _call("mount", place, place, None, _MS_BIND | _MS_REC, None)
    path = os.readlink(_proc(target))  # the mount that lies there now, no longer the one that was opened
    flags = os.statvfs(path).f_flag
    kept = sum(mount for number, mount in _LOCKED if flags & number)
    _call("mount", None, os.fsencode(path), None, _MS_REMOUNT | _MS_BIND | _MS_RDONLY | kept, None)


def _proc(fd: int) -> str:
    return f"/proc/self/fd/{fd}"


def _call(name: str, *arguments: object) -> None:
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    if getattr(libc, name)(*arguments) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")
