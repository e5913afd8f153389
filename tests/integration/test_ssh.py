"""SSH from a compartment: real clients log in with a certificate that was made for their task, and no key."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

from servers.harness import Leasehold
from servers.sshd import HOST, SshServer

if TYPE_CHECKING:
    from servers.people import Person
    from servers.upstreams import Upstreams

# Between ssh and the agent, on one connection; the request that logged in is made once more, and again after a line.
RELAY = """
import os, socket, subprocess, sys
agent, own = socket.socket(socket.AF_UNIX), socket.socket(socket.AF_UNIX)
agent.connect(os.environ["SSH_AUTH_SOCK"])
own.bind("/tmp/relay")
own.listen()

def message(of):
    file = of.makefile("rb", 0)
    head = file.read(4)
    left, body = int.from_bytes(head, "big"), b""
    while len(body) < left and (part := file.read(left - len(body))):
        body += part
    return head + body

def asked(request):
    agent.sendall(request)
    return message(agent)

shared = ["ssh", "-S", "/tmp/master", "-o", "BatchMode=yes", "-o", "IdentityAgent=/tmp/relay"]
where = sys.argv[1].split(" ")
master = subprocess.Popen([*shared, "-M", *where, "echo in; cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
ssh, _ = own.accept()
request = b""
while request[4:5] != b"\\x0d":
    request = message(ssh)
    ssh.sendall(asked(request))
master.stdout.readline()
print(asked(request)[4], subprocess.run([*shared, *where, "true"]).returncode, flush=True)
sys.stdin.readline()
own.close()
print(asked(request)[4], master.wait(), subprocess.run([*shared, *where, "true"]).returncode, flush=True)
"""


@pytest.fixture(scope="module")
def server(ordinary_user: Person) -> Iterator[SshServer]:
    made = SshServer({ordinary_user.name: "deploy"})
    made.repository("web", ordinary_user.name)
    yield made
    made.close()


def configuration(server: SshServer, host_key: str, krl: str) -> str:
    return f"""
[credentials.code]
issuer = "ssh-ca"
secret = "file:@folder@/authority.secret"
grants = ["principal deploy"]
krl = {json.dumps(krl)}
environment = "development"
role = "execute"
max_ttl = "15m"
[[credentials.code.endpoints]]
host = "{HOST}"
protocol = "ssh"
port = {server.port}
host_keys = ["{host_key}"]
"""


@pytest.fixture(scope="module")
def lh(upstreams: Upstreams, server: SshServer, person: Person | None) -> Iterator[Leasehold]:
    upstreams.beside[HOST] = upstreams.ca.path
    try:
        with Leasehold(upstreams, "api", person=person) as harness:
            arm(harness, server, server.host_key)
            yield harness
    finally:
        del upstreams.beside[HOST]


def arm(lh: Leasehold, server: SshServer, host_key: str) -> None:
    folder = lh.config.parent
    secret = folder / "authority.secret"
    secret.write_bytes(server.authority.read_bytes())
    secret.chmod(0o600)
    # An ordinary user's broker may write to its own list only; the host reads root's.
    text = configuration(server, host_key, str(server.revoked)) if lh.person is None else ""
    text = text or configuration(server, host_key, "/none").replace('krl = "/none"\n', "")
    lh.config.write_text(lh.config.read_text() + text.replace("@folder@", str(folder)))
    lh.own(folder)


@pytest.fixture
def where(ordinary_user: Person, server: SshServer) -> str:
    return f"-p {server.port} {ordinary_user.name}@{HOST}"


def test_ssh_logs_in_with_a_certificate_that_nobody_can_read(lh: Leasehold, server: SshServer, where: str) -> None:
    done = lh.run("sh", "-c", f"ssh {where} id -un; ssh-add -L; ls -la /run/leasehold $HOME/.ssh 2>&1; true")
    assert done.returncode == 0, done.stderr
    user, certificate, *_ = done.stdout.splitlines()
    assert user == where.split(" ")[-1].split("@")[0], done.stderr
    assert certificate.startswith("ssh-ed25519-cert-v01@openssh.com ")
    task = done.stderr.split("task ", 1)[1].split(" ", 1)[0]
    assert f'Accepted certificate ID "lh_{task}_' in server.log.read_text()
    assert "code 1 request" in " ".join(done.stderr.split())
    assert "secrets that entered the compartment: 0" in done.stderr
    assert ("revoked at the provider" in done.stderr) == (lh.person is None)


def test_git_and_scp_over_ssh(lh: Leasehold, server: SshServer, where: str) -> None:
    account = where.split(" ")[-1]
    url = f"ssh://{account.split('@')[0]}@{HOST}:{server.port}{server.folder}/repositories/web.git"
    file = "/tmp/leasehold-scp"
    script = (
        f"git clone -q {url} web && cd web && git checkout -q -B main && echo hello > README && git add README && "
        "git -c user.name=A -c user.email=a@example.test commit -q --allow-empty -m 'Begin' && "
        "git push -q origin main && "
        f"scp -q -P {server.port} README {account}:{file} && ssh {where} 'cat {file}; rm {file}'"
    )
    done = lh.run("sh", "-c", script)
    assert (done.returncode, done.stdout) == (0, "hello\n"), done.stderr


def test_another_host_key_is_no_host(upstreams: Upstreams, server: SshServer, lh: Leasehold, where: str) -> None:
    """Neither the client goes on, nor the agent signs for one that does."""
    other = " ".join((server.folder / "authority.pub").read_text().split()[:2])
    with Leasehold(upstreams, "api", person=lh.person) as alone:
        arm(alone, server, other)
        done = alone.run("sh", "-c", f"ssh -o BatchMode=yes {where} true")
        assert done.returncode != 0 and "Host key verification failed" in done.stderr
        careless = "-o StrictHostKeyChecking=no -o GlobalKnownHostsFile=/dev/null -o BatchMode=yes"
        done = alone.run("sh", "-c", f"ssh {careless} {where} true")
        assert done.returncode != 0 and "Permission denied" in done.stderr
        assert "SIGN ssh agent" in done.stderr


def test_the_agent_signs_nothing_else(lh: Leasehold) -> None:
    script = (
        "echo important > file; ssh-add -L > key.pub; ssh-keygen -Y sign -n file -f key.pub file; "
        "ssh-keygen -q -t ed25519 -N '' -f own; ssh-add own; ssh-add -D; ssh-add -x"
    )
    done = lh.run("sh", "-c", f"({script}) < /dev/null 2>&1; test ! -e file.sig && echo unsigned")
    assert "unsigned" in done.stdout
    assert "agent refused operation" in done.stdout
    assert "SIGN ssh agent" in done.stderr


def test_nothing_goes_on_when_the_lease_is_revoked(lh: Leasehold, where: str) -> None:
    """Neither an agent's connection that is bound, nor a login that is shared, nor a new one."""
    space = lh.workspace()
    (space / "relay.py").write_text(RELAY)
    lh.own(space)
    theirs, ours = os.pipe()
    try:
        agent = lh.start("python3", "relay.py", where, workspace=space, stdin=theirs)
        assert agent.stdout is not None
        assert agent.stdout.readline() == b"14 0\n"
        # Without a list the host cannot be told, and that is said; here it has to end all the same.
        assert lh.cli("lease", "revoke", "--all", "--yes").returncode == (1 if lh.person else 0)
        os.write(ours, b"\n")
        said, _ = agent.communicate(timeout=60)
    finally:
        os.close(theirs)
        os.close(ours)
    assert said == b"5 255 255\n"
