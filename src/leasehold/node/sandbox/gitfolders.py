"""What in a git folder would run later, outside (BOUNDARY F4, F5): its masks, and where a folder lies that is only
referred to.

Inside, git goes on writing objects, references and the index. It cannot change hooks, configuration and attributes, nor
rename the folders in which they are, nor make one of the files that lead git to others (``commondir``).
"""

from __future__ import annotations

import os
import stat

from leasehold.core.errors import SandboxError
from leasehold.node.sandbox import gitconfig
from leasehold.node.sandbox.beneath import Folder
from leasehold.node.sandbox.mask import GIT, Mask

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

CONFIG_BYTES_MAX = 1 << 18
POINTER_BYTES_MAX = 4096
_DEPTH_MAX = 8
# A file `commondir` sends git elsewhere for configuration and hooks. This one says "here", which changes nothing.
HERE = b".\n"
# The rest of an interactive rebase, with commands that `git rebase --continue` executes.
REBASE_STEPS = "rebase-merge/git-rebase-todo"


def git_masks(folder: Folder, path: str, *, prefix: str = "") -> Iterator[Mask]:
    """The masks of the git folder ``path`` in ``folder``; ``prefix`` stands before each mask's path."""
    at = f"{path}/" if path else ""
    if path or prefix:
        yield Mask(path=(prefix + path).removesuffix("/"), kind="rw-bind", why=GIT)
    yield _item(folder, f"{at}hooks", prefix, Mask(path="", kind="empty-dir", absent=True, why=GIT))
    yield _config(folder, f"{at}config", prefix)
    yield _config(folder, f"{at}config.worktree", prefix)
    yield _item(folder, f"{at}commondir", prefix, Mask(path="", kind="ro-data", content=HERE, absent=True, why=GIT))
    yield _kept(folder, f"{at}info", prefix)
    yield _item(folder, f"{at}info/attributes", prefix, Mask(path="", kind="ro-data", absent=True, why=GIT))
    if folder.status(f"{at}gitdir") is not None:
        yield _item(folder, f"{at}gitdir", prefix)
    if folder.status(f"{at}{REBASE_STEPS}") is not None:
        yield Mask(path=f"{prefix}{at}{REBASE_STEPS}", kind="watch", why=GIT)
    for name in ("worktrees", "modules"):
        if folder.names(f"{at}{name}"):
            yield from _nested(folder, f"{at}{name}", prefix, 0)


def nested(folder: Folder, path: str) -> Iterator[str]:
    """The git folders of linked working trees and submodules in the git folder ``path``."""
    for name in ("worktrees", "modules"):
        yield from _git_folders(folder, f"{path}/{name}" if path else name, 0)


def _git_folders(folder: Folder, path: str, depth: int) -> Iterator[str]:
    for name in folder.names(path):
        inner = f"{path}/{name}"
        names = folder.names(inner)
        if not {"HEAD", "config", "objects", "commondir"}.isdisjoint(names):
            yield inner
            yield from nested(folder, inner)
        elif names and depth < _DEPTH_MAX:
            yield from _git_folders(folder, inner, depth + 1)


def _nested(folder: Folder, path: str, prefix: str, depth: int) -> Iterator[Mask]:
    yield Mask(path=prefix + path, kind="rw-bind", why=GIT)
    for name in folder.names(path):
        inner = f"{path}/{name}"
        names = folder.names(inner)
        if not {"HEAD", "config", "objects", "commondir"}.isdisjoint(names):
            yield from git_masks(folder, inner, prefix=prefix)
        elif names:
            if depth >= _DEPTH_MAX:
                raise SandboxError(f"{inner!a} is nested too deep to be protected", hint="remove it")
            yield from _nested(folder, inner, prefix, depth + 1)


def _item(folder: Folder, path: str, prefix: str, absent: Mask | None = None) -> Mask:
    """The mask of what may only be read. A link is watched; what it leads to is protected by whoever collects masks."""
    status = folder.status(path)
    if status is None and absent is not None:
        return Mask(path=prefix + path, kind=absent.kind, content=absent.content, absent=True, why=absent.why)
    kind = "watch" if status is not None and stat.S_ISLNK(status.st_mode) else "ro-bind"
    return Mask(path=prefix + path, kind=kind, why=GIT)


def _kept(folder: Folder, path: str, prefix: str) -> Mask:
    """The mask of a folder that is written to, but not renamed."""
    return Mask(path=prefix + path, kind="rw-bind", absent=folder.status(path) is None, why=GIT)


def _config(folder: Folder, path: str, prefix: str) -> Mask:
    mask = _item(folder, path, prefix, Mask(path="", kind="ro-data", absent=True, why=GIT))
    if mask.kind != "ro-bind":
        return mask
    return config_mask(folder, path, prefix=prefix)


def config_mask(folder: Folder, path: str, *, prefix: str = "") -> Mask:
    """Read-only, and without the secrets in it. One that cannot be read counts as a secret."""
    entries = read_config(folder, path)
    if entries is None:
        return Mask(path=prefix + path, kind="ro-data", why=GIT)
    shown = gitconfig.without_secrets(entries)
    if shown == entries:
        return Mask(path=prefix + path, kind="ro-bind", why=GIT)
    return Mask(
        path=prefix + path, kind="ro-data", content=gitconfig.emit(shown).encode("utf-8", "surrogateescape"), why=GIT
    )


def read_config(folder: Folder, path: str) -> list[gitconfig.Entry] | None:
    """The entries of a configuration file; ``None`` when it is none that git would read."""
    content = folder.read(path, CONFIG_BYTES_MAX + 1)
    if content is None or len(content) > CONFIG_BYTES_MAX:
        return None
    try:
        return gitconfig.parse(content.decode("utf-8", "surrogateescape"))
    except ValueError:
        return None


def pointer(content: bytes | None) -> str | None:
    """What a ``.git`` file refers to (gitrepository-layout(5)); ``None`` when it is no such file."""
    if content is None or not content.startswith(b"gitdir:") or len(content) > POINTER_BYTES_MAX:
        return None
    return os.fsdecode(content[7:].strip()) or None


def outside(folder: Folder) -> str | None:
    """The git folder, outside of the workspace ``folder``, to which its ``.git`` file refers: of the whole repository
    when the workspace is a linked working tree. ``None`` when there is none.

    An agent can write a ``.git`` file that names any folder. So the folder that is named has to name the workspace in
    its turn, and to be of the same owner; ``SandboxError`` otherwise.
    """
    named = pointer(folder.read(".git", POINTER_BYTES_MAX + 1))
    if named is None:
        return None
    path = os.path.realpath(os.path.join(folder.path, named))
    if path == folder.path or path.startswith(f"{folder.path}/") or not os.path.isdir(path):
        return None
    try:
        with Folder(path) as target:
            common = _common(folder, target)
    except OSError as error:
        raise SandboxError(f"{path} cannot be read: {error.strerror}", hint="see what .git refers to") from error
    if common is None or os.stat(common).st_uid not in (os.geteuid(), os.fstat(folder.fd).st_uid):
        raise SandboxError(
            f".git refers to {path}, which does not refer back to {folder.path}, or is somebody else's",
            hint="run `git worktree repair` there, or give the agent a workspace with a .git folder of its own",
        )
    return common


def _common(workspace: Folder, target: Folder) -> str | None:
    back = target.read("gitdir", POINTER_BYTES_MAX)
    if back is not None:  # a linked working tree (git-worktree(1))
        repository, _, _ = target.path.rpartition("/worktrees/")
        common = target.read("commondir", POINTER_BYTES_MAX)
        belongs = repository and common is not None and _real(target.path, common) == repository
        return repository if belongs and _real(target.path, back) == f"{workspace.path}/.git" else None
    for entry in read_config(target, "config") or ():  # a submodule (gitsubmodules(7))
        if entry.name == "core.worktree" and entry.value and _real(target.path, entry.value.encode()) == workspace.path:
            return target.path
    return None


def _real(base: str, path: bytes) -> str:
    return os.path.realpath(os.path.join(base, os.fsdecode(path.strip())))
