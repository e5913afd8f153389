"""Envoy's process, with a script in its place: how it is started, what it is given, and that it never outlives us."""

from __future__ import annotations

import asyncio
import json
import os
import resource
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from envoy.config.bootstrap.v3.bootstrap_pb2 import Bootstrap
from envoy.extensions.resource_monitors.downstream_connections.v3 import downstream_connections_pb2
from envoy.extensions.upstreams.http.v3 import http_protocol_options_pb2
from google.protobuf.json_format import ParseDict

from leasehold.core.errors import EgressError
from leasehold.node.egress.model import BROKER_CLUSTER
from leasehold.node.egress.process import EnvoyProcess, bootstrap, envoy_binary

_REPORT = 'echo "$@"; env | sort; ulimit -n; readlink /proc/self/fd/0'
_KNOWN = (downstream_connections_pb2, http_protocol_options_pb2)  # what the bootstrap's Any fields hold
_PARENT = """
import asyncio, sys
from pathlib import Path
from leasehold.node.egress.process import EnvoyProcess
async def main():
    envoy = EnvoyProcess(Path(sys.argv[1]), Path("/broker.sock"), 1)
    await envoy.start()
    print(envoy.pid, flush=True)
    await envoy.wait()
asyncio.run(main())
"""


@pytest.fixture
def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The path of what is started as Envoy: a package of that name, before the real one on the path."""
    binary = tmp_path / "packages" / "envoy" / "_bin" / "envoy"
    binary.parent.mkdir(parents=True)
    (binary.parents[1] / "__init__.py").touch()
    binary.write_text("#!/bin/sh\nexec sleep infinity\n")
    binary.chmod(0o755)
    monkeypatch.delitem(sys.modules, "envoy")
    monkeypatch.syspath_prepend(str(binary.parents[2]))
    return binary


@pytest.fixture
def file_limit() -> Iterator[tuple[int, int]]:
    """Soft and hard limit of open files, put back after the test."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    yield soft, hard
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def _does(binary: Path, script: str) -> None:
    binary.write_text(f"#!/bin/sh\n{script}\n")


def _run(folder: Path, workers: int = 2) -> tuple[int, list[str]]:
    """Exit status and log, after it has ended by itself."""

    async def scenario() -> int:
        envoy = EnvoyProcess(folder, Path("/run/broker.sock"), workers)
        await envoy.start()
        return await envoy.wait()

    return asyncio.run(scenario()), (folder / "envoy.log").read_text().splitlines()


def test_it_is_started_with_its_bootstrap_and_drops_connections_at_once(stand_in: Path, tmp_path: Path) -> None:
    _does(stand_in, f"{_REPORT}; exit 7")
    status, log = _run(tmp_path)
    assert status == 7
    arguments = log[0].split()
    assert arguments[:4] == ["-c", str(tmp_path / "envoy.json"), "--concurrency", "2"]
    assert "--disable-hot-restart" in arguments
    drain = [arguments[arguments.index(name) + 1] for name in ("--drain-time-s", "--drain-strategy")]
    assert drain == ["0", "immediate"]


def test_it_gets_no_variable_of_ours_and_no_input(
    stand_in: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORGE_TOKEN", "made-up")
    _does(stand_in, _REPORT)
    _, log = _run(tmp_path)
    variables = [line.partition("=")[0] for line in log if "=" in line]
    assert {"LC_ALL", "PATH"} <= set(variables) <= {"LC_ALL", "PATH", "PWD", "_", "SHLVL", "OLDPWD"}
    assert log[-1] == "/dev/null"


def test_its_log_is_for_this_user_only_and_kept_over_a_restart(stand_in: Path, tmp_path: Path) -> None:
    _does(stand_in, "echo out; echo err >&2")
    _run(tmp_path)
    assert _run(tmp_path)[1] == ["out", "err", "out", "err"]
    assert (tmp_path / "envoy.log").stat().st_mode & 0o777 == 0o600


def test_it_may_open_as_many_files_as_the_machine_allows(
    stand_in: Path, tmp_path: Path, file_limit: tuple[int, int]
) -> None:
    hard = file_limit[1]
    _does(stand_in, "ulimit -n")
    for soft in (hard - 1, hard):
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        _, log = _run(tmp_path)
        assert log[-1] == str(hard)


def test_it_ends_when_it_is_told_to_and_can_be_told_twice(stand_in: Path, tmp_path: Path) -> None:
    async def scenario() -> None:
        envoy = EnvoyProcess(tmp_path, Path("/run/broker.sock"), 1)
        await envoy.stop()
        assert envoy.pid is None
        await envoy.start()
        assert envoy.pid is not None
        ended = os.pidfd_open(envoy.pid)
        assert not select.select([ended], [], [], 0)[0]
        await envoy.stop()
        assert await envoy.wait() == -signal.SIGKILL
        os.close(ended)
        await envoy.stop()

    asyncio.run(scenario())


def test_the_end_of_one_that_was_never_started_cannot_be_waited_for(tmp_path: Path) -> None:
    with pytest.raises(EgressError, match="not started"):
        asyncio.run(EnvoyProcess(tmp_path, Path("/run/broker.sock"), 1).wait())


def test_it_dies_with_the_daemon_also_when_that_is_killed(stand_in: Path, tmp_path: Path) -> None:
    started = tmp_path / "started"
    os.mkfifo(started)
    _does(stand_in, f"echo > '{started}'; exec sleep infinity")
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(stand_in.parents[2]), *sys.path])}
    command = [sys.executable, "-c", _PARENT, str(tmp_path)]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as daemon:
        assert daemon.stdout is not None
        envoy = os.pidfd_open(int(daemon.stdout.readline()))
        started.read_text()
        daemon.kill()
    assert select.select([envoy], [], [], 30)[0], "it outlived the daemon"
    os.close(envoy)


def test_a_socket_that_an_earlier_one_left_is_taken_away_first(stand_in: Path, tmp_path: Path) -> None:
    left = tmp_path / "envoy-admin.sock"
    left.touch()
    _does(stand_in, f"test ! -e '{left}'")
    assert _run(tmp_path)[0] == 0


def test_without_setpriv_it_is_not_started(stand_in: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(EgressError, match="setpriv is not installed"):
        _run(tmp_path)


def test_the_pinned_envoy_is_found_beside_the_protos(stand_in: Path) -> None:
    assert envoy_binary() == stand_in
    stand_in.unlink()
    with pytest.raises(EgressError, match="not installed"):
        envoy_binary()


def test_what_is_named_like_it_and_is_no_package_is_not_it(stand_in: Path) -> None:
    package = stand_in.parents[1]
    package.rename(package.with_name("other"))
    package.with_suffix(".py").touch()
    with pytest.raises(EgressError, match="not installed"):
        envoy_binary()


def test_the_bootstrap_is_valid_and_knows_the_broker_and_nothing_else(tmp_path: Path) -> None:
    EnvoyProcess(tmp_path, Path("/run/broker.sock"), 1)
    written = json.loads((tmp_path / "envoy.json").read_text())
    assert written == bootstrap(Path("/run/broker.sock"), tmp_path / "envoy-admin.sock")
    parsed = ParseDict(written, Bootstrap())
    (broker,) = parsed.static_resources.clusters
    assert broker.name == BROKER_CLUSTER
    endpoint = broker.load_assignment.endpoints[0].lb_endpoints[0].endpoint
    assert endpoint.address.pipe.path == "/run/broker.sock"
    assert not parsed.static_resources.listeners
    assert not parsed.static_resources.secrets
    assert parsed.node.id and parsed.node.cluster


def test_everything_comes_over_one_stream_and_the_admin_page_is_for_this_user_only(tmp_path: Path) -> None:
    parsed = ParseDict(bootstrap(Path("/run/broker.sock"), Path("/run/admin.sock")), Bootstrap())
    dynamic = parsed.dynamic_resources
    assert dynamic.ads_config.api_type == dynamic.ads_config.DELTA_GRPC
    (service,) = dynamic.ads_config.grpc_services
    assert service.envoy_grpc.cluster_name == BROKER_CLUSTER
    for source in (dynamic.cds_config, dynamic.lds_config):
        assert source.WhichOneof("config_source_specifier") == "ads"
    admin = parsed.admin.address
    assert admin.WhichOneof("address") == "pipe"
    assert (admin.pipe.path, admin.pipe.mode) == ("/run/admin.sock", 0o600)
