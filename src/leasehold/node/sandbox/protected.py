"""What is laid over the workspace, so that nothing in it runs later outside, and no secret in it is read (BOUNDARY F).

The workspace itself is writable. This module reads it, without following links, and answers with data.
"""

from __future__ import annotations

import os
import stat

from leasehold.core.errors import SandboxError
from leasehold.node.sandbox import gitconfig, gitfolders, runnable
from leasehold.node.sandbox.beneath import Folder
from leasehold.node.sandbox.mask import GIT, HIDDEN, INSTALLED, READ_ONLY, RUNS, SECRET, STRENGTH, TOLD, Mask
from leasehold.node.sandbox.patterns import compile_pattern
from leasehold.node.sandbox.survey import FOLDER, Survey, same_files

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

__all__ = ["Mask", "describe", "workspace_masks"]

MASKS_MAX = 1000
_HOOKS_MAX = 500
_INCLUDES_MAX = 8


def workspace_masks(
    workspace: str, canary: Callable[[str], str], *, hide: Sequence[str] = (), read_only: Sequence[str] = ()
) -> list[Mask]:
    """Everything to lay over ``workspace`` (absolute, canonical), outer things before inner ones.

    ``canary``: a placeholder that begins with the given prefix. ``hide``, ``read_only``: the configuration's patterns.
    ``SandboxError`` for what cannot be protected, ``ConfigError`` for a pattern that is none.
    """
    hidden, kept = [compile_pattern(text) for text in hide], [compile_pattern(text) for text in read_only]
    with Folder(workspace) as folder:
        masks = _Masks(folder, canary)
        found = Survey(folder, hide=hidden, read_only=kept)
        masks.patterns(found, [(p.literal, HIDDEN) for p in hidden] + [(p.literal, READ_ONLY) for p in kept])
        masks.git(found)
        masks.runs(found)
        masks.installed(found)
        masks.secrets(found)
        masks.hard_links(found)
        return masks.ordered()


class _Masks:
    def __init__(self, folder: Folder, canary: Callable[[str], str]) -> None:
        self._folder = folder
        self._canary = canary
        self._masks: dict[str, Mask] = {}
        self._shared: dict[tuple[int, int], Mask] = {}

    def add(self, mask: Mask) -> None:
        """The stronger of two masks on one path stays, and the reason to look at it in the end."""
        before = self._masks.get(mask.path)
        if before is None:
            self._masks[mask.path] = mask
            return
        strong = mask if STRENGTH[mask.kind] > STRENGTH[before.kind] else before
        why = next((why for why in (GIT, RUNS) if why in (mask.why, before.why)), strong.why)
        self._masks[mask.path] = Mask(
            path=strong.path, kind=strong.kind, content=strong.content, absent=strong.absent, why=why
        )

    def patterns(self, found: Survey, literals: Iterable[tuple[str | None, str]]) -> None:
        """What the configuration hides or makes read-only; a path without wildcards also when it does not exist."""
        for path in found.hidden:
            self._cover(path, HIDDEN)
        for path in found.read_only:
            self._guard(path, READ_ONLY)
        for literal, why in literals:
            if literal is None:
                continue
            if self._folder.status(literal) is not None:  # also in a folder that is not looked into
                self._cover(literal, why) if why == HIDDEN else self._guard(literal, why)
            elif self._is_folder(literal.rpartition("/")[0]):
                self.add(Mask(path=literal, kind="empty-dir", absent=True, why=why))

    def git(self, found: Survey) -> None:
        """Git folders, in the workspace and the one that it refers to, and what their configuration refers to."""
        folders = list(found.git)
        for path in found.gitfiles:
            target = self._folder.resolve(path) if path in found.links else None
            if target and self._is_folder(target):
                self.add(Mask(path=path, kind="watch", why=GIT))
                folders.append(target)
            else:
                self._guard(path, GIT)
        for path in folders:
            for mask in gitfolders.git_masks(self._folder, path):
                self._add_git(mask)
            self._referred(path)
        elsewhere = gitfolders.outside(self._folder)
        if elsewhere is not None:
            with Folder(elsewhere) as repository:
                for mask in gitfolders.git_masks(repository, "", prefix=f"{elsewhere}/"):
                    self.add(mask)

    def _add_git(self, mask: Mask) -> None:
        self.add(mask)
        if mask.kind == "watch":
            self._led(mask.path)
        elif mask.kind == "ro-bind" and self._is_folder(mask.path):
            self._hooks(mask.path)

    def _referred(self, git: str, config: str = "config", depth: int = 0) -> None:
        """Hooks and included configuration that lie in the working tree."""
        config_path = f"{git}/{config}" if depth == 0 and git else config
        for kind, named in gitconfig.paths(gitfolders.read_config(self._folder, config_path) or ()):
            base = config_path.rpartition("/")[0] if kind == "include" else git.rpartition("/")[0]
            path = self._lexical(base, named)
            if path is None or f"{git}/".startswith(f"{path}/"):
                continue
            status = self._folder.status(path)
            if status is None and self._is_folder(path.rpartition("/")[0]):
                self.add(Mask(path=path, kind="empty-dir" if kind == "hooks" else "ro-data", absent=True))
            elif status is not None and kind == "include" and stat.S_ISREG(status.st_mode):
                self.add(gitfolders.config_mask(self._folder, path))
                if depth < _INCLUDES_MAX:
                    self._referred(git, path, depth + 1)
            elif status is not None:
                self._guard(path, GIT)
                self._hooks(path)

    def _lexical(self, base: str, named: str) -> str | None:
        """The workspace's path of what ``named`` in the folder ``base`` is, or ``None`` when it is not in it."""
        path = os.path.normpath(os.path.join(self._folder.path, base, named))
        return path[len(self._folder.path) + 1 :] if path.startswith(f"{self._folder.path}/") else None

    def runs(self, found: Survey) -> None:
        """What runs by itself, and what must not come into being at the top."""
        for path in found.runs:
            self._guard(path, RUNS)
        for path in found.led:
            self._led(path)
        for path in found.told:
            self.add(Mask(path=path, kind="watch", why=TOLD))
        for name in runnable.ABSENT:
            if self._folder.status(name) is None:
                self.add(Mask(path=name, kind="empty-dir", absent=True))

    def installed(self, found: Survey) -> None:
        """Installed packages, also where they are going to be installed."""
        for path in found.installed:
            kind = "watch" if path in found.links else "private"
            self.add(Mask(path=path, kind=kind, why=INSTALLED))
        for name, signs in runnable.EXPECTED:
            if self._folder.status(name) is None and any(self._folder.status(sign) for sign in signs):
                self.add(Mask(path=name, kind="private", absent=True, why=INSTALLED))

    def secrets(self, found: Survey) -> None:
        """Files with secrets, and what is no file: the other end of a socket or pipe is outside."""
        for path, rule in found.secrets:
            if rule == FOLDER:
                self._cover(path, SECRET)
                continue
            target = self._folder.resolve(path) if path in found.links else path
            if target is not None:
                self._secret(path, target, rule)
        for path in found.special:
            self.add(Mask(path=path, kind="ro-data", why=SECRET))
        for path in found.closed:
            self._cover(path, HIDDEN)

    def _secret(self, path: str, target: str, rule: str) -> None:
        from leasehold.node.sandbox import placeholders

        if self._is_folder(target):
            return
        name = runnable.folded(path.rpartition("/")[2])
        content = placeholders.shown(name, rule, self._folder.read(target, placeholders.BYTES_MAX + 1), self._canary)
        if content is not None:
            self.add(Mask(path=target, kind="ro-data", content=content, why=SECRET))

    def _cover(self, path: str, why: str) -> None:
        """Nothing of it is seen."""
        target = self._folder.resolve(path)
        if target:
            kind = "empty-dir" if self._is_folder(target) else "ro-data"
            self.add(Mask(path=target, kind=kind, why=why))

    def _guard(self, path: str, why: str) -> None:
        """It is read, and not changed. A link cannot be a mount point: it is compared at the end, and what it leads to
        in the workspace is guarded."""
        status = self._folder.status(path)
        if status is None:
            return
        if stat.S_ISLNK(status.st_mode):
            self.add(Mask(path=path, kind="watch", why=why))
            self._led(path)
        else:
            self.add(Mask(path=path, kind="ro-bind", why=why))

    def _led(self, link: str) -> None:
        target = self._folder.resolve(link)
        if target and not f"{link}/".startswith(f"{target}/"):
            self.add(Mask(path=target, kind="ro-bind", why=READ_ONLY))

    def _hooks(self, path: str) -> None:
        """A hook may be a link to a script in the working tree, or another name of one."""
        names = self._folder.names(path)
        if len(names) > _HOOKS_MAX:
            raise SandboxError(f"{path!a} holds too many hooks to be protected", hint="remove what is no hook")
        for name in names:
            status = self._folder.status(f"{path}/{name}")
            if status is not None and stat.S_ISLNK(status.st_mode):
                self._led(f"{path}/{name}")
            elif status is not None and status.st_nlink > 1 and stat.S_ISREG(status.st_mode):
                self._shared[(status.st_dev, status.st_ino)] = Mask(path="", kind="ro-bind", why=READ_ONLY)

    def hard_links(self, found: Survey) -> None:
        """The other names of a masked file get the same mask."""
        for key in found.shared:
            self._shared.setdefault(key, Mask(path="", kind="ro-bind", why=READ_ONLY))
        for mask in [*self._masks.values()]:
            if mask.kind not in ("ro-bind", "ro-data") or mask.absent or mask.path.startswith("/"):
                continue
            status = self._folder.status(mask.path)
            if status is not None and stat.S_ISREG(status.st_mode) and status.st_nlink > 1:
                self._shared[(status.st_dev, status.st_ino)] = mask
        if self._shared:
            for path, key in same_files(self._folder, {*self._shared}):
                mask = self._shared[key]
                self.add(Mask(path=path, kind=mask.kind, content=mask.content, why=READ_ONLY))

    def _is_folder(self, path: str) -> bool:
        status = self._folder.status(path)
        return status is not None and stat.S_ISDIR(status.st_mode)

    def ordered(self) -> list[Mask]:
        """Outer before inner, without what has no effect inside of something hidden, read-only or private."""
        kept: dict[str, Mask] = {}
        for path in sorted(self._masks, key=lambda path: path.split("/")):
            mask = self._masks[path]
            parts = path.split("/")
            outer = {kept[above].kind for i in range(1, len(parts)) if (above := "/".join(parts[:i])) in kept}
            if "empty-dir" in outer:
                continue
            closed = not outer.isdisjoint(("ro-bind", "private"))
            if closed and (mask.absent or mask.kind not in ("ro-data", "empty-dir", "watch")):
                continue
            kept[path] = mask
        if sum(mask.kind != "watch" for mask in kept.values()) > MASKS_MAX:
            raise SandboxError(
                f"more than {MASKS_MAX} paths of the workspace would have to be protected one by one",
                hint="hide the folders that hold most of them: [sandbox] hide in leasehold.toml",
            )
        return [*kept.values()]


def describe(masks: Iterable[Mask]) -> list[str]:
    """The files of which the agent sees placeholders, or nothing, for people."""
    return [mask.path for mask in masks if mask.why in (SECRET, HIDDEN) and not mask.absent]
