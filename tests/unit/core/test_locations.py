"""Where things are: private folders, made when they are missing, and refused when they are somebody else's."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from leasehold.core import locations
from leasehold.core.errors import ConfigError


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("XDG_STATE_HOME", "XDG_RUNTIME_DIR", "XDG_CONFIG_HOME", "LEASEHOLD_CONFIG"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))


def mode(path: str) -> int:
    return Path(path).stat().st_mode & 0o7777


def test_the_state_is_below_the_home_folder(tmp_path: Path) -> None:
    assert locations.state_dir() == str(tmp_path / ".local" / "state" / "leasehold")
    assert mode(locations.state_dir()) == 0o700


def test_the_state_is_where_the_variable_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "s"))
    assert locations.state_dir() == str(tmp_path / "s" / "leasehold")


def test_the_sockets_are_where_the_variable_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "r"))
    assert locations.runtime_dir() == str(tmp_path / "r" / "leasehold")
    assert locations.socket_path() == str(tmp_path / "r" / "leasehold" / "broker.sock")
    assert mode(locations.runtime_dir()) == 0o700


@pytest.mark.parametrize(("uid", "path"), [(0, "/run/leasehold"), (4242, "/tmp/leasehold-4242")])
def test_the_sockets_have_a_place_without_the_variable(monkeypatch: pytest.MonkeyPatch, uid: int, path: str) -> None:
    seen = []
    monkeypatch.setattr(os, "getuid", lambda: uid)
    monkeypatch.setattr(os, "mkdir", lambda path, mode=0o777: seen.append((path, mode)))
    monkeypatch.setattr(os, "lstat", lambda _: os.stat_result((0o40700, 1, 1, 1, uid, 0, 0, 0, 0, 0)))
    assert locations.runtime_dir() == path
    assert seen[-1] == (path, 0o700)


def test_a_relative_base_counts_as_not_set(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", "state")
    monkeypatch.setenv("XDG_CONFIG_HOME", "")
    assert locations.state_dir() == str(tmp_path / ".local" / "state" / "leasehold")
    assert locations.user_config_path() == str(tmp_path / ".config" / "leasehold" / "config.toml")


def test_a_runtime_folder_too_long_for_a_socket_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    room = 107 - len("/xxxxxx-65535.sock") - len("/leasehold") - len(str(tmp_path)) - 1
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / ("x" * room)))
    assert len(f"{locations.runtime_dir()}/abcdef-65535.sock") == 107
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / ("x" * (room + 1))))
    with pytest.raises(ConfigError, match="too long for the name of a socket"):
        locations.runtime_dir()


def test_a_folder_that_others_may_enter_is_refused(tmp_path: Path) -> None:
    Path(locations.state_dir()).chmod(0o750)
    with pytest.raises(ConfigError, match=f"expected .* uid {os.getuid()} with mode 0700, found one .* with mode 0750"):
        locations.state_dir()
    (tmp_path / ".local" / "state" / "leasehold").chmod(0o700)
    assert Path(locations.state_dir()).is_dir()


def test_a_folder_of_somebody_else_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    locations.state_dir()
    monkeypatch.setattr(os, "getuid", lambda: 4242)
    with pytest.raises(ConfigError, match="uid 4242 with mode 0700, found one of uid"):
        locations.state_dir()


def test_a_link_is_refused(tmp_path: Path) -> None:
    real = tmp_path / "real"
    real.mkdir(mode=0o700)
    (tmp_path / ".local" / "state").mkdir(parents=True)
    (tmp_path / ".local" / "state" / "leasehold").symlink_to(real)
    with pytest.raises(ConfigError, match="found a link of uid"):
        locations.state_dir()


def test_what_is_no_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / ".local").write_text("")
    with pytest.raises(ConfigError, match="cannot be made: Not a directory"):
        locations.state_dir()
    (tmp_path / ".local").unlink()
    (tmp_path / ".local" / "state").mkdir(parents=True)
    (tmp_path / ".local" / "state" / "leasehold").write_text("")
    with pytest.raises(ConfigError, match="found something else of uid"):
        locations.state_dir()


def test_without_a_home_folder_a_variable_is_needed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("HOME")
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)  # as for a uid that nobody has
    with pytest.raises(ConfigError, match="there is no home folder"):
        locations.state_dir()
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    assert locations.state_dir() == str(tmp_path / "leasehold")


def test_the_operators_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert locations.operator_config_path() == "/etc/leasehold/config.toml"
    own = tmp_path / ".config" / "leasehold" / "config.toml"
    own.parent.mkdir(parents=True)
    # One that leads nowhere is an error for its reader, and not another file.
    own.symlink_to("nowhere")
    assert locations.operator_config_path() == str(own)
    monkeypatch.setenv("LEASEHOLD_CONFIG", "/other.toml")
    assert locations.operator_config_path() == "/other.toml"


def test_a_relative_operators_file_is_made_absolute(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LEASEHOLD_CONFIG", "other.toml")
    assert locations.operator_config_path() == str(tmp_path / "other.toml")


def test_the_systems_bundle_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os.path, "exists", lambda path: path == "/etc/ssl/cert.pem")
    assert locations.system_ca_bundle() == "/etc/ssl/cert.pem"
    monkeypatch.setattr(os.path, "exists", lambda _: False)
    assert locations.system_ca_bundle() == "/etc/ssl/certs/ca-certificates.crt"
