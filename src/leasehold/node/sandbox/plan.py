"""Step 3: the plan of a compartment, as data. Pure; :mod:`leasehold.node.sandbox.launch` carries it out.

The file system is an allow-list: it starts empty, and each line below says what is laid into it. Everything that is
not a line is not there.
"""

from __future__ import annotations

import os

from leasehold.core.errors import ConfigError, SandboxError
from leasehold.core.record import record
from leasehold.node.sandbox.environment import CA_FILE, INSIDE, SSH_AGENT
from leasehold.node.sandbox.places import conflicts, within

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from leasehold.node.sandbox.protected import Mask
    from leasehold.node.sandbox.system import Host

HOSTNAME = "leasehold"
SSH_CONFIG = "/etc/ssh/ssh_config"
_KNOWN_HOSTS = f"{INSIDE}/known_hosts"
_SSH_CONFIG = f"""Host *
    IdentityAgent {SSH_AGENT}
    GlobalKnownHostsFile {_KNOWN_HOSTS}
    UserKnownHostsFile /dev/null
    StrictHostKeyChecking yes
    UpdateHostKeys no
    PreferredAuthentications publickey
"""

# Where Debian, Red Hat, SUSE, Alpine, Arch and OpenSSL itself look for trusted authorities.
_BUNDLES = (
    "/etc/ssl/certs/ca-certificates.crt", "/etc/ssl/cert.pem", "/etc/ssl/ca-bundle.pem",
    "/etc/pki/tls/certs/ca-bundle.crt", "/etc/pki/tls/cert.pem",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem", "/etc/ca-certificates/extracted/tls-ca-bundle.pem",
)  # fmt: skip

# What bubblewrap's --dev shows of the host's devices.
NODES = ("null", "zero", "full", "random", "urandom", "tty")


@record
class Effect:
    """One step, in order. ``dest`` is a path inside.

    ``ro-bind``: ``source``, by path; only for what the system owns. ``bind-fd``, ``ro-bind-fd``: ``source``, opened
    component by component without following links, and given to bubblewrap by descriptor (BOUNDARY F2).
    ``copy``: a new file with what ``source`` holds. ``file``: a new file with ``content``. ``data``, ``ro-data``: the
    same, mounted over what is there.
    ``tmpfs``: with ``mode``. ``dir``. ``symlink``: to ``source``. ``proc``. ``dev``. ``remount-ro``.
    """

    op: str
    dest: str
    source: str = ""
    content: bytes = b""
    mode: str = ""

    def __str__(self) -> str:
        return " ".join(part for part in (self.op, self.dest, self.source, self.mode) if part)


@record
class Mount:
    """What a mount point must be. ``tree``: mounts of the host below it came along. ``needed``: it must be there."""

    read_only: bool
    tree: bool = False
    needed: bool = True


@record
class SandboxRequest:
    """What one compartment is to have. Paths are canonical. ``persist``: (folder of the host, path inside);
    ``files``: (path inside, content, writable) of the profile's. ``tools``: the operator's. ``hidden``: files of tool
    folders, shown empty. ``forbidden``: our own folders. ``control``: of a terminal of its own, else -1. ``ssh``: the
    task's agent socket on the host, and the keys of its hosts. ``exposed``: (path inside, content) of what the task was
    started to have."""

    workspace: str
    cwd: str
    masks: tuple[Mask, ...]
    tools: tuple[str, ...]
    hidden: tuple[str, ...]
    persist: tuple[tuple[str, str], ...]
    forbidden: tuple[str, ...]
    ca_pem: bytes
    truststore: bytes | None
    grants: bytes
    machine_id: str
    files: tuple[tuple[str, bytes, bool], ...]
    control: int
    command: tuple[str, ...]
    ssh: tuple[str, bytes] | None = None
    exposed: tuple[tuple[str, bytes], ...] = ()


@record
class Plan:
    """``options``: of bubblewrap, besides the effects. ``command``: what is executed inside. What must then be seen:
    ``mounts`` by path, and of the places of credentials none but ``allowed`` and what lies in it."""

    options: tuple[str, ...]
    effects: tuple[Effect, ...]
    command: tuple[str, ...]
    mounts: tuple[tuple[str, Mount], ...]
    allowed: tuple[str, ...]


def make_plan(request: SandboxRequest, host: Host) -> Plan:
    """The whole compartment; ``SandboxError`` or ``ConfigError`` for what cannot be shown."""
    check_workspace(request.workspace, host, request.forbidden)
    for mask in request.masks:
        if mask.path.startswith("/"):  # a git folder that the workspace belongs to
            check_workspace(mask.path, host, request.forbidden)
    effects = [
        *_system(host),
        *_etc(request, host),
        *_kernel(host),
        *_scratch(host),
        *_tools(request, host),
        *_ours(request, host),
        *_workspace(request),
        # Last: until here, mount points had to be made.
        Effect(op="remount-ro", dest="/dev"),
        Effect(op="remount-ro", dest="/"),
    ]
    command = request.command
    if request.control >= 0:
        session = f"{INSIDE}/lib/leasehold/inside/session.py"
        command = (host.python, "-I", "-S", session, str(request.control), "--", *command)
    return Plan(
        options=_options(request, host),
        effects=tuple(effects),
        command=command,
        mounts=tuple((mounts(effects, host) | _private(request)).items()),
        allowed=(
            *((f"{host.home}/.gitconfig",) if host.git_user else ()),
            *((os.path.dirname(SSH_CONFIG),) if request.ssh else ()),  # a folder of ours, with this file alone
            *(inside for _, inside in request.persist),
            *(path for path, _, _ in request.files),
        ),
    )


def check_workspace(workspace: str, host: Host, forbidden: Sequence[str]) -> None:
    """Refuse a workspace that would show a place of credentials, or ours. ``forbidden``: our own folders."""
    hint = "choose the project's own folder: --workspace DIR"
    place = conflicts(workspace, host.homes)
    if place is not None:
        raise SandboxError(f"the workspace {workspace} cannot be shown to an agent because of {place}", hint=hint)
    for folder in forbidden:
        if within(folder, workspace) or within(workspace, folder):
            raise SandboxError(f"the workspace {workspace} and our own {folder} lie in each other", hint=hint)


def visible_folders(workspace: str, tools: Sequence[str], host: Host) -> tuple[str, ...]:
    """What of the host's programs can be seen inside, at the same path."""
    return ("/usr", *(path for path, _ in host.root_links), *_tool_folders(tools, host), workspace)


def _tool_folders(tools: Sequence[str], host: Host) -> list[str]:
    """Folders shown read-only at their own path: tools, and the Python that runs us when it is not the system's."""
    shown = [*host.tools, *tools]
    if not any(within(host.python_prefix, folder) for folder in ("/usr", *shown)):
        shown.append(host.python_prefix)
    return list(dict.fromkeys(shown))


def _options(request: SandboxRequest, host: Host) -> tuple[str, ...]:
    """Every namespace but the network's, which the launcher has entered. The caller's own uid, also for root: the
    workspace's files are the caller's, and no uid has a capability inside, nor a namespace where it had one."""
    return (
        *(
            "--unshare-user",
            "--unshare-pid",
            "--unshare-ipc",
            "--unshare-uts",
            "--unshare-cgroup",
            "--disable-userns",
        ),
        *("--uid", str(host.uid), "--gid", str(host.gid), "--hostname", HOSTNAME, "--cap-drop", "ALL"),
        *("--die-with-parent", "--chdir", request.cwd),
        # With a terminal of its own the session is made inside, by inside/session.py.
        *(() if request.control >= 0 else ("--new-session",)),
    )


def _system(host: Host) -> list[Effect]:
    effects = [Effect(op="ro-bind", dest="/usr", source="/usr")]
    for path, target in host.root_links:
        effects.append(Effect(op="symlink" if target else "ro-bind", dest=path, source=target or path))
    return effects + [Effect(op="tmpfs", dest=path, mode="0555") for path in host.hidden]


def _etc(request: SandboxRequest, host: Host) -> list[Effect]:
    effects = [Effect(op="dir", dest=f"/{name}", mode="0755") for name in ("etc", "etc/ssl", "run", "sys", "var")]
    effects += [Effect(op="copy", dest=path, source=path, mode="0444") for path in host.etc_files]
    effects += [Effect(op="ro-bind", dest=path, source=path) for path in host.etc_folders]
    effects += [Effect(op="symlink", dest=path, source=target) for path, target in host.etc_links]
    account = f"{host.user}:x:{host.uid}:{host.gid}:{host.user}:{host.home}:/bin/sh\n"
    others = "nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n"
    root = "" if host.uid == 0 else "root:x:0:0:root:/nonexistent:/usr/sbin/nologin\n"
    groups = f"{host.group}:x:{host.gid}:\nnogroup:x:65534:\n" + ("" if host.gid == 0 else "root:x:0:\n")
    texts = {
        "passwd": account + root + others,
        "group": groups,
        "hosts": f"127.0.0.1 localhost {HOSTNAME}\n::1 localhost ip6-localhost ip6-loopback\n",
        "resolv.conf": "nameserver 127.0.0.1\n",
        "nsswitch.conf": "".join(f"{db}: files\n" for db in ("passwd", "group", "shadow", "services", "protocols"))
        + "hosts: files dns\n",
        "hostname": f"{HOSTNAME}\n",
        "machine-id": f"{request.machine_id}\n",
        # Ours, because people export tokens in theirs; this one keeps PATH for login shells.
        "profile": '[ -n "${BASH_VERSION-}" ] && [ -r /etc/bash.bashrc ] && . /etc/bash.bashrc\ntrue\n',
        "bash.bashrc": "[ -z \"${PS1-}\" ] || PS1='(leasehold) \\w\\$ '\n",
    }
    effects += [_file(f"/etc/{name}", text.encode()) for name, text in texts.items()]
    effects += [_file(path, request.ca_pem) for path in _BUNDLES]
    if request.truststore is not None:
        effects += [
            _file(path, request.truststore)
            if within(path, "/etc")
            else Effect(op="ro-data", dest=path, content=request.truststore)
            for path in host.java_stores
        ]
    return effects


def _kernel(host: Host) -> list[Effect]:
    effects = [Effect(op="proc", dest="/proc"), Effect(op="dev", dest="/dev")]
    # bubblewrap covers only what its user could write to itself: not this folder, whose files are uid 0's.
    effects.append(Effect(op="ro-bind", dest="/proc/sys", source="/proc/sys"))
    effects += [Effect(op="ro-data", dest=path) for path in host.proc_files]
    effects += [Effect(op="tmpfs", dest=path, mode="0555") for path in host.proc_folders]
    effects.append(Effect(op="tmpfs", dest="/dev/shm", mode="1777"))
    if host.cpu:
        effects.append(Effect(op="ro-bind", dest="/sys/devices/system/cpu", source="/sys/devices/system/cpu"))
    return effects


def _scratch(host: Host) -> list[Effect]:
    return [
        Effect(op="symlink", dest="/var/run", source="/run"),
        Effect(op="tmpfs", dest="/tmp", mode="1777"),
        Effect(op="tmpfs", dest="/var/tmp", mode="1777"),
        Effect(op="tmpfs", dest=host.home, mode="0700"),
    ]


def _tools(request: SandboxRequest, host: Host) -> list[Effect]:
    folders = _tool_folders(request.tools, host)
    for folder in folders:
        place = conflicts(folder, host.homes)
        if place is not None:
            raise ConfigError(
                f"sandbox.tools: {folder} cannot be shown to an agent because of {place}",
                hint="name a narrower folder",
            )
    effects = [Effect(op="ro-bind-fd", dest=folder, source=folder) for folder in folders]
    return effects + [Effect(op="ro-data", dest=path) for path in request.hidden]


def _ours(request: SandboxRequest, host: Host) -> list[Effect]:
    script = (
        f"#!{host.python} -IS\n"
        "import sys\n"
        f"sys.path.insert(0, {INSIDE + '/lib'!r})\n"
        "from leasehold.inside.agent import main\n"
        "sys.exit(main(sys.argv[1:]))\n"
    )
    effects = [
        _file(CA_FILE, request.ca_pem),
        _file(f"{INSIDE}/grants.json", request.grants),
        _file(f"{INSIDE}/bin/leasehold", script.encode(), mode="0555"),
        _file(f"{INSIDE}/lib/leasehold/__init__.py", b""),
    ]
    if request.truststore is not None:
        effects.append(_file(f"{INSIDE}/truststore.p12", request.truststore))
    for part in ("core", "inside"):
        effects.append(Effect(op="ro-bind-fd", dest=f"{INSIDE}/lib/leasehold/{part}", source=f"{host.package}/{part}"))
    if request.ssh is not None:
        socket, known_hosts = request.ssh
        effects += [
            Effect(op="bind-fd", dest=SSH_AGENT, source=socket),
            _file(_KNOWN_HOSTS, known_hosts),
            _file(SSH_CONFIG, _SSH_CONFIG.encode()),
        ]
    effects += [_file(path, content, mode="0400") for path, content in request.exposed]
    git = "".join(f'\t{key} = "{value}"\n' for key, value in host.git_user if value)
    if git:
        effects.append(_file(f"{host.home}/.gitconfig", f"[user]\n{git}".encode(), mode="0600"))
    return effects


def _workspace(request: SandboxRequest) -> list[Effect]:
    effects = [Effect(op="bind-fd", dest=inside, source=folder) for folder, inside in request.persist]
    for path, content, writable in request.files:
        # A mount, where the file must stay what it is or must not stay for the next run.
        kept = any(within(path, inside) for _, inside in request.persist)
        op = ("data" if kept else "file") if writable else "ro-data"
        effects.append(Effect(op=op, dest=path, content=content, mode="0600"))
    effects.append(Effect(op="bind-fd", dest=request.workspace, source=request.workspace))
    for mask in request.masks:
        path = os.path.join(request.workspace, mask.path)
        if mask.kind == "rw-bind":
            effects.append(Effect(op="bind-fd", dest=path, source=path))
        elif mask.kind == "ro-bind":
            effects.append(Effect(op="ro-bind-fd", dest=path, source=path))
        elif mask.kind == "ro-data":
            effects.append(Effect(op="ro-data", dest=path, content=mask.content))
        elif mask.kind == "empty-dir":
            effects += _empty(path)
        elif mask.kind not in ("private", "watch"):
            raise SandboxError(f"no such kind of mask: {mask.kind!a}", hint="this is a defect: please report it")
    return effects


def _private(request: SandboxRequest) -> dict[str, Mount]:
    """Mounted before bubblewrap starts (:mod:`overlay`), which brings them along with the workspace."""
    paths = [f"{request.workspace}/{mask.path}" for mask in request.masks if mask.kind == "private"]
    return dict.fromkeys(paths, Mount(read_only=False, tree=True))


def _file(dest: str, content: bytes, mode: str = "0444") -> Effect:
    return Effect(op="file", dest=dest, content=content, mode=mode)


def _empty(dest: str) -> list[Effect]:
    return [Effect(op="tmpfs", dest=dest, mode="0755"), Effect(op="remount-ro", dest=dest)]


def mounts(effects: Sequence[Effect], host: Host) -> dict[str, Mount]:
    """Every mount that carrying out ``effects`` leads to, by path; of several on one path the topmost counts."""
    root = host.uid == 0
    points = {"/": Mount(read_only=False)}
    for effect in effects:
        if effect.op in ("ro-bind", "ro-bind-fd", "bind-fd"):
            points[effect.dest] = Mount(read_only=effect.op != "bind-fd", tree=True)
        elif effect.op in ("ro-data", "remount-ro"):
            points[effect.dest] = Mount(read_only=True)
        elif effect.op in ("data", "tmpfs", "proc", "dev"):
            points[effect.dest] = Mount(read_only=False)
    # What bubblewrap adds by itself: it covers what its user could write to, and shows devices.
    points |= {path: Mount(read_only=True, tree=True, needed=root) for path in host.proc_read_only}
    points |= {f"/dev/{node}": Mount(read_only=root) for node in NODES}
    points["/dev/pts"] = Mount(read_only=False)
    points["/dev/console"] = Mount(read_only=False, needed=False)
    return points
