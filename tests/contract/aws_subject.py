"""A role that a key may assume, at moto's server. It knows no session policies, so what they do is not seen here."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import boto3
from botocore.config import Config
from botocore.exceptions import ClientError

from contract.subject import Material, Refused
from leasehold.broker.issuers.builtin import BUILTIN, Parameters
from leasehold.broker.issuers.ports import Issuer
from leasehold.core.secret import Secret
from servers.moto import BUCKET, REGION, MotoServer


class AwsSession:
    """A client with a session: each request is signed by itself."""

    def __init__(self, client: Any) -> None:
        self._client = client
        self._closed = False

    def alive(self) -> bool:
        if self._closed:
            return False
        self._client.put_object(Bucket=BUCKET, Key="alive", Body=b"x")
        return True

    def close(self) -> None:
        self._closed = True


class AwsSubject:
    """One bucket."""

    scope = frozenset({f"s3:PutObject on arn:aws:s3:::{BUCKET}/*"})
    within: Sequence[str] = (f"{BUCKET}/a", f"{BUCKET}/b/c d")
    beyond: Sequence[str] = ("other/a",)
    less = frozenset[str]()
    beyond_less = ""
    outside = frozenset({"s3:PutObject on arn:aws:s3:::other/*"})
    ends_by_itself = False
    hostile: Sequence[Mapping[str, object]] = (
        *(
            {"grants": [grant]}
            for grant in (
                "",
                "*",
                "s3:*",
                "* on *",
                "s3:* on *",
                "s3:* on arn:aws:s3:::builds/*",
                "s3:PutObject on *",
                "s3:PutObject on arn:aws:s3:::*",
                "s3:PutObject on arn:aws:s3:::builds/?",
                "s3:PutObject on arn:aws:s3:::builds/${aws:username}",
                's3:PutObject on arn:aws:s3:::builds/a","Resource":"*',
                "s3:PutObject on arn:aws:s3:::builds/a\n",
                "s3:PutObject  on arn:aws:s3:::builds/a",
                "S3:PutObject on arn:aws:s3:::builds/a",
                "iam:PassRole",
            )
        ),
        {"grants": []},
        {"grants": "s3:PutObject on arn:aws:s3:::builds/a"},
        *(
            {"server": server}
            for server in ("http://sts.example", "https://key@sts.example", "https://sts.example/?a=b")
        ),
        *({"region": region} for region in ("", "EU", "eu-central", "eu-central-1/../")),
        *({"assume": role} for role in ("", "deployers", "arn:aws:iam::1:role/a", "arn:aws:iam::123456789012:user/a")),
        {"ca": "ca.pem"},
    )

    def __init__(self, server: MotoServer) -> None:
        self.server = server
        self.secret = Secret(server.secret.encode())
        self._open: list[AwsSession] = []

    def parameters(self, address: tuple[str, int] | None = None) -> Mapping[str, object]:
        return {
            "server": f"https://{address[0]}:{address[1]}" if address else self.server.url,
            "region": REGION,
            "assume": self.server.role,
            "ca": str(self.server.ca),
            "grants": sorted(self.scope),
        }

    def issuer(self, parameters: Mapping[str, object], secret: Secret) -> Issuer:
        table = Parameters("aws-sts", parameters)
        issuer = BUILTIN["aws-sts"](table, secret)
        table.done()
        return issuer

    def client(self, material: Material) -> Any:
        return boto3.client(
            "s3",
            endpoint_url=self.server.url,
            region_name=REGION,
            aws_access_key_id=material["access_key_id"].reveal().decode(),
            aws_secret_access_key=material["secret_access_key"].reveal().decode(),
            aws_session_token=material["session_token"].reveal().decode(),
            verify=str(self.server.ca),
            config=Config(retries={"max_attempts": 0}),
        )

    def attempt(self, material: Material, operation: str) -> None:
        bucket, _, key = operation.partition("/")
        try:
            self.client(material).put_object(Bucket=bucket, Key=key, Body=json.dumps(operation).encode())
        except ClientError as e:
            raise Refused(str(e)) from e

    def open(self, material: Material) -> AwsSession:
        self._open.append(AwsSession(self.client(material)))
        return self._open[-1]

    def accounts(self) -> Collection[str]:
        return ()

    def plant(self, name: str) -> None:
        """There is nothing that could be left half made."""

    def remove(self, name: str) -> None:
        """See :meth:`plant`."""

    def expires(self, name: str) -> float | None:
        return None

    def sessions(self, name: str) -> int:
        return sum(session.alive() for session in self._open)
