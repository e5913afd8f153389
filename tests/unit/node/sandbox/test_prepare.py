"""From a reply of the broker's to a request for a compartment."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from fakes.hosts import a_host
from fakes.launcher import REPLY
from leasehold.core.errors import CommandNotExecutable, CommandNotFound, ConfigError
from leasehold.core.profiles import GENERIC, Profile, profile_for
from leasehold.node.sandbox.prepare import check_command, prepare_environment, prepare_request, visible


def prepared(tmp_path: Path, profile: Profile = GENERIC, cwd: str = "/srv/web/src", **changes: Any) -> Any:
    return prepare_request(
        a_host(),
        profile,
        "/srv/web",
        REPLY | changes,
        masks=(),
        state_dir=str(tmp_path),
        forbidden=(str(tmp_path),),
        control=-1,
        command=["make"],
        cwd=cwd,
        now=1000.0,
    )


def test_request(tmp_path: Path) -> None:
    request = prepared(tmp_path)
    assert (request.workspace, request.cwd, request.command) == ("/srv/web", "/srv/web/src", ("make",))
    assert request.truststore == b"PKCS12" and request.ca_pem.startswith(b"-----BEGIN")
    assert json.loads(request.grants) == {
        "task": "7f3k",
        "class": "local",
        "grants": REPLY["grants"],
        "hosts": ["docs.test"],
        "ports": [443, 80],
        "names": ["api.forge.test"],
        "expires_at": 4600.0,
    }
    assert len(request.machine_id) == 32 and request.machine_id != prepared(tmp_path).machine_id


def test_the_working_folder_is_in_the_workspace(tmp_path: Path) -> None:
    assert prepared(tmp_path, cwd="/elsewhere").cwd == "/srv/web"
    assert prepared(tmp_path, truststore_b64=None).truststore is None


def test_profile(tmp_path: Path) -> None:
    request = prepared(tmp_path, profile_for("claude", []))
    assert [inside for _, inside in request.persist] == ["/home/ann/.claude"]
    folder = Path(request.persist[0][0])
    assert folder.is_dir() and folder.stat().st_mode & 0o077 == 0 and folder.is_relative_to(tmp_path / "homes/claude")
    assert prepared(tmp_path, profile_for("claude", [])).persist == request.persist
    assert all(path.startswith("/home/ann/") for path, _, _ in request.files) and request.files


def test_tools_are_folders_at_their_own_path(tmp_path: Path) -> None:
    (tmp_path / "sdk").mkdir()
    (tmp_path / "link").symlink_to("sdk")
    sandbox = REPLY["sandbox"]
    assert prepared(tmp_path, sandbox=sandbox | {"tools": [f"{tmp_path}/sdk"]}).tools == (f"{tmp_path}/sdk",)
    for name in ("link", "gone", "sdk/../sdk"):
        with pytest.raises(ConfigError, match="not a folder at this very path"):
            prepared(tmp_path, sandbox=sandbox | {"tools": [f"{tmp_path}/{name}"]})


def test_environment() -> None:
    environ = {"PATH": "/home/ann/.cargo/bin:/srv/web/bin:/srv/x", "TERM": "xterm", "MORE": "1", "SECRET_TOKEN": "x"}
    reply = REPLY | {"sandbox": REPLY["sandbox"] | {"env": ["MORE"]}}
    env = prepare_environment(a_host(), profile_for("claude", []), "/srv/web", reply, environ)
    assert env["PATH"] == "/run/leasehold/bin:/home/ann/.cargo/bin:/srv/web/bin:/usr/local/bin:/usr/bin:/bin"
    assert (env["MORE"], env["ANTHROPIC_API_KEY"]) == ("1", "sk-ant-placeholder")
    assert env["DISABLE_AUTOUPDATER"] == "1" and "SECRET_TOKEN" not in env


def test_commands(tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    for name, mode in (("good", 0o755), ("plain", 0o644)):
        (tmp_path / "bin" / name).write_text("#!/bin/sh\n")
        (tmp_path / "bin" / name).chmod(mode)
    (tmp_path / "bin/folder").mkdir()
    can_be_seen = visible(a_host(), str(tmp_path), REPLY)
    path = f"{tmp_path}/bin:/usr/bin"
    for command in ("good", "sh", "./bin/good", f"{tmp_path}/bin/good", "leasehold", "/usr/bin/env"):
        check_command(command, path, str(tmp_path), can_be_seen)
    for command in ("gone", "./gone", "/root/.bashrc", "/etc/passwd", "../x", "bin/../../x"):
        with pytest.raises(CommandNotFound):
            check_command(command, path, str(tmp_path), can_be_seen)
    for command in ("plain", "bin/plain", "bin/folder"):
        with pytest.raises(CommandNotExecutable):
            check_command(command, path, str(tmp_path), can_be_seen)


def test_a_command_that_only_exists_outside_is_not_found(tmp_path: Path) -> None:
    outside, inside = tmp_path / "outside", tmp_path / "inside"
    outside.mkdir()
    inside.mkdir()
    (outside / "tool").write_text("#!/bin/sh\n")
    (outside / "tool").chmod(0o755)
    with pytest.raises(CommandNotFound):
        check_command("tool", str(outside), str(inside), visible(a_host(), str(inside), REPLY))
