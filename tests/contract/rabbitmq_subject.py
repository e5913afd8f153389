"""A RabbitMQ server with the user that the page of the issuer ``rabbitmq`` tells an operator to make."""

from __future__ import annotations

import secrets
from collections.abc import Collection, Mapping, Sequence
from urllib.parse import quote

from contract.subject import Material, Refused
from leasehold.broker.issuers.builtin import BUILTIN, Parameters
from leasehold.broker.issuers.ports import Issuer
from leasehold.core.secret import Secret
from servers.amqp import AmqpClient, AmqpRefused
from servers.rabbitmq import ADDRESS, RabbitServer

ISSUER = "leasehold_issuer"
VHOST = "/shop"
_REFUSED = (403, 530)
"""ACCESS_REFUSED and NOT_ALLOWED of AMQP 0-9-1."""


class RabbitSubject:
    """Queues of orders and of stock in one virtual host, and another one."""

    scope = frozenset({"READ, WRITE ON orders.* IN /shop", "READ ON stock IN /shop", "WRITE ON amq.topic IN /shop"})
    within: Sequence[str] = (
        "publish amq.topic orders.new",
        "publish orders.in x",
        "get orders.new",
        "get stock",
        "bind orders.new orders.in",
    )
    beyond: Sequence[str] = (
        "get customers",
        "get stock2",
        "get old-stock",
        "publish amq.direct x",
        "publish amq.default customers",
        "declare orders.mine",
        "delete orders.new",
        "bind stock orders.in",
        "elsewhere get stock",
    )
    less = frozenset({"READ ON stock IN /shop"})
    beyond_less = "get orders.new"
    outside = frozenset({"READ ON customers IN /shop"})
    ends_by_itself = False
    hostile: Sequence[Mapping[str, object]] = (
        *(
            {"grants": [grant]}
            for grant in (
                "",
                "READ",
                "READ ON orders",
                "READ ON orders IN",
                "READ ON .* IN /",
                "READ ON ord*ers IN /",
                "READ ON *orders IN /",
                "READ ON orders** IN /",
                "READ ON orders|stock IN /",
                "READ ON orders$ IN /",
                "READ ON orders\n IN /",
                "READ ON orders IN /\n",
                "READ ON orders IN .*",
                "READ ON orders IN *",
                "READ, READ ON orders IN /",
                "ADMIN ON orders IN /",
                "READ ON amq.rabbitmq.trace IN /",
                "READ ON amq.rabbitmq.* IN /",
            )
        ),
        {"grants": []},
        {"grants": ["READ ON a IN /", "read on a in /"]},
        {"connections": 0},
        {"connections": 101},
        *(
            {"server": server}
            for server in (
                "https://issuer:password@mq.example",
                "http://issuer@mq.example",
                "amqps://issuer@mq.example",
                "https://mq.example",
                "https://issuer@mq.example/api",
                "https://issuer@mq.example?verify=none",
                "https://issuer@mq.example#x",
            )
        ),
        {"ca": "ca.pem"},
        {"tags": "administrator"},
    )

    def __init__(self, server: RabbitServer) -> None:
        self.server = server
        self.secret = Secret(secrets.token_urlsafe(24).encode())
        server.ask("PUT", f"/users/{ISSUER}", {"password": self.secret.reveal().decode(), "tags": "administrator"})
        for vhost in (VHOST, "elsewhere"):
            server.ask("PUT", f"/vhosts/{quote(vhost, safe='')}", {})
            for queue in ("orders.new", "stock", "stock2", "old-stock", "customers"):
                server.ask("PUT", f"/queues/{quote(vhost, safe='')}/{queue}", {"durable": False})
            server.ask("PUT", f"/exchanges/{quote(vhost, safe='')}/orders.in", {"type": "topic", "durable": False})

    def close(self) -> None:
        self.server.ask("DELETE", f"/users/{ISSUER}")
        for vhost in (VHOST, "elsewhere"):
            self.server.ask("DELETE", f"/vhosts/{quote(vhost, safe='')}")

    def parameters(self, address: tuple[str, int] | None = None) -> Mapping[str, object]:
        host, port = address or (ADDRESS, self.server.management_port)
        return {
            "server": f"https://{ISSUER}@{host}:{port}",
            "ca": str(self.server.ca),
            "grants": sorted(self.scope),
        }

    def issuer(self, parameters: Mapping[str, object], secret: Secret) -> Issuer:
        table = Parameters("rabbitmq", parameters)
        issuer = BUILTIN["rabbitmq"](table, secret)
        table.done()
        return issuer

    def attempt(self, material: Material, operation: str) -> None:
        elsewhere = operation.startswith("elsewhere ")
        verb, name, *more = operation.removeprefix("elsewhere ").split(" ")
        try:
            client = self._client(material, "elsewhere" if elsewhere else VHOST)
            try:
                if verb == "publish":
                    client.publish("" if name == "amq.default" else name, more[0], b"tea")
                else:
                    getattr(client, verb)(name, *more)
            finally:
                client.close()
        except AmqpRefused as e:
            if e.code not in _REFUSED:
                raise
            raise Refused(str(e)) from e

    def open(self, material: Material) -> AmqpClient:
        try:
            return self._client(material, VHOST)
        except AmqpRefused as e:
            if e.code not in _REFUSED:
                raise
            raise Refused(str(e)) from e

    def accounts(self) -> Collection[str]:
        return [user["name"] for user in self.server.ask("GET", "/users")]

    def plant(self, name: str) -> None:
        self.server.ask("PUT", f"/users/{quote(name, safe='')}", {"password_hash": "", "tags": ""})

    def remove(self, name: str) -> None:
        self.server.ask("DELETE", f"/users/{quote(name, safe='')}")

    def expires(self, name: str) -> float | None:
        return None

    def sessions(self, name: str) -> int:
        return len(self.server.ask("GET", f"/connections/username/{name}"))

    def _client(self, material: Material, vhost: str) -> AmqpClient:
        fields = {name: value.reveal().decode() for name, value in material.items()}
        return self.server.connect(fields["username"], fields["password"], vhost)
