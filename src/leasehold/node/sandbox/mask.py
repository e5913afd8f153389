"""One thing to lay over a path of the workspace."""

from __future__ import annotations

from leasehold.core.record import record

# Why something is masked: it runs later outside; it is a git folder's settings; it holds a secret; it was hidden, or
# made read-only, by the configuration; it is what package managers install; it is only to be looked at in the end.
RUNS, GIT, SECRET, HIDDEN, READ_ONLY, INSTALLED, TOLD = (
    "runs",
    "git",
    "secret",
    "hidden",
    "read-only",
    "installed",
    "told",
)


@record
class Mask:
    """``path``: relative to the workspace, or absolute for a git folder that lies elsewhere.

    ``kind``: ``rw-bind``: the thing itself, so that it is a mount point and cannot be renamed. ``ro-bind``: the thing
    itself, read-only. ``ro-data``: a read-only file with ``content``. ``empty-dir``: an empty read-only folder.
    ``private``: changes go to a layer of the task's own (:mod:`leasehold.node.sandbox.overlay`). ``watch``: nothing is
    laid over it; it is compared at the hand-back.
    ``absent``: it does not exist, so that a mount point has to be made (a folder for ``empty-dir``, ``rw-bind`` and
    ``private``, else a file with ``content``) and removed at the end.
    """

    path: str
    kind: str
    content: bytes = b""
    absent: bool = False
    why: str = RUNS


STRENGTH = {"watch": 0, "rw-bind": 1, "private": 2, "ro-bind": 3, "ro-data": 4, "empty-dir": 5}
