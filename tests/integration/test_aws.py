"""S3 from a compartment: an SDK signs with placeholders, and what arrives is signed with a session of the task."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

from servers.harness import Leasehold
from servers.moto import BUCKET, HOST, REGION, MotoServer

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
"""


@pytest.fixture(scope="module")
def lh(upstreams: Upstreams, moto: MotoServer, person: Person | None) -> Iterator[Leasehold]:
    upstreams.beside[HOST] = moto.ca
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
        del upstreams.beside[HOST]


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
