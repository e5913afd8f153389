"""What of a workspace is laid over before an agent gets it: what would run later, outside, and what is secret.

The workspace is writable, except for what a person's git, editor or shell would execute afterwards. A protected path
below a folder that is no mount point could be renamed away, so such a folder is bound onto itself first. What does not
exist yet gets a mount point, which the hand-back removes. Secrets are recognised by name, and read as placeholders.
"""

from __future__ import annotations

import os
import re
from fnmatch import fnmatchcase

from leasehold.core.errors import SandboxError
from leasehold.core.record import record
from leasehold.node.sandbox.gitfiles import without_secrets

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from leasehold.core.model import SandboxSettings

ENTRIES_MAX = 400_000
_READ_MAX = 1 << 20

RUN_LATER_FOLDERS = (
    ".claude", ".codex", ".cursor", ".devcontainer", ".direnv", ".gemini", ".githooks", ".husky", ".idea", ".vscode",
    ".zed",
)  # fmt: skip
RUN_LATER_FILES = (".envrc", ".mcp.json", "leasehold.toml")
# Protected where they exist; making them up would show in the agent's git.
RUN_LATER_IF_THERE = (
    ".aider.conf.yml", ".cursorrules", ".exrc", ".lfsconfig", ".nvimrc", ".pre-commit-config.yaml", ".tool-versions",
    ".vimrc", ".windsurfrules", "mise.toml",
)  # fmt: skip
_NOT_ENTERED = frozenset({"node_modules", ".venv", "venv", "__pycache__", ".tox", ".mypy_cache", ".git"})

_ENV_FILE = re.compile(r"\.env(\..+)?\Z|.+\.env\Z", re.IGNORECASE)
_ENV_SAMPLE = re.compile(r"\.(example|sample|template|dist|tpl)\Z", re.IGNORECASE)
_SECRET_NAMES = (
    "*.key", "*.p12", "*.pfx", "*.jks", "*.kdb", "*.kdbx", "*.keystore", "*.ppk", "id_rsa", "id_ecdsa", "id_ed25519",
    "id_dsa", ".pypirc", ".netrc", "_netrc", ".git-credentials", ".pgpass", ".my.cnf", ".vault-token", "*.tfstate",
    "*.tfstate.*", "*.tfvars", "*.tfvars.json", "secrets.yml", "secrets.yaml", "secrets.json", "credentials.json",
    "*service-account*.json", "*service_account*.json", "master.key", "kubeconfig", ".dockercfg", "auth.json",
    ".terraformrc", "credentials.tfrc.json",
)  # fmt: skip
_MAYBE = (("*.pem", b"PRIVATE KEY"), (".npmrc", b"_auth"), (".npmrc", b"_password"), (".yarnrc.yml", b"npmAuth"),
          ("config.json", b'"auths"'), ("*.kubeconfig", b"client-key"))  # fmt: skip
_NOTE = b"# leasehold: this file is not shown to agents\n"
_ASSIGNMENT = re.compile(r"\s*(?:export\s+)?([A-Za-z_][A-Za-z0-9_.-]*)\s*[=:]")


@record
class Mask:
    """One thing that is laid over ``path`` (relative to the workspace), in order.

    ``rw-bind``: itself, so that it cannot be renamed. ``ro-bind``: itself, read-only. ``ro-data``: a file with
    ``content``. ``empty-dir``: nothing, read-only. ``absent``: there is nothing now, so a mount point has to be made.
    """

    path: str
    kind: str
    content: bytes = b""
    absent: bool = False


def workspace_masks(workspace: str, settings: SandboxSettings, canary: Callable[[str], str]) -> list[Mask]:
    """All masks for ``workspace`` (absolute, canonical). ``canary``: a prefix to a placeholder value.

    Reads names, and the content of few files; never follows a link. ``SandboxError`` when it is too large to look at.
    """
    masks: list[Mask] = []
    for folder, entries in walk(workspace):
        names = {entry.name: entry for entry in entries}
        for name, entry in names.items():
            path = f"{folder}{name}"
            if name == ".git":
                masks += _git(workspace, path, entry)
            else:
                masks += _entry(workspace, path, entry, settings, canary)
        if not folder:
            masks += _absent(names)
    return masks


def walk(workspace: str) -> Iterator[tuple[str, list[os.DirEntry[str]]]]:
    """Each folder (relative, with a trailing slash; the top is empty) and its entries. Links are not followed."""
    waiting, seen = [""], 0
    while waiting:
        folder = waiting.pop()
        try:
            with os.scandir(f"{workspace}/{folder}") as found:
                entries = list(found)
        except (FileNotFoundError, NotADirectoryError, PermissionError):
            continue  # gone meanwhile, or not the caller's to read, and so not the agent's
        seen += len(entries)
        if seen > ENTRIES_MAX:
            raise SandboxError(
                f"the workspace {workspace} has more than {ENTRIES_MAX} entries, too many to look for secrets",
                hint="choose a smaller folder: --workspace DIR",
            )
        yield folder, entries
        waiting += [
            f"{folder}{e.name}/" for e in entries if e.is_dir(follow_symlinks=False) and e.name not in _NOT_ENTERED
        ]


def _entry(
    workspace: str, path: str, entry: os.DirEntry[str], settings: SandboxSettings, canary: Callable[[str], str]
) -> list[Mask]:
    name, is_folder = entry.name.lower(), entry.is_dir(follow_symlinks=False)
    if _chosen(path, settings.hide):
        return [Mask(path=path, kind="empty-dir") if is_folder else Mask(path=path, kind="ro-data", content=_NOTE)]
    if entry.is_symlink():
        # A link cannot be mounted over; what it leads to is masked where it lies, or is not there at all.
        return []
    if is_folder:
        protected = name in RUN_LATER_FOLDERS or _chosen(path, settings.read_only)
        return [Mask(path=path, kind="ro-bind")] if protected else []
    if not entry.is_file(follow_symlinks=False):
        return []
    content = _placeholder(f"{workspace}/{path}", name, canary)
    if content is not None:
        return [Mask(path=path, kind="ro-data", content=content)]
    if name in RUN_LATER_FILES or name in RUN_LATER_IF_THERE or _chosen(path, settings.read_only):
        return [Mask(path=path, kind="ro-bind")]
    return []


def _absent(names: dict[str, os.DirEntry[str]]) -> list[Mask]:
    """What is not at the top now must not be made there either. Empty folders do not show in git."""
    taken = {name.lower() for name in names}
    wanted = (*RUN_LATER_FOLDERS, *RUN_LATER_FILES)
    return [Mask(path=name, kind="empty-dir", absent=True) for name in wanted if name not in taken]


def _git(workspace: str, path: str, entry: os.DirEntry[str]) -> list[Mask]:
    """A repository: the folder itself stays in its place, and what git executes or believes cannot be changed."""
    if not entry.is_dir(follow_symlinks=False):
        return [Mask(path=path, kind="ro-bind")] if entry.is_file(follow_symlinks=False) else []
    masks = [Mask(path=path, kind="rw-bind"), *_git_folder(workspace, path)]
    modules = f"{workspace}/{path}/modules"
    for folder, names, files in os.walk(modules, followlinks=False):
        if "HEAD" in files and "config" in files:
            masks += _git_folder(workspace, os.path.relpath(folder, workspace))
            names[:] = [name for name in names if name == "modules"]
    return masks


def _git_folder(workspace: str, path: str) -> list[Mask]:
    masks = []
    for name in ("hooks", "info"):
        there = os.path.isdir(f"{workspace}/{path}/{name}")
        kind = "ro-bind" if there else "empty-dir"
        masks.append(Mask(path=f"{path}/{name}", kind=kind, absent=not there))
    masks.append(_git_config(workspace, f"{path}/config"))
    if os.path.isfile(f"{workspace}/{path}/config.worktree"):
        masks.append(Mask(path=f"{path}/config.worktree", kind="ro-bind"))
    if not os.path.lexists(f"{workspace}/{path}/commondir"):
        # It would move the configuration elsewhere; this one says: here.
        masks.append(Mask(path=f"{path}/commondir", kind="ro-data", content=b".\n", absent=True))
    return masks


def _git_config(workspace: str, path: str) -> Mask:
    content = _read(f"{workspace}/{path}")
    if content is None:
        return Mask(path=path, kind="ro-data", absent=not os.path.lexists(f"{workspace}/{path}"))
    clean = without_secrets(content)
    return Mask(path=path, kind="ro-bind") if clean == content else Mask(path=path, kind="ro-data", content=clean)


def _placeholder(path: str, name: str, canary: Callable[[str], str]) -> bytes | None:
    """What the agent reads instead of a secret file; ``None`` for a file that is none."""
    if _ENV_FILE.match(name) and not _ENV_SAMPLE.search(name):
        text = (_read(path) or b"").decode(errors="replace")
        keys = [m[1] for line in text.splitlines() if (m := _ASSIGNMENT.match(line))]
        return _NOTE + "".join(f"{key}={canary('')}\n" for key in dict.fromkeys(keys)).encode()
    if any(fnmatchcase(name, pattern) for pattern in _SECRET_NAMES):
        return _NOTE
    for pattern, mark in _MAYBE:
        if fnmatchcase(name, pattern) and mark in (_read(path) or mark):
            return _NOTE
    return None


def _read(path: str) -> bytes | None:
    """The content of an ordinary file; ``None`` for anything else, and for one that is too large to be looked at."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return None
    with os.fdopen(fd, "rb") as file:
        data = file.read(_READ_MAX + 1)
    return data if len(data) <= _READ_MAX else None


def _chosen(path: str, patterns: tuple[str, ...]) -> bool:
    """Whether the operator or the project named this path; a pattern without a slash means the name anywhere."""
    name = path.rpartition("/")[2]
    return any(fnmatchcase(path if "/" in pattern else name, pattern.strip("/")) for pattern in patterns)
