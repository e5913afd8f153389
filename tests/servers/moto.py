"""moto's server on loopback with TLS: STS, IAM, S3 and DynamoDB as it understands them.

It checks signatures (Version 4) and the policies of users and roles; not those of sessions, no conditions, no time.
"""

from __future__ import annotations

import json
import shutil
import socket
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import boto3
import httpx

from servers.ca import TestCa
from servers.process import Child, free_port

ADDRESS = "127.0.0.1"
HOST = "s3.forge.test"
REGION = "eu-central-1"
BUCKET = "builds"
TABLES = "dynamodb.forge.test"
"""The host of another service, whose requests are signed with the hash of their bodies."""
TABLE = "jobs"
_ACCOUNT = "123456789012"
_START_S = 60.0


class MotoServer:
    """``secret``: the issuer's, as JSON; ``role``: what it may assume; ``cut``: another such, to be cut: moto
    looks at no condition, so a cut ends all of its sessions.
    """

    def __init__(self) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="lh-moto-"))
        ca = TestCa(self._folder)
        self.ca = ca.path
        self.port = free_port(ADDRESS)
        self.url = f"https://{ADDRESS}:{self.port}"
        self.role = f"arn:aws:iam::{_ACCOUNT}:role/deployers"
        self.cut = f"arn:aws:iam::{_ACCOUNT}:role/cut"
        self.secret = json.dumps({"access_key_id": "AKIATESTTESTTESTTEST", "secret_access_key": "not yet known"})
        certificate, key = ca.leaf((ADDRESS, HOST, TABLES))
        tls = ["-c", str(certificate), "-k", str(key)]
        try:
            self._child = Child(
                [sys.executable, "-m", "moto.server", "-H", ADDRESS, "-p", str(self.port), *tls],
                log=self._folder / "log",
                env={"PATH": "/usr/bin:/bin", "S3_IGNORE_SUBDOMAIN_BUCKETNAME": "true"},
            )
            self._child.wait_until(self._answers, timeout_s=_START_S)
            self._people()
        except BaseException:
            shutil.rmtree(self._folder)
            raise

    def client(self, service: str) -> Any:
        """boto3's, with the issuer's own key."""
        fields = json.loads(self.secret)
        return boto3.client(
            service,
            endpoint_url=self.url,
            region_name=REGION,
            aws_access_key_id=fields["access_key_id"],
            aws_secret_access_key=fields["secret_access_key"],
            verify=str(self.ca),
        )

    def _people(self) -> None:
        """A role that may use one bucket, a user that may assume it; from then on everybody is checked."""
        iam = self.client("iam")
        user = iam.create_user(UserName="issuer")["User"]["Arn"]
        trust = {"Principal": {"AWS": user}, "Action": ["sts:AssumeRole", "sts:SetSourceIdentity"]}
        table = {"Action": ["dynamodb:PutItem", "dynamodb:GetItem"], "Resource": "*"}
        bucket = {"Action": "s3:*", "Resource": [f"arn:aws:s3:::{BUCKET}", f"arn:aws:s3:::{BUCKET}/*"]}
        for name in ("deployers", "cut"):
            iam.create_role(RoleName=name, AssumeRolePolicyDocument=_policy(trust))
            iam.put_role_policy(RoleName=name, PolicyName="bucket", PolicyDocument=_policy(bucket))
            iam.put_role_policy(RoleName=name, PolicyName="table", PolicyDocument=_policy(table))
        assume = {"Action": trust["Action"], "Resource": [self.role, self.cut]}
        cut = {"Action": ["iam:GetRolePolicy", "iam:PutRolePolicy"], "Resource": "*"}
        iam.put_user_policy(UserName="issuer", PolicyName="assume", PolicyDocument=_policy(assume))
        iam.put_user_policy(UserName="issuer", PolicyName="cut", PolicyDocument=_policy(cut))
        self.client("dynamodb").create_table(
            TableName=TABLE,
            KeySchema=[{"AttributeName": "id", "KeyType": "HASH"}],
            AttributeDefinitions=[{"AttributeName": "id", "AttributeType": "S"}],
            BillingMode="PAY_PER_REQUEST",
        )
        self.client("s3").create_bucket(Bucket=BUCKET, CreateBucketConfiguration={"LocationConstraint": REGION})
        key = iam.create_access_key(UserName="issuer")["AccessKey"]
        self.secret = json.dumps({"access_key_id": key["AccessKeyId"], "secret_access_key": key["SecretAccessKey"]})
        answer = httpx.post(f"{self.url}/moto-api/reset-auth", content=b"0", verify=str(self.ca))
        answer.raise_for_status()

    @property
    def log(self) -> str:
        return (self._folder / "log").read_text()

    def close(self) -> None:
        """End it; idempotent."""
        if self._folder.exists():
            self._child.close()
            shutil.rmtree(self._folder)

    def _answers(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex((ADDRESS, self.port)) == 0


def _policy(statement: Mapping[str, object]) -> str:
    return json.dumps({"Version": "2012-10-17", "Statement": [{"Effect": "Allow", **statement}]})
