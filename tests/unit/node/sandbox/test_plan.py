"""The plan, asserted as a script: what is laid into the empty root, in order."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from fakes.hosts import a_host, a_request
from leasehold.core.errors import ConfigError, SandboxError
from leasehold.node.sandbox.plan import Effect, Mount, make_plan, mounts, visible_folders


@dataclass(frozen=True)
class Laid:
    """Stands for a mask of :mod:`leasehold.node.sandbox.protected`."""

    path: str
    kind: str
    content: bytes = b""


SCRIPT = """\
ro-bind /usr /usr
symlink /bin usr/bin
ro-bind /opt-lib /opt-lib
tmpfs /usr/local/etc 0555
dir /etc 0755
dir /etc/ssl 0755
dir /run 0755
dir /sys 0755
dir /var 0755
copy /etc/services /etc/services 0444
ro-bind /etc/alternatives /etc/alternatives
symlink /etc/localtime /usr/share/zoneinfo/UTC
file /etc/passwd 0444
file /etc/group 0444
file /etc/hosts 0444
file /etc/resolv.conf 0444
file /etc/nsswitch.conf 0444
file /etc/hostname 0444
file /etc/machine-id 0444
file /etc/profile 0444
file /etc/bash.bashrc 0444
file /etc/ssl/certs/ca-certificates.crt 0444
file /etc/ssl/cert.pem 0444
file /etc/ssl/ca-bundle.pem 0444
file /etc/pki/tls/certs/ca-bundle.crt 0444
file /etc/pki/tls/cert.pem 0444
file /etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem 0444
file /etc/ca-certificates/extracted/tls-ca-bundle.pem 0444
proc /proc
dev /dev
ro-bind /proc/sys /proc/sys
ro-data /proc/keys
tmpfs /dev/shm 1777
ro-bind /sys/devices/system/cpu /sys/devices/system/cpu
symlink /var/run /run
tmpfs /tmp 1777
tmpfs /var/tmp 1777
tmpfs /home/ann 0700
ro-bind-fd /home/ann/.cargo/bin /home/ann/.cargo/bin
file /run/leasehold/ca.pem 0444
file /run/leasehold/grants.json 0444
file /run/leasehold/bin/leasehold 0555
file /run/leasehold/lib/leasehold/__init__.py 0444
ro-bind-fd /run/leasehold/lib/leasehold/core /usr/lib/leasehold/core
ro-bind-fd /run/leasehold/lib/leasehold/inside /usr/lib/leasehold/inside
file /home/ann/.gitconfig 0600
bind-fd /home/ann/web /home/ann/web
remount-ro /dev
remount-ro /
"""


def contents(effects: tuple[Effect, ...]) -> dict[str, str]:
    return {effect.dest: effect.content.decode() for effect in effects if effect.content}


def test_the_whole_plan() -> None:
    plan = make_plan(a_request(), a_host())
    assert "".join(f"{effect}\n" for effect in plan.effects) == SCRIPT
    assert plan.command == ("make", "test")
    assert plan.allowed == ("/home/ann/.gitconfig",)


def test_options_unshare_everything_but_the_network() -> None:
    options = " ".join(make_plan(a_request(), a_host()).options)
    assert options == (
        "--unshare-user --unshare-pid --unshare-ipc --unshare-uts --unshare-cgroup --disable-userns "
        "--uid 1000 --gid 1000 --hostname leasehold --cap-drop ALL --die-with-parent --chdir /home/ann/web/src "
        "--new-session"
    )


def test_a_terminal_has_its_session_made_inside() -> None:
    plan = make_plan(a_request(control=9), a_host())
    assert "--new-session" not in plan.options
    session = "/run/leasehold/lib/leasehold/inside/session.py"
    assert plan.command == ("/usr/bin/python3.11", "-I", "-S", session, "9", "--", "make", "test")


def test_files_that_are_made() -> None:
    made = contents(make_plan(a_request(), a_host()).effects)
    assert made["/etc/passwd"] == (
        "ann:x:1000:1000:ann:/home/ann:/bin/sh\nroot:x:0:0:root:/nonexistent:/usr/sbin/nologin\n"
        "nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n"
    )
    assert made["/etc/group"] == "staff:x:1000:\nnogroup:x:65534:\nroot:x:0:\n"
    assert made["/etc/resolv.conf"] == "nameserver 127.0.0.1\n"
    assert made["/home/ann/.gitconfig"] == '[user]\n\tname = "Ann"\n\temail = "ann@work.test"\n'
    assert made["/run/leasehold/bin/leasehold"].startswith("#!/usr/bin/python3.11 -IS\n")
    assert made["/run/leasehold/ca.pem"] == made["/etc/ssl/certs/ca-certificates.crt"] == "CA"


def test_root_keeps_its_own_name() -> None:
    made = contents(make_plan(a_request(), a_host(uid=0, gid=0, user="root", group="root")).effects)
    assert made["/etc/passwd"].startswith("root:x:0:0:root:/home/ann:/bin/sh\nnobody:")
    assert made["/etc/group"] == "root:x:0:\nnogroup:x:65534:\n"


def test_without_a_git_user_there_is_no_gitconfig() -> None:
    assert "/home/ann/.gitconfig" not in contents(make_plan(a_request(), a_host(git_user=())).effects)


def test_java_trust() -> None:
    effects = make_plan(a_request(truststore=b"P12"), a_host()).effects
    found = [str(effect) for effect in effects if effect.content == b"P12"]
    assert found == [
        "file /etc/ssl/certs/java/cacerts 0444",
        "ro-data /usr/lib/jvm/x/lib/security/cacerts",
        "file /run/leasehold/truststore.p12 0444",
    ]


def test_tools_of_the_operator_and_a_python_outside_the_system() -> None:
    request = a_request(tools=("/opt/sdk",), hidden=("/opt/sdk/etc/npmrc",))
    host = a_host(python_prefix="/opt/python", cpu=False, proc_folders=("/proc/acpi",))
    script = [str(effect) for effect in make_plan(request, host).effects]
    at = script.index("ro-bind-fd /home/ann/.cargo/bin /home/ann/.cargo/bin")
    assert script[at + 1 : at + 4] == [
        "ro-bind-fd /opt/sdk /opt/sdk",
        "ro-bind-fd /opt/python /opt/python",
        "ro-data /opt/sdk/etc/npmrc",
    ]
    assert "tmpfs /proc/acpi 0555" in script
    assert "ro-bind /sys/devices/system/cpu /sys/devices/system/cpu" not in script
    assert visible_folders("/w", ("/opt/sdk",), host) == (
        *("/usr", "/bin", "/opt-lib", "/home/ann/.cargo/bin", "/opt/sdk", "/opt/python", "/w"),
    )


@pytest.mark.parametrize("folder", ["/home/ann/.aws", "/home/ann", "/", "/run/x", "/etc", "/home/ann/.config"])
def test_tools_near_a_place_of_credentials_are_refused(folder: str) -> None:
    with pytest.raises(ConfigError, match=r"sandbox\.tools"):
        make_plan(a_request(tools=(folder,)), a_host())


@pytest.mark.parametrize(
    "workspace",
    [
        "/",
        "/home",
        "/home/ann",
        "/home/ann/.ssh",
        "/home/ann/.config",
        "/etc",
        "/proc/1/cwd",
        "/dev/shm",
        "/run/user/7",
    ],
)
def test_workspaces_that_would_show_a_place_are_refused(workspace: str) -> None:
    with pytest.raises(SandboxError, match="cannot be shown"):
        make_plan(a_request(workspace=workspace), a_host())


@pytest.mark.parametrize("workspace", ["/srv/lh", "/srv/lh/state", "/srv/lh/state/deep"])
def test_workspaces_around_our_own_folders_are_refused(workspace: str) -> None:
    with pytest.raises(SandboxError, match="lie in each other"):
        make_plan(a_request(workspace=workspace, forbidden=("/srv/lh/state",)), a_host())
    make_plan(a_request(workspace="/srv/lh-other", forbidden=("/srv/lh/state",)), a_host())


def test_masks_are_laid_in_their_order() -> None:
    masks = (
        Laid(".git", "rw-bind"),
        Laid(".git/hooks", "ro-bind"),
        Laid(".env", "ro-data", b"KEY=placeholder"),
        Laid("node_modules/.bin", "empty-dir"),
    )
    effects = make_plan(a_request(masks=masks), a_host()).effects
    assert [str(effect) for effect in effects[-8:-2]] == [
        "bind-fd /home/ann/web /home/ann/web",
        "bind-fd /home/ann/web/.git /home/ann/web/.git",
        "ro-bind-fd /home/ann/web/.git/hooks /home/ann/web/.git/hooks",
        "ro-data /home/ann/web/.env",
        "tmpfs /home/ann/web/node_modules/.bin 0755",
        "remount-ro /home/ann/web/node_modules/.bin",
    ]
    assert contents(effects)["/home/ann/web/.env"] == "KEY=placeholder"


def test_masks_without_an_effect_of_bubblewraps() -> None:
    plan = make_plan(a_request(masks=(Laid("node_modules", "private"), Laid(".x", "watch"))), a_host())
    assert str(plan.effects[-3]) == "bind-fd /home/ann/web /home/ann/web"
    assert dict(plan.mounts)["/home/ann/web/node_modules"] == Mount(read_only=False, tree=True)
    assert "/home/ann/web/.x" not in dict(plan.mounts)


def test_a_git_folder_elsewhere() -> None:
    plan = make_plan(a_request(masks=(Laid("/home/ann/main/.git", "rw-bind"),)), a_host())
    assert str(plan.effects[-3]) == "bind-fd /home/ann/main/.git /home/ann/main/.git"
    with pytest.raises(SandboxError, match="cannot be shown"):
        make_plan(a_request(masks=(Laid("/home/ann/.ssh/x/.git", "rw-bind"),)), a_host())


def test_an_unknown_mask_is_never_left_out() -> None:
    with pytest.raises(SandboxError, match="no such kind"):
        make_plan(a_request(masks=(Laid("x", "new-kind"),)), a_host())


def test_folders_that_persist_and_files_of_a_profile() -> None:
    request = a_request(
        persist=(("/state/homes/k/.claude", "/home/ann/.claude"),),
        files=(
            ("/home/ann/.claude/settings.json", b"{1}", True),
            ("/home/ann/.claude/.credentials.json", b"{2}", False),
            ("/home/ann/.claude.json", b"{3}", True),
        ),
    )
    plan = make_plan(request, a_host())
    assert [str(effect) for effect in plan.effects[-7:-3]] == [
        "bind-fd /home/ann/.claude /state/homes/k/.claude",
        "data /home/ann/.claude/settings.json 0600",
        "ro-data /home/ann/.claude/.credentials.json 0600",
        "file /home/ann/.claude.json 0600",
    ]
    assert plan.allowed[:2] == ("/home/ann/.gitconfig", "/home/ann/.claude")
    assert plan.allowed[-1] == "/home/ann/.claude.json"


def test_mounts_that_must_come_out() -> None:
    plan = make_plan(a_request(masks=(Laid(".env", "ro-data"), Laid("x", "empty-dir"))), a_host())
    seen = dict(plan.mounts)
    assert seen["/"] == seen["/dev"] == Mount(read_only=True)
    assert seen["/usr"] == Mount(read_only=True, tree=True)
    assert seen["/home/ann/web"] == Mount(read_only=False, tree=True)
    assert seen["/home/ann/web/.env"] == seen["/home/ann/web/x"] == Mount(read_only=True)
    assert seen["/home/ann"] == seen["/proc"] == seen["/dev/pts"] == seen["/dev/null"] == Mount(read_only=False)
    assert seen["/proc/irq"] == Mount(read_only=True, tree=True, needed=False)
    assert seen["/dev/console"] == Mount(read_only=False, needed=False)


def test_mounts_that_must_come_out_for_root() -> None:
    seen = mounts([Effect(op="data", dest="/x"), Effect(op="ro-bind-fd", dest="/y")], a_host(uid=0))
    assert seen["/dev/null"] == seen["/dev/tty"] == Mount(read_only=True)
    assert seen["/proc/irq"] == Mount(read_only=True, tree=True)
    assert (seen["/x"], seen["/y"]) == (Mount(read_only=False), Mount(read_only=True, tree=True))
