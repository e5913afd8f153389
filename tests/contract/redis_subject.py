"""A Redis server with the user that the page of the issuer ``redis`` tells an operator to make."""

from __future__ import annotations

import hashlib
import re
import secrets
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import redis
from redis.exceptions import NoPermissionError

from contract.subject import Material, Refused
from leasehold.broker.issuers.builtin import BUILTIN, Parameters
from leasehold.broker.issuers.ports import Issuer
from leasehold.core.secret import Secret
from servers.redis import ADDRESS, Client, RedisServer

PAGE = Path(__file__).parents[2] / "docs" / "issuers" / "redis.md"
ISSUER = "leasehold_issuer"


class ClientSession:
    """An open connection of a client."""

    def __init__(self, client: Client) -> None:
        self.client = client

    def alive(self) -> bool:
        try:
            return bool(self.client.ask("PING"))
        except redis.ConnectionError:
            return False

    def close(self) -> None:
        self.client.close()


class RedisSubject:
    """Keys of orders and of stock, and a channel."""

    scope = frozenset({"~orders:* +@connection +@read +@write", "%R~stock:* +get", "&news.* +@pubsub"})
    within: Sequence[str] = (
        "SET orders:1 tea",
        "GET orders:1",
        "PING",
        "GET stock:tea",
        "PUBLISH news.tea fresh",
        "SUBSCRIBE news.tea",
    )
    beyond: Sequence[str] = (
        "SET stock:tea 0",
        "GET customers:1",
        "HGETALL stock:tea",
        "RENAME orders:1 customers:1",
        "COPY stock:tea orders:2",
        "PUBLISH secrets.tea x",
        "SUBSCRIBE secrets.tea",
        "PSUBSCRIBE *",
        "PUBSUB CHANNELS",
        "SCAN 0",
        "RANDOMKEY",
        "DBSIZE",
        "SELECT 1",
        "KEYS *",
        "FLUSHALL",
        "SWAPDB 0 1",
        "CONFIG GET *",
        "CLIENT LIST",
        "CLIENT KILL ID 1",
        "CLIENT TRACKING ON BCAST",
        "MONITOR",
        "FUNCTION FLUSH",
        "FUNCTION LOAD x",
        "SCRIPT FLUSH",
        "EVAL return 0",
        "ACL WHOAMI",
        "ACL SETUSER lh_friend on",
        "REPLICAOF NO ONE",
        "MIGRATE 127.0.0.1 1 orders:1 0 1",
        "RESTORE orders:1 0 x",
    )
    less = frozenset({"%R~stock:* +get"})
    beyond_less = "GET orders:1"
    outside = frozenset({"~customers:* +@read"})
    ends_by_itself = False
    hostile: Sequence[Mapping[str, object]] = (
        *(
            {"grants": [grant]}
            for grant in (
                "",
                " ",
                "~orders:*",
                "~ +get",
                "& +publish",
                "%R~ +get",
                "%~x +get",
                "%RR~x +get",
                "~orders:* ~orders:* +get",
                "%R~orders:* %W~orders:* +get",
                "~orders:* +get +get",
                "~orders:*  +get",
                "~orders:*\t+get",
                "~orders:* +get\n",
                "~orders:* +get) (~* +@all",
                "(~orders:* +get)",
                '~"orders:*" +get',
                "~orders:'* +get",
                "~orders:\\* +get",
                "~orders:\0 +get",
                "~\u043erders:* +get",
                "~orders:* +@all",
                "~orders:* +@admin",
                "~orders:* +@dangerous",
                "~orders:* +@DANGEROUS",
                "~orders:* +@slow",
                "~orders:* +@nothing",
                "~orders:* -@all +get",
                "~orders:* +acl",
                "~orders:* +acl|setuser",
                "~orders:* +config|get",
                "~orders:* +CONFIG|SET",
                "~orders:* +function|load",
                "~orders:* +script|flush",
                "~orders:* +module|load",
                "allkeys +get",
                "~orders:* allcommands",
                "~orders:* +get nopass",
                "~orders:* +get >password",
                "~orders:* +get on",
                "~orders:* +get reset",
                "orders:* +get",
            )
        ),
        {"grants": []},
        {"grants": ["~a +get", "~a +GET"]},
        {"grants": "~a +get"},
        *(
            {"server": server}
            for server in (
                "rediss://issuer:password@cache.example",
                "redis://issuer@cache.example",
                "rediss://cache.example",
                "rediss://issuer@",
                "rediss://issuer@cache.example/0",
                "rediss://issuer@cache.example?ssl_cert_reqs=none",
                "rediss://issuer@cache.example#x",
                "rediss://issuer@cache.example,evil.example",
                "rediss://issuer@cache.example:port",
                "rediss://issuer@%2Ftmp",
                "unix:///tmp/redis.sock",
            )
        ),
        {"ca": "ca.pem"},
        {"ssl": False},
    )

    def __init__(self, server: RedisServer, *, save: bool = True) -> None:
        self.server = server
        self.secret = Secret(secrets.token_urlsafe(24).encode())
        self.admin = server.admin()
        digest = hashlib.sha256(self.secret.reveal()).hexdigest()
        [line] = re.findall(r"^ACL SETUSER \S+ .*$", PAGE.read_text(), flags=re.MULTILINE)
        self.admin.ask(*line.split(), f"#{digest}")
        if save:
            self.admin.ask("ACL", "SAVE")
        self.admin.ask("SET", "stock:tea", "40")
        self.admin.ask("SET", "customers:1", "somebody")

    def close(self) -> None:
        self.admin.ask("ACL", "DELUSER", ISSUER)
        self.admin.ask("FLUSHALL")
        self.admin.close()

    def parameters(self, address: tuple[str, int] | None = None) -> Mapping[str, object]:
        host, port = address or (ADDRESS, self.server.port)
        return {
            "server": f"rediss://{ISSUER}@{host}:{port}",
            "ca": str(self.server.ca),
            "grants": sorted(self.scope),
        }

    def issuer(self, parameters: Mapping[str, object], secret: Secret) -> Issuer:
        table = Parameters("redis", parameters)
        issuer = BUILTIN["redis"](table, secret)
        table.done()
        return issuer

    def attempt(self, material: Material, operation: str) -> None:
        session = self.open(material)
        try:
            reply = session.client.ask(*operation.split(" "))
            if operation.startswith("SUBSCRIBE"):
                assert reply[0] == "subscribe"
        except NoPermissionError as e:
            raise Refused(str(e)) from e
        finally:
            session.close()

    def open(self, material: Material) -> ClientSession:
        fields = {name: value.reveal().decode() for name, value in material.items()}
        client = self.server.client(fields["username"], fields["password"])
        try:
            client.ask("GET", "stock:tea")
        except redis.AuthenticationError as e:
            client.close()
            raise Refused(str(e)) from e
        except NoPermissionError:
            pass  # it is in
        return ClientSession(client)

    def accounts(self) -> Collection[str]:
        return list(self.admin.ask("ACL", "USERS"))

    def plant(self, name: str) -> None:
        self.admin.ask("ACL", "SETUSER", name, "off")

    def remove(self, name: str) -> None:
        self.admin.ask("ACL", "DELUSER", name)

    def expires(self, name: str) -> float | None:
        return None

    def sessions(self, name: str) -> int:
        listed: str = self.admin.ask("CLIENT", "LIST")
        return listed.count(f" user={name} ")
