"""Issuers are made from parameters, which are read as strictly as a file."""

from __future__ import annotations

import sys
from typing import Any

import pytest

from leasehold.broker.issuers.builtin import BUILTIN, SYSTEM_CA, make
from leasehold.broker.issuers.checked import CheckedIssuer
from leasehold.broker.issuers.postgres import PostgresIssuer, Server
from leasehold.broker.lease.machine import Revocability
from leasehold.core.errors import ConfigError
from leasehold.core.secret import Secret

NONE = Secret(b"")
DATABASE: dict[str, Any] = {"server": "postgresql://issuer@db.example/orders", "grants": ["connect", "select on a.b"]}


def refused(kind: str, parameters: dict[str, Any]) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        make(kind, parameters, NONE)
    error = caught.value
    assert error.hint
    assert error.__context__ is None
    return error


def made(**changes: Any) -> PostgresIssuer:
    issuer = make("postgres", {**DATABASE, **changes}, NONE)._issuer
    assert isinstance(issuer, PostgresIssuer)
    return issuer


def test_an_issuer_comes_behind_its_door() -> None:
    issuer = make("postgres", DATABASE, NONE)
    assert isinstance(issuer, CheckedIssuer)
    assert (issuer.kind, issuer.revocability) == ("postgres", Revocability.NOW)
    assert issuer.scope == {"CONNECT", "SELECT ON TABLE a.b"}


def test_what_is_left_out_has_its_default() -> None:
    issuer = made()
    assert issuer._server == Server(host="db.example", port=5432, user="issuer", database="orders", ca=SYSTEM_CA)
    assert (issuer._connections, issuer._reassign_to) == (10, "")


def test_what_is_said_is_taken() -> None:
    server = "postgres://is.suer%40x@DB.example:6432/or-ders"
    issuer = made(server=server, ca="/etc/ca.pem", connections=3, reassign_to="Keepers")
    assert issuer._server == Server(
        host="db.example", port=6432, user="is.suer@x", database="or-ders", ca="/etc/ca.pem"
    )
    assert (issuer._connections, issuer._reassign_to) == (3, "keepers")


def test_a_kind_that_does_not_exist_is_named_with_those_that_do() -> None:
    error = refused("postgras", DATABASE)
    assert "postgras" in error.message
    assert all(kind in error.hint for kind in BUILTIN)


@pytest.mark.parametrize("key", DATABASE)
def test_what_is_needed_has_to_be_there(key: str) -> None:
    assert f"the key {key} is missing" in refused("postgres", {k: v for k, v in DATABASE.items() if k != key}).message


def test_an_unknown_key_is_named_with_the_one_that_was_meant() -> None:
    error = refused("postgres", {**DATABASE, "grnats": []})
    assert error.message == "issuer(postgres): grnats: unknown key"
    assert "grants" in error.hint


def test_an_entry_of_a_list_is_named() -> None:
    error = refused("postgres", {**DATABASE, "grants": ["connect", "all"]})
    assert error.message.startswith("issuer(postgres): grants[2]: ")


@pytest.mark.parametrize(
    ("server", "said"),
    [
        ("postgresql://issuer:hunter2@db.example/orders", "no place"),
        ("postgresql://issuer:@db.example/orders", "no place"),
        ("http://issuer@db.example/orders", "expected postgresql"),
        ("postgresql://issuer@db.example/orders?sslmode=disable", "expected postgresql"),
        ("postgresql://issuer@db.example/orders#x", "expected postgresql"),
        ("postgresql://db.example/orders", "a user"),
        ("postgresql://issuer@/orders", "a user"),
        ("postgresql://issuer@db.example", "a database"),
        ("postgresql://issuer@db.example/a/b", "a database"),
        ("postgresql://issuer@a,b/orders", "a user"),
        ("postgresql://issuer@%2Frun/orders", "a user"),
        ("postgresql://issuer@db.example:0x1/orders", "a URL"),
        ("postgresql://issuer@db.example:70000/orders", "a URL"),
        ("postgresql://issuer@[::1/orders", "a URL"),
        ("postgresql://is%20suer@db.example/orders", "a user"),
    ],
)
def test_the_server_is_one_place(server: str, said: str) -> None:
    error = refused("postgres", {**DATABASE, "server": server})
    assert error.message.startswith("issuer(postgres): server: ")
    assert said in error.message
    assert "hunter2" not in str(error)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("connections", 0),
        ("connections", 101),
        ("connections", "3"),
        ("ca", "ca.pem"),
        ("ca", "/a\0b"),
        ("reassign_to", "a b"),
        ("grants", []),
        ("grants", "connect"),
        ("grants", ["connect", "CONNECT"]),
        ("server", 5),
    ],
)
def test_a_wrong_value_is_named(key: str, value: object) -> None:
    assert f"issuer(postgres): {key}" in refused("postgres", {**DATABASE, key: value}).message


def test_a_driver_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("redis.asyncio.connection", "leasehold.broker.issuers.redis"):
        monkeypatch.delitem(sys.modules, module, raising=False)
    monkeypatch.delattr("leasehold.broker.issuers.redis", raising=False)
    monkeypatch.setitem(sys.modules, "redis.asyncio.connection", None)
    error = refused("redis", {"server": "rediss://issuer@cache.example", "grants": ["~a +get"]})
    assert "redis.asyncio.connection is not installed" in error.message
    assert error.hint == "pip install redis"
