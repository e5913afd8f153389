"""Each upstream of the tests works when spoken to directly with its credential, and refuses without."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from servers import direct, npm, pypi
from servers.encodings import COMPRESSIONS, ENCODINGS, find
from servers.people import CHECKOUT

if TYPE_CHECKING:
    from servers.people import Person
    from servers.upstreams import Upstreams

Run = Callable[..., subprocess.CompletedProcess[str]]
_CLIENTS = CHECKOUT / "tests" / "clients"


@pytest.fixture
def run(upstreams: Upstreams, tmp_path: Path) -> Run:
    """Runs a client without the product in between."""

    def run(*command: str, timeout: float = 60.0) -> subprocess.CompletedProcess[str]:
        return direct.run(upstreams, command, cwd=tmp_path, timeout=timeout)

    return run


def _curl(run: Run, *arguments: str) -> tuple[int, str]:
    """The status and the body."""
    done = run("curl", "-sS", "--max-time", "20", "-w", "\n%{http_code}", *arguments)
    assert done.returncode == 0, done.stderr
    body, _, status = done.stdout.rpartition("\n")
    return int(status), body


def _bearer(secret: str) -> tuple[str, str]:
    return "-H", f"Authorization: Bearer {secret}"


def test_git_needs_the_password_for_both_directions(upstreams: Upstreams, run: Run, tmp_path: Path) -> None:
    git = upstreams.git
    refused = run("git", "-c", "core.askPass=true", "clone", git.clone_url("acme/web"), "refused")
    assert refused.returncode != 0
    assert "Authentication failed" in refused.stderr

    basic = base64.b64encode(f"{git.user}:{git.credential}".encode()).decode()
    settings = (
        "-c",
        f"http.extraHeader=Authorization: Basic {basic}",
        "-c",
        "user.name=t",
        "-c",
        "user.email=t",
    )
    for arguments in (
        ["clone", "-q", git.clone_url("acme/web"), "web"],
        ["-C", "web", "commit", "-q", "--allow-empty", "-m", "More"],
        ["-C", "web", "push", "-q", "origin", "HEAD:refs/heads/direct"],
    ):
        done = run("git", *settings, *arguments)
        assert done.returncode == 0, done.stderr
    assert (tmp_path / "web" / "README").read_text() == "This is acme/web.\n"
    assert git.head("acme/web", "direct") == run("git", "-C", "web", "rev-parse", "HEAD").stdout.strip()
    assert any(b"git-receive-pack" in line and basic.encode() in line for line in git.recorded())


def test_pypi_hands_out_the_package_with_the_password_only(upstreams: Upstreams, run: Run) -> None:
    server = upstreams.pypi
    status, _ = _curl(run, server.index_url)
    assert status == 401
    status, body = _curl(run, "-u", f"{server.user}:{server.credential}", f"{server.index_url}{pypi.PACKAGE}/")
    assert status == 200
    assert f"acme_widget-{pypi.VERSION}-py3-none-any.whl" in body


def test_npm_hands_out_the_package_with_the_token_only(upstreams: Upstreams, run: Run) -> None:
    server = upstreams.npm
    status, _ = _curl(run, f"{server.registry}{npm.PACKAGE}")
    assert status == 401
    status, body = _curl(run, *_bearer(server.credential), f"{server.registry}{npm.PACKAGE}")
    assert status == 200
    tarball = json.loads(body)["versions"][npm.VERSION]["dist"]["tarball"]
    assert tarball.startswith(server.registry)
    status, _ = _curl(run, *_bearer(server.credential), "-o", "package.tgz", tarball)
    assert status == 200


@pytest.mark.parametrize("version", ["--http1.1", "--http2"])
def test_api_knows_its_credential_in_every_carrier(upstreams: Upstreams, run: Run, version: str) -> None:
    api = upstreams.api
    url = f"{api.url}/repos/acme/web"
    status, _ = _curl(run, version, url)
    assert status == 401
    quoted = ENCODINGS["percent"](api.credential.encode()).decode()
    ways = {
        "bearer": [*_bearer(api.credential), url],
        "x-api-key": ["-H", f"x-api-key: {api.credential}", url],
        "basic": ["-u", f"x:{api.credential}", url],
        "query": [f"{url}?key={quoted}"],
    }
    for name, arguments in ways.items():
        status, body = _curl(run, version, *arguments)
        reply = json.loads(body)
        assert (status, reply["authenticated"], reply["carriers"]) == (200, True, [name])
        assert reply["http"] == version.removeprefix("--http")
        assert not find(api.credential, body)
    status, _ = _curl(run, version, *_bearer(api.credential[:-1]), url)
    assert status == 401


def test_api_records_raw_bytes(upstreams: Upstreams, run: Run) -> None:
    api = upstreams.api
    api.clear()
    _curl(run, "--http1.1", "-H", "X-Odd:  Spaced", f"{api.url}/echo?a=1")
    assert any(b"GET /echo?a=1 HTTP/1.1\r\n" in data and b"X-Odd:  Spaced\r\n" in data for data in api.recorded())
    _curl(run, f"http://plain.forge.test:{api.plain_port}/echo")
    assert len(api.received(api.plain_port)) == 1
    assert len(api.recorded()) == 2


@pytest.mark.parametrize("version", ["--http1.1", "--http2"])
@pytest.mark.parametrize("encoding", list(ENCODINGS))
def test_api_reflects_the_credential(upstreams: Upstreams, run: Run, version: str, encoding: str) -> None:
    """So that a scrubber has something to scrub."""
    api = upstreams.api
    for path in (f"/reflect?as={encoding}", f"/reflect-split?as={encoding}&at=0", f"/gzip?as={encoding}"):
        _, body = _curl(run, version, "--compressed", *_bearer(api.credential), api.url + path)
        assert encoding in find(api.credential, body), path


@pytest.mark.parametrize("name", list(COMPRESSIONS))
def test_api_compresses(upstreams: Upstreams, run: Run, name: str, tmp_path: Path) -> None:
    api = upstreams.api
    _, body = _curl(run, "--compressed", *_bearer(api.credential), f"{api.url}/{name}")
    assert find(api.credential, body)
    _curl(run, "-o", "raw", *_bearer(api.credential), f"{api.url}/{name}")
    assert not find(api.credential, (tmp_path / "raw").read_bytes())


def test_api_moves_bodies_and_ranges(upstreams: Upstreams, run: Run, tmp_path: Path) -> None:
    from servers.api import pattern

    api = upstreams.api
    size = 3_000_000
    for version in ("--http1.1", "--http2"):
        _curl(run, version, "-o", "got", *_bearer(api.credential), f"{api.url}/download?bytes={size}")
        assert (tmp_path / "got").read_bytes() == pattern(0, size)
        _, body = _curl(run, version, "-T", "got", *_bearer(api.credential), f"{api.url}/upload")
        assert json.loads(body)["bytes"] == size
        where = f"{api.url}/download?bytes={size}"
        status, _ = _curl(run, version, "-o", "got", "-r", "70000-70009", *_bearer(api.credential), where)
        assert (status, (tmp_path / "got").read_bytes()) == (206, pattern(70_000, 10))


def test_api_other_endpoints(upstreams: Upstreams, run: Run) -> None:
    api = upstreams.api
    assert _curl(run, f"{api.url}/status/418")[0] == 418
    assert _curl(run, f"{api.url}/redirect?to=/echo")[0] == 302
    assert _curl(run, f"{api.url}/slow?seconds=0.1") == (200, "at last\n")
    assert _curl(run, "--http1.1", "-X", "TRACE", f"{api.url}/x")[1].startswith("TRACE /x")
    done = run("curl", "-sSi", "--http2", *_bearer(api.credential), f"{api.url}/reflect-headers")
    assert set(find(api.credential, done.stdout)) >= {"raw", "base64", "hex"}
    assert "x-reflect-trailer: " + api.credential in done.stdout
    events = _curl(run, *_bearer(api.credential), f"{api.url}/stream?events=3")[1]
    assert events.count("data: event") == 3
    assert _curl(run, f"{api.url}/stream")[0] == 401


def _client(run: Run, name: str, *arguments: str) -> str:
    return str(run(sys.executable, str(_CLIENTS / name), *arguments).stdout)


def test_websocket_echoes_and_refuses(upstreams: Upstreams, run: Run) -> None:
    host = upstreams.api.place.authority
    assert "HTTP 401" in _client(run, "websocket_echo.py", f"wss://{host}/ws")
    quoted = ENCODINGS["percent"](upstreams.api.credential.encode()).decode()
    assert "ECHO hello over a socket" in _client(run, "websocket_echo.py", f"wss://{host}/ws?key={quoted}")


def test_grpc_answers_with_the_token_only(upstreams: Upstreams, run: Run) -> None:
    import grpc

    server = upstreams.grpc
    assert "GRPC UNAUTHENTICATED" in _client(run, "grpc_call.py", f"{server.host}:{server.port}", "Unary")

    tls = grpc.ssl_channel_credentials(upstreams.ca.path.read_bytes())
    options = (("grpc.ssl_target_name_override", server.host),)
    metadata = (("authorization", f"Bearer {server.credential}"),)
    with grpc.secure_channel(f"{server.address}:{server.port}", tls, options=options) as channel:
        unary = channel.unary_unary("/leasehold.test.Echo/Unary")
        assert unary(b"hi", metadata=metadata, timeout=20) == b"echo: hi"
        stream = channel.unary_stream("/leasehold.test.Echo/Stream")
        assert len(list(stream(b"hi", metadata=metadata, timeout=20))) == 5
        reflect = channel.unary_unary("/leasehold.test.Echo/Reflect")
        assert find(server.credential, reflect(b"", metadata=metadata, timeout=20))
    assert any(find(server.credential, line) for line in server.recorded())


def test_attacker_records_with_and_without_tls(upstreams: Upstreams, run: Run) -> None:
    evil = upstreams.evil
    evil.listen(8080, tls=False)
    evil.listen(8443, self_signed=True)
    evil.clear()
    assert _curl(run, evil.url) == (200, "gotcha\n")
    assert _curl(run, "http://evil.test:8080/plain") == (200, "gotcha\n")
    assert run("curl", "-sS", "https://evil.test:8443/").returncode == 60  # not verified
    assert _curl(run, "-k", "https://evil.test:8443/anyway") == (200, "gotcha\n")
    assert [b"GET /plain" in data for data in evil.received(8080)] == [True]
    assert [b"GET /anyway" in data for data in evil.received(8443)] == [True]
    assert len(evil.recorded()) == 3


def test_dns_stub_writes_down_who_was_asked_for(upstreams: Upstreams, tmp_path: Path) -> None:
    from servers.people import inside_namespace

    resolver = tmp_path / "resolv.conf"
    resolver.write_text(f"nameserver {upstreams.dns.address}\noptions timeout:1 attempts:1\n")
    binds = [(resolver, Path("/etc/resolv.conf"))]
    command: Sequence[str] = ["getent", "hosts", "some.name.example"]
    upstreams.dns.clear()
    done = subprocess.run(inside_namespace(command, binds=binds, folder=tmp_path), check=False, timeout=20)
    assert done.returncode == 2
    assert "some.name.example" in upstreams.dns.queries()


def test_an_ordinary_user_reaches_the_checkout(ordinary_user: Person, tmp_path: Path) -> None:
    from servers.people import inside_namespace

    command = [sys.executable, "-c", "import leasehold, os; print(os.getuid(), leasehold.__file__)"]
    inner = inside_namespace(command, person=ordinary_user, folder=tmp_path)
    done = subprocess.run(inner, capture_output=True, text=True, check=False, timeout=20)
    package = CHECKOUT / "src" / "leasehold" / "__init__.py"
    assert done.stdout.split() == [str(ordinary_user.uid), str(package)], done.stderr
