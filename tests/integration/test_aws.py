"""S3 and DynamoDB from a compartment: an SDK signs with placeholders, what arrives is signed with a task's session."""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import socket
import sys
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

from servers.harness import Leasehold
from servers.moto import BUCKET, HOST, REGION, TABLE, TABLES, MotoServer

if TYPE_CHECKING:
    from servers.people import Person
    from servers.upstreams import Upstreams

_HEAD = """
import boto3, botocore.config, os, sys
def s3(**config):
    config = botocore.config.Config(retries={"max_attempts": 0}, **config)
    return boto3.client("s3", endpoint_url=sys.argv[1], config=config)
"""


@pytest.fixture(scope="module")
def moto() -> Iterator[MotoServer]:
    made = MotoServer()
    yield made
    made.close()


def configuration(moto: MotoServer, folder: str) -> str:
    grants = [f"s3:{action} on arn:aws:s3:::{BUCKET}/*" for action in ("PutObject", "GetObject")]
    tables = [
        f"dynamodb:{action} on arn:aws:dynamodb:{REGION}:123456789012:table/{TABLE}"
        for action in ("PutItem", "GetItem")
    ]
    return f"""
[credentials.builds]
issuer = "aws-sts"
secret = "file:{folder}/builds.secret"
server = "{moto.url}"
region = "{REGION}"
assume = "{moto.role}"
ca = "{folder}/upstream-ca.pem"
grants = {json.dumps(grants)}
environment = "development"
role = "execute"
max_ttl = "15m"
[[credentials.builds.endpoints]]
host = "{HOST}"
port = {moto.port}
methods = ["GET", "HEAD", "PUT", "POST"]
inject = {{ aws = {{ service = "s3", region = "{REGION}" }} }}
[credentials.jobs]
issuer = "aws-sts"
secret = "file:{folder}/builds.secret"
server = "{moto.url}"
region = "{REGION}"
assume = "{moto.role}"
ca = "{folder}/upstream-ca.pem"
grants = {json.dumps(tables)}
environment = "development"
role = "execute"
max_ttl = "15m"
[[credentials.jobs.endpoints]]
host = "{TABLES}"
port = {moto.port}
methods = ["POST"]
inject = {{ aws = {{ service = "dynamodb", region = "{REGION}" }} }}
"""


@pytest.fixture(scope="module")
def lh(upstreams: Upstreams, moto: MotoServer, person: Person | None) -> Iterator[Leasehold]:
    upstreams.beside |= {HOST: moto.ca, TABLES: moto.ca}
    try:
        with Leasehold(upstreams, "api", person=person) as harness:
            folder = harness.config.parent
            secret = folder / "builds.secret"
            secret.write_text(moto.secret)
            secret.chmod(0o600)
            harness.config.write_text(harness.config.read_text() + configuration(moto, str(folder)))
            harness.own(folder)
            yield harness
    finally:
        del upstreams.beside[HOST], upstreams.beside[TABLES]


def run(lh: Leasehold, moto: MotoServer, script: str) -> str:
    done = lh.run(sys.executable, "-c", _HEAD + script, f"https://{HOST}:{moto.port}")
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_what_an_sdk_uploads_arrives_signed_and_whole(lh: Leasehold, moto: MotoServer) -> None:
    said = run(
        lh,
        moto,
        f"c = s3(); c.put_object(Bucket='{BUCKET}', Key='a/b c+d', Body=b'x' * 5_000_000)\n"
        f"body = c.get_object(Bucket='{BUCKET}', Key='a/b c+d')['Body'].read()\n"
        "print(len(body), body == b'x' * 5_000_000, os.environ['AWS_SECRET_ACCESS_KEY'])",
    )
    assert said.split() == ["5000000", "True", "signed-outside-by-leasehold"]


@pytest.mark.parametrize(
    "config",
    [
        "request_checksum_calculation='when_supported'",  # a checksum behind the body, in chunks
        "s3={'payload_signing_enabled': True}",
        "s3={'use_accelerate_endpoint': False, 'addressing_style': 'path'}",
    ],
)
def test_however_it_is_signed_inside(lh: Leasehold, moto: MotoServer, config: str) -> None:
    said = run(
        lh,
        moto,
        f"c = s3({config}); c.put_object(Bucket='{BUCKET}', Key='k', Body=b'y' * 300_000)\n"
        f"print(c.get_object(Bucket='{BUCKET}', Key='k')['Body'].read() == b'y' * 300_000)",
    )
    assert said.strip() == "True"


def test_a_presigned_url_is_signed_anew(lh: Leasehold, moto: MotoServer) -> None:
    said = run(
        lh,
        moto,
        f"import urllib.request; c = s3(); c.put_object(Bucket='{BUCKET}', Key='p', Body=b'z')\n"
        f"url = c.generate_presigned_url('get_object', Params={{'Bucket': '{BUCKET}', 'Key': 'p'}})\n"
        "assert 'AKIALEASEHOLDOUTSIDE' in url\n"
        "print(urllib.request.urlopen(url).read())",
    )
    assert said.strip() == "b'z'"


_BARE = (
    "import os\n"
    "for name in list(os.environ):\n"
    "    if name.startswith('AWS_') and name != 'AWS_CA_BUNDLE': del os.environ[name]\n"
)
"""What is left to an SDK in a process that somebody started without the environment."""


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("", "iam-role"),
        ("os.environ['AWS_CONTAINER_CREDENTIALS_RELATIVE_URI'] = '/v2/credentials/leasehold'\n", "container-role"),
        (
            "os.environ['AWS_CONTAINER_CREDENTIALS_FULL_URI'] = 'http://169.254.170.2/v2/credentials/leasehold'\n",
            "container-role",
        ),
    ],
    ids=["instance", "container", "container by its whole address"],
)
def test_an_sdk_without_configuration_finds_a_placeholder(lh: Leasehold, moto: MotoServer, how: str, said: str) -> None:
    found = run(
        lh,
        moto,
        f"{_BARE}{how}session = boto3.Session(region_name='{REGION}'); given = session.get_credentials()\n"
        f"c = session.client('s3', endpoint_url=sys.argv[1])\n"
        f"c.put_object(Bucket='{BUCKET}', Key='bare', Body=b'b')\n"
        "print(given.method, given.secret_key)",
    )
    assert found.split() == [said, "signed-outside-by-leasehold"]


def test_the_metadata_services_tell_placeholders_and_nothing_else(lh: Leasehold) -> None:
    curl = ("curl", "-sS", "-w", "%{http_code}")
    instance = "http://169.254.169.254/latest"
    with_token = ("-H", "x-aws-ec2-metadata-token: any")
    asked = {
        "token": (*curl, "-X", "PUT", "-H", "x-aws-ec2-metadata-token-ttl-seconds: 60", f"{instance}/api/token"),
        "no token": (*curl, f"{instance}/meta-data/iam/security-credentials/"),
        "role": (*curl, *with_token, f"{instance}/meta-data/iam/security-credentials/"),
        "region": (*curl, *with_token, f"{instance}/meta-data/placement/region"),
        "user data": (*curl, *with_token, f"{instance}/user-data"),
        "another container": (*curl, "http://169.254.170.2/v2/credentials/other"),
    }
    done = {what: lh.run(*command) for what, command in asked.items()}
    said = {what: each.stdout for what, each in done.items()}
    assert said["token"] == "leasehold200"
    assert said["no token"].endswith("401")
    assert said["role"] == "leasehold200"
    assert said["region"] == f"{REGION}200"
    assert said["user data"].endswith("404")
    assert said["another container"].endswith("404")
    assert "denied" not in done["role"].stderr, "what was answered was not denied"
    assert "denied" in done["user data"].stderr


def test_another_service_is_signed_with_the_hash_of_the_body(lh: Leasehold, moto: MotoServer) -> None:
    said = run(
        lh,
        moto,
        f"c = boto3.client('dynamodb', endpoint_url='https://{TABLES}:{moto.port}')\n"
        f"item = {{'id': {{'S': 'a'}}, 'text': {{'S': 'x' * 100_000}}}}; c.put_item(TableName='{TABLE}', Item=item)\n"
        f"print(c.get_item(TableName='{TABLE}', Key={{'id': {{'S': 'a'}}}})['Item'] == item)\n"
        f"try:\n    c.delete_table(TableName='{TABLE}')\nexcept Exception as e:\n    print(e)",
    )
    assert said.startswith("True\n") and "AccessDenied" in said


def test_what_the_role_may_not_is_refused_by_aws(lh: Leasehold, moto: MotoServer) -> None:
    said = run(
        lh,
        moto,
        "try:\n    s3().put_object(Bucket='other', Key='k', Body=b'y')\nexcept Exception as e:\n    print(e)",
    )
    assert "AccessDenied" in said


def test_the_summary_never_says_revoked(lh: Leasehold, moto: MotoServer) -> None:
    done = lh.run(sys.executable, "-c", _HEAD + "s3().list_buckets", f"https://{HOST}:{moto.port}")
    assert "builds   not used" in " ".join(done.stderr.split()).replace("builds not", "builds   not")
    script = f"s3().put_object(Bucket='{BUCKET}', Key='k', Body=b'y')"
    done = lh.run(sys.executable, "-c", _HEAD + script, f"https://{HOST}:{moto.port}")
    assert done.returncode == 0, done.stderr
    assert "at the provider it only expires" in done.stderr
    assert "revoked" not in done.stderr


class Raw:
    """A server that keeps the bytes it gets and answers with them, as an error of S3's does."""

    def __init__(self, up: Upstreams) -> None:
        self._context = up.ca.server_context((HOST, TABLES))
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._received: list[bytes] = []
        self._answering: list[threading.Thread] = []
        threading.Thread(target=self._serve, daemon=True).start()

    @property
    def received(self) -> list[bytes]:
        """All that came, also behind what was answered already; waits until who is connected has left."""
        for thread in self._answering:
            thread.join()
        return self._received

    def close(self) -> None:
        self._listener.close()

    def _serve(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            self._answering.append(threading.Thread(target=self._answer, args=(client,), daemon=True))
            self._answering[-1].start()

    def _answer(self, client: socket.socket) -> None:
        data = b""
        with contextlib.suppress(OSError), self._context.wrap_socket(client, server_side=True) as tls:
            tls.settimeout(2)
            with contextlib.suppress(TimeoutError):
                while part := tls.recv(65536):
                    data += part
                    if b"\r\n\r\n" in data and len(self._body(data)) >= self._length(data):
                        break
            tls.sendall(b"HTTP/1.1 400 Bad Request\r\ncontent-length: %d\r\n\r\n" % len(data) + data)
            with contextlib.suppress(TimeoutError):
                data += tls.recv(65536)
        self._received.append(data)

    def _body(self, data: bytes) -> bytes:
        return data.partition(b"\r\n\r\n")[2]

    def _length(self, data: bytes) -> int:
        found = re.search(rb"(?i)content-length: (\d+)", data)
        return int(found[1]) if found else 0


@pytest.fixture
def raw(upstreams: Upstreams, lh: Leasehold, moto: MotoServer) -> Iterator[tuple[Leasehold, Raw]]:
    """The same session, at a server that can be looked into."""
    server = Raw(upstreams)
    config = lh.config.read_text()
    lh.config.write_text(config.replace(f"port = {moto.port}\nmethods", f"port = {server.port}\nmethods"))
    authorities = lh.config.parent / "upstream-ca.pem"
    known = authorities.read_bytes()
    authorities.write_bytes(known + upstreams.ca.path.read_bytes())
    yield lh, server
    lh.config.write_text(config)
    authorities.write_bytes(known)
    server.close()


def chunks(*parts: bytes, last: bytes = b"0\r\n\r\n") -> str:
    return "".join(f"{len(p):x};chunk-signature=0\r\n{p.decode()}\r\n" for p in parts) + last.decode()


SMUGGLED = b"PUT /other/x HTTP/1.1\r\nhost: other.example\r\ncontent-length: 0\r\n\r\n"


@pytest.mark.parametrize(
    ("length", "body"),
    [
        (0, chunks(SMUGGLED)),
        (3, chunks(b"abc", SMUGGLED)),
        (300, chunks(b"abc")),
        (3, "3;chunk-signature=0\r\nabcPUT / HTTP/1.1\r\n\r\n"),
        (3, chunks(b"abc", last=b"")),
        (3, "zz\r\nabc\r\n0\r\n\r\n"),
    ],
    ids=["more than it says", "a second chunk", "less than it says", "no end of a chunk", "no last chunk", "no size"],
)
def test_a_length_that_is_a_lie_carries_no_second_request(raw: tuple[Leasehold, Raw], length: int, body: str) -> None:
    lh, server = raw
    work = lh.workspace()
    (work / "body").write_text(body)
    headers = ("x-amz-content-sha256: STREAMING-AWS4-HMAC-SHA256-PAYLOAD", f"x-amz-decoded-content-length: {length}")
    options = [part for header in (*headers, "content-encoding: aws-chunked", "expect:") for part in ("-H", header)]
    url = f"https://{HOST}:{server.port}/builds/k"
    done = lh.run("curl", "-sS", "-X", "PUT", *options, "--data-binary", "@body", url, workspace=work)
    assert "request-malformed" in done.stdout, done.stdout + done.stderr
    assert not any(b"/other/x" in data or data.count(b"HTTP/1.1") > 1 for data in server.received)
    honest = [part for header in (headers[0], "x-amz-decoded-content-length: 3", "expect:") for part in ("-H", header)]
    (work / "body").write_text(chunks(b"abc"))
    lh.run("curl", "-sS", "-X", "PUT", *honest, "--data-binary", "@body", url, workspace=work)
    assert any(data.endswith(b"\r\n\r\nabc") for data in server.received)


def test_what_is_sent_of_the_session_does_not_come_back(raw: tuple[Leasehold, Raw]) -> None:
    lh, server = raw
    done = lh.run("curl", "-sS", "-H", "authorization: AWS4 own", f"https://{HOST}:{server.port}/builds/k?token=own")
    assert done.stdout.startswith("GET /builds/k HTTP/1.1"), done.stderr
    [sent] = [data for data in server.received if b"/builds/k " in data]
    token = re.search(rb"x-amz-security-token: (\S+)", sent)
    assert token is not None and b"AWS4-HMAC-SHA256 Credential=ASIA" in sent and b"own" not in sent
    assert token[1].decode() not in done.stdout
    assert "x-amz-security-token: ****" in done.stdout


def test_only_s3_leaves_the_body_unsigned(raw: tuple[Leasehold, Raw]) -> None:
    lh, server = raw
    for host, path in ((HOST, "/builds/signed"), (TABLES, "/signed")):
        done = lh.run("curl", "-sS", "-X", "POST", "--data-binary", "text", f"https://{host}:{server.port}{path}")
        assert done.stdout.startswith(f"POST {path} HTTP/1.1"), done.stdout + done.stderr
    hashes = [re.search(rb"x-amz-content-sha256: (\S+)", data) for data in server.received]
    assert [found and found[1].decode() for found in hashes] == [
        "UNSIGNED-PAYLOAD",
        hashlib.sha256(b"text").hexdigest(),
    ]
