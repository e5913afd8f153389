"""What the plan of a compartment needs to know about this host. Reads only; what is absent is simply not shown."""

from __future__ import annotations

import os
import pwd
import stat
import sys

from leasehold.core.record import record
from leasehold.node.sandbox import places

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

_ROOT = ("bin", "sbin", "lib", "lib32", "lib64", "libx32")
# Settings of the whole machine that tools look up there; registry tokens have been seen among them.
_USR_HIDDEN = ("/usr/etc", "/usr/local/etc")

# What of /etc is harmless and needed. Not: profile.d, profile, bash.bashrc, environment (people export tokens there),
# gitconfig, pip.conf, npmrc, wgetrc, maven/settings.xml, apt (the same, by name). Files are copied, which costs less
# than a mount each; folders are mounted.
_ETC = (
    "ld.so.cache", "ld.so.preload", "ld-musl-x86_64.path", "ld-musl-aarch64.path", "localtime", "timezone",
    "mime.types", "protocols", "services", "rpc", "networks", "os-release", "lsb-release", "debian_version",
    "redhat-release", "system-release", "alpine-release", "arch-release", "inputrc", "magic",
    "locale.alias", "locale.conf", "gai.conf", "host.conf", "login.defs", "shells", "xattr.conf",
    "ssl/openssl.cnf", "pki/tls/openssl.cnf", "maven/m2.conf", "maven/logging/simplelogger.properties",
    "manpath.config", "man_db.conf", "nanorc",
)  # fmt: skip
_ETC_FOLDERS = ("alternatives", "fonts", "crypto-policies", "ssl/openssl.conf.d")
_ETC_FOLDER_PREFIX = "java-"

# Folders of tools that people install into their home. ~/.local/share/uv itself can hold credentials, hence its parts.
_TOOLS = (
    ".local/bin", ".local/lib", ".local/share/uv/python", ".local/share/uv/tools", ".local/share/pipx",
    ".local/share/claude", ".local/share/mise", ".local/share/fnm", ".local/share/pnpm", ".nvm", ".pyenv", ".rbenv",
    ".nodenv", ".goenv", ".asdf", ".volta", ".sdkman", ".cargo/bin", ".rustup", ".bun/bin", ".bun/install/global",
    ".deno/bin", ".npm-global", ".yarn/bin", ".opencode/bin", "go/bin", "bin",
)  # fmt: skip

# As uid 0 the agent owns these files of the host's kernel; capabilities do not guard every one of them.
_PROC_FOLDERS = ("acpi", "asound", "driver", "dynamic_debug", "fs", "mpt", "pressure", "scsi")
_PROC_WORLD_WRITABLE = ("pressure",)
_PROC_KEYS = ("keys", "key-users")
# bubblewrap shows these read-only where its user could write.
_PROC_READ_ONLY = ("sysrq-trigger", "irq", "bus")


@record
class Host:
    """Facts about the host and its user. Paths are absolute; all that are named exist."""

    machine: str
    uid: int
    gid: int
    user: str
    group: str
    home: str
    homes: tuple[str, ...]
    root_links: tuple[tuple[str, str], ...]
    etc_files: tuple[str, ...]
    etc_folders: tuple[str, ...]
    etc_links: tuple[tuple[str, str], ...]
    hidden: tuple[str, ...]
    proc_files: tuple[str, ...]
    proc_folders: tuple[str, ...]
    proc_read_only: tuple[str, ...]
    cpu: bool
    tools: tuple[str, ...]
    java_stores: tuple[str, ...]
    python: str
    python_prefix: str
    package: str
    git_user: tuple[tuple[str, str], ...]


def look(environ: Mapping[str, str]) -> Host:
    """Look at the host. ``root_links``: (path, target), the target empty for a real folder."""
    import leasehold

    entry = pwd.getpwuid(os.getuid())
    homes = tuple(dict.fromkeys(os.path.realpath(home) for home in (environ.get("HOME") or entry.pw_dir, entry.pw_dir)))
    home = homes[0] if _can_be_home(homes[0]) else f"/home/{entry.pw_name}"
    links = [f"/{name}" for name in _ROOT if os.path.lexists(f"/{name}")]
    proc_files, proc_folders = _proc(entry.pw_uid)
    etc = [path for path in (f"/etc/{name}" for name in _ETC) if os.path.lexists(path)]
    folders = [f"/etc/{name}" for name in _ETC_FOLDERS]
    folders += [f"/etc/{name}" for name in sorted(os.listdir("/etc")) if name.startswith(_ETC_FOLDER_PREFIX)]
    return Host(
        machine=os.uname().machine,
        uid=entry.pw_uid,
        gid=os.getgid(),
        user=entry.pw_name,
        group=_group(os.getgid()),
        home=home,
        homes=homes,
        root_links=tuple((path, os.readlink(path) if os.path.islink(path) else "") for path in links),
        etc_files=tuple(path for path in etc if not os.path.islink(path)),
        etc_folders=tuple(path for path in folders if os.path.isdir(path)),
        etc_links=tuple((path, os.readlink(path)) for path in etc if os.path.islink(path)),
        hidden=tuple(path for path in _USR_HIDDEN if os.path.isdir(path)),
        proc_files=proc_files,
        proc_folders=proc_folders,
        proc_read_only=tuple(f"/proc/{name}" for name in _PROC_READ_ONLY if os.path.exists(f"/proc/{name}")),
        cpu=os.path.isdir("/sys/devices/system/cpu"),
        tools=_tools(home, homes, environ.get("PATH", "")),
        java_stores=_java_stores(environ.get("JAVA_HOME", "")),
        python=os.path.realpath(sys.executable),
        python_prefix=os.path.realpath(sys.base_prefix),
        package=os.path.dirname(os.path.realpath(str(leasehold.__file__))),
        git_user=_git_user(homes[0]),
    )


def settings_in(folders: Iterable[str]) -> list[str]:
    """Files in tool folders where a registry's token may stand; they are shown empty."""
    return [path for folder in folders for pattern in places.IN_TOOLS for path in _expand(folder, pattern.split("/"))]


def _can_be_home(home: str) -> bool:
    """Whether an empty folder can be laid over ``home``: not ``/`` and nothing that the system needs."""
    needed = ("/usr", "/etc", "/proc", "/sys", "/dev", "/run", "/bin", "/sbin", "/lib", "/nonexistent")
    return home != "/" and not any(places.within(home, folder) for folder in needed)


def _group(gid: int) -> str:
    import grp

    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        return "users"


def _expand(folder: str, pattern: list[str]) -> list[str]:
    """Existing paths under ``folder`` that match; ``*`` is one whole segment."""
    if not pattern:
        return [folder] if os.path.lexists(folder) else []
    if pattern[0] != "*":
        return _expand(f"{folder}/{pattern[0]}", pattern[1:])
    try:
        names = sorted(os.listdir(folder))
    except OSError:
        return []
    return [path for name in names for path in _expand(f"{folder}/{name}", pattern[1:])]


def _tools(home: str, homes: tuple[str, ...], path: str) -> tuple[str, ...]:
    """Well-known tool folders under home, and folders of ``PATH`` there; none inside another, none near a place."""
    found: list[str] = []
    for folder in (*(f"{home}/{name}" for name in _TOOLS), *path.split(":")):
        inside_home = places.within(folder, home) and os.path.normpath(folder) == folder
        if not inside_home or not os.path.isdir(folder) or any(places.within(folder, seen) for seen in found):
            continue
        if places.conflicts(folder, homes) is None and places.conflicts(os.path.realpath(folder), homes) is None:
            found.append(folder)
    return tuple(found)


def _proc(uid: int) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Files and folders of /proc to mask: the keyrings and what everybody could write, and for uid 0 what it could
    write or only it may read."""
    files = [f"/proc/{name}" for name in _PROC_KEYS if os.path.exists(f"/proc/{name}")]
    folders = _PROC_FOLDERS if uid == 0 else _PROC_WORLD_WRITABLE
    found = tuple(f"/proc/{name}" for name in folders if os.path.isdir(f"/proc/{name}"))
    if uid != 0:
        return tuple(files), found
    for name in sorted(os.listdir("/proc")):
        if not name.isdigit() and name not in _PROC_READ_ONLY:
            mode = os.lstat(f"/proc/{name}").st_mode
            if stat.S_ISREG(mode) and (mode & 0o222 or not mode & 0o004):
                files.append(f"/proc/{name}")
    return tuple(files), found


def _java_stores(java_home: str) -> tuple[str, ...]:
    """The trust stores of the Javas that can be seen, after links: Debian keeps one for all under /etc/ssl."""
    stores = _expand("/usr/lib/jvm", ["*", "lib", "security", "cacerts"])
    if java_home.startswith("/"):
        stores += _expand(os.path.normpath(java_home), ["lib", "security", "cacerts"])
    return tuple(dict.fromkeys(os.path.realpath(path) for path in stores))


def _git_user(home: str) -> tuple[tuple[str, str], ...]:
    """Name and e-mail of the caller's git configuration, read here so that nothing else of it is."""
    text = ""
    for path in (f"{home}/.config/git/config", f"{home}/.gitconfig"):
        try:
            with open(path, encoding="utf-8", errors="replace") as file:
                text += file.read(65536) + "\n"
        except OSError:
            continue
    return tuple(git_user(text).items())


def git_user(text: str) -> dict[str, str]:
    """``name`` and ``email`` of section ``[user]`` (git-config(1), without includes and continued lines)."""
    found: dict[str, str] = {}
    section = ""
    for line in text.splitlines():
        line = line.strip()
        if line.startswith("["):
            section = line.strip("[]").strip().lower()
        elif section == "user" and "=" in line:
            key, _, value = line.partition("=")
            value = value.strip()
            value = value[1:-1] if value[:1] == value[-1:] == '"' else value.split(" #")[0].split(" ;")[0].strip()
            found[key.strip().lower()] = "".join(c for c in value if c.isprintable() and c not in '"\\')
    return {key: value for key, value in found.items() if key in ("name", "email")}
