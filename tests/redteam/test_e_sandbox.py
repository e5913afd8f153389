"""BOUNDARY area E, through the whole product (tests/integration/test_jail.py looks at the sandbox alone)."""

from __future__ import annotations

import os
import socket
from typing import TYPE_CHECKING

from servers.encodings import find

if TYPE_CHECKING:
    from pathlib import Path

    from servers.harness import Leasehold

_HUNT = r"""
import os, socket
found = []
for pid in [p for p in os.listdir('/proc') if p.isdigit()]:
    for name in ('environ', 'cmdline', 'maps', 'mountinfo', 'status'):
        try: found.append(open(f'/proc/{pid}/{name}', 'rb').read())
        except OSError: pass
    for way in ('root/etc/shadow', 'root/root', 'cwd'):
        try: found.append(repr(os.listdir(f'/proc/{pid}/{way}')).encode())
        except OSError: pass
for folder, _, files in os.walk('/'):
    if folder.startswith(('/proc', '/usr', '/sys')): continue
    for name in files:
        try:
            path = os.path.join(folder, name)
            if os.path.isfile(path) and os.path.getsize(path) < 2_000_000: found.append(open(path, 'rb').read())
        except OSError: pass
os.write(1, b'\n'.join(found))
"""


def test_e1_e19_e24_nothing_readable_holds_a_credential_or_a_key(leasehold: Leasehold) -> None:
    """Also after every credential is live, and with the authority of this compartment in use."""
    script = (
        "curl -sS https://api.forge.test/v1/me https://key.forge.test/v1/me https://basic.forge.test/v1/me;"
        ' git ls-remote https://git.forge.test/acme/web.git; env; python3 -c "$HUNT"'
    )
    done = leasehold.run("env", f"HUNT={_HUNT}", "sh", "-c", script, timeout=120)
    text = done.stdout + done.stderr
    assert '"authenticated": true' in text and "refs/heads" in text
    for name in ("api", "git", "pypi", "npm", "grpc"):
        assert not find(leasehold.up.server(name).credential, text), name
    # Our authority's certificate is there to be trusted; a key of any authority is not (base64 of a PKCS#8 P-256 key).
    assert "BEGIN CERTIFICATE" in text and "MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0w" not in text


def test_e6_sockets_of_the_host_cannot_be_reached(leasehold: Leasehold, tmp_path: Path) -> None:
    """A unix socket in a folder, an abstract one, the broker's own, and a port on the host's loopback."""
    named, abstract, port = socket.socket(socket.AF_UNIX), socket.socket(socket.AF_UNIX), socket.socket()
    mark = f"lh-test-{os.getpid()}"
    with named, abstract, port:
        named.bind(str(tmp_path / "docker.sock"))
        abstract.bind(f"\0{mark}")
        port.bind(("127.0.0.1", 0))
        for listener in (named, abstract, port):
            listener.listen()
        broker = leasehold.base / "run" / "leasehold" / "broker.sock"
        assert leasehold.run("true").returncode == 0 and broker.exists()
        script = f"""
import socket
for family, address in ((1, {str(tmp_path / "docker.sock")!r}), (1, "\\0{mark}"), (1, {str(broker)!r}),
                        (1, {str(broker.with_name("envoy-admin.sock"))!r}),
                        (2, ("127.0.0.1", {port.getsockname()[1]}))):
    try:
        socket.socket(family).connect(address); print("REACHED", address)
    except OSError as e:
        print("no", type(e).__name__)
"""
        out = leasehold.run("python3", "-c", script).stdout
    assert "REACHED" not in out and out.count("no ") == 5


def test_e16_the_agent_cannot_switch_the_sandbox_off(leasehold: Leasehold) -> None:
    """Its own `leasehold` decides nothing, and no variable or file from inside changes the next run."""
    workspace = leasehold.workspace()
    script = (
        "leasehold run -- id; leasehold secret list; LEASEHOLD_CONFIG=/tmp/x leasehold grants >/dev/null; echo done"
    )
    out = leasehold.run("sh", "-c", script, workspace=workspace)
    assert "uid=" not in out.stdout and "done" in out.stdout
    assert leasehold.run("cat", "/etc/shadow", workspace=workspace).returncode != 0


def test_e26_two_compartments_cannot_reach_each_other(leasehold: Leasehold) -> None:
    """The second has no grant for the API; the first one's listener is in another namespace."""
    workspace = leasehold.workspace()
    script = "curl -sS https://api.forge.test/v1/me; touch up; sleep 15"
    first = leasehold.start("sh", "-c", script, workspace=workspace)
    try:
        for _ in range(200):
            if (workspace / "up").exists():
                break
            assert first.poll() is None
            leasehold.run("sleep", "0.05")
        assert (workspace / "up").exists()
        leasehold.up.api.clear()
        ways = (
            "curl -sS -m 3 https://api.forge.test/v1/me",
            "curl -sS -m 3 -k --resolve api.forge.test:443:198.18.0.2 https://api.forge.test/v1/me",
            "curl -sS -m 3 -k --resolve api.forge.test:443:127.0.0.1 https://api.forge.test/v1/me",
            "ls -la /proc/*/ns/net; cat /proc/net/tcp",
        )
        out = leasehold.run("sh", "-c", "; ".join(ways), grants=("pypi",))
        assert "authenticated" not in out.stdout
        assert not leasehold.up.api.recorded()
    finally:
        first.kill()
        first.communicate(timeout=20)


def test_fast_runs_one_after_the_other_never_share_a_listener(leasehold: Leasehold) -> None:
    """Envoy takes over sockets of a draining listener with the same address: each namespace needs a name of its own."""
    for number in range(12):
        done = leasehold.run("curl", "-sS", "-m", "5", f"https://api.forge.test/v1/run-{number}")
        assert '"authenticated": true' in done.stdout, done.stderr


def test_k9_a_pipelines_variables_do_not_enter(leasehold: Leasehold) -> None:
    names = ("ACTIONS_ID_TOKEN_REQUEST_TOKEN", "GITHUB_TOKEN", "CI_JOB_TOKEN", "AWS_SECRET_ACCESS_KEY", "NPM_TOKEN")
    secrets = {name: f"ci-token-{number}" for number, name in enumerate(names)}
    out = leasehold.run("env", env={**secrets, "BASH_ENV": "/x", "HTTPS_PROXY": "http://a:ci-token-9@b"}).stdout
    assert "ci-token" not in out and "BASH_ENV" not in out and "PATH=" in out
