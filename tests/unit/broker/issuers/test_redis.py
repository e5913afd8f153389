"""What the issuer of Redis users hears and says, with a server that says what no real one does."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import pytest

from leasehold.broker.issuers.ports import Order
from leasehold.broker.issuers.redis import RedisIssuer, Server, _issue, _revoke
from leasehold.broker.issuers.redis_grants import parse
from leasehold.core.errors import IssuerError
from leasehold.core.secret import Secret

GRANT = parse("~orders:* +get")
DIGEST = "3ba3f5f43b92602683c19aee62a20342b084dd5971ddd33808d81a328879a547"  # of 32 times the letter a
ORDER = Order(name="lh_a", secret=Secret(b"a" * 32), task="t", expires=60.0, scope=frozenset({str(GRANT)}))
CATEGORIES = {"read": ["get", "hget"], "admin": [], "dangerous": ["keys"]}
SELECTOR = ["commands", "-@all +get", "keys", "~orders:*", "channels", ""]
USER: Mapping[str, Any] = {
    "flags": ["on", "sanitize-payload"],
    "passwords": [DIGEST],
    "commands": "-@all",
    "keys": "",
    "channels": "",
    "selectors": [SELECTOR],
}


class ScriptedConnection:
    """Answers each command by its first two words; notes all that is sent."""

    def __init__(self, **answers: Any) -> None:
        self._answers = {"ACL_CAT": [*CATEGORIES], "ACL_SETUSER": "OK", "ACL_SAVE": "OK", "ACL_DELUSER": 1, **answers}
        self._pending: list[Any] = []
        self.sent: list[tuple[str, ...]] = []

    async def send_command(self, *words: str) -> None:
        self.sent.append(words)
        answer = self._answers["_".join(words[:2])]
        if words[:2] == ("ACL", "CAT") and len(words) == 3:
            answer = CATEGORIES[words[2]]
        elif words[:3] == ("CLIENT", "LIST", "ID"):
            answer = self._answers["CLIENT_LIST_ID"]
        self._pending.append(answer)

    async def read_response(self) -> Any:
        return self._pending.pop(0)


def with_user(**changes: Any) -> ScriptedConnection:
    fields = {**USER, **changes}
    return ScriptedConnection(ACL_GETUSER=[item for pair in fields.items() for item in pair])


def issue(connection: ScriptedConnection) -> frozenset[str]:
    issued = asyncio.run(_issue(connection, ORDER, {str(GRANT): GRANT}))  # type: ignore[arg-type]
    assert issued.expires == ORDER.expires
    return issued.scope


def test_the_password_is_not_among_what_is_sent() -> None:
    connection = with_user()
    assert issue(connection) == ORDER.scope
    words = [word for words in connection.sent for word in words]
    assert f"#{DIGEST}" in words
    assert not [word for word in words if "a" * 32 in word]
    assert connection.sent[-1] == ("ACL", "SAVE")


@pytest.mark.parametrize(
    ("changes", "more"),
    [
        ({"selectors": [SELECTOR, ["commands", "-@all +hget", "keys", "~*", "channels", ""]]}, "~* +hget"),
        ({"commands": "-@all +keys"}, "+keys"),
        ({"keys": "~*"}, "~*"),
        ({"channels": "&*"}, "&*"),
    ],
)
def test_more_than_ordered_is_said(changes: Mapping[str, Any], more: str) -> None:
    assert issue(with_user(**changes)) == ORDER.scope | {more}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"selectors": []}, "did not grant ~orders"),
        ({"selectors": [["commands", "-@all", "keys", "~orders:*", "channels", ""]]}, "did not grant ~orders"),
        ({"selectors": [["commands", "-@all +get", "keys", "%R~orders:*", "channels", ""]]}, "did not grant ~orders"),
        ({"flags": ["off"]}, "not as it was made"),
        ({"flags": ["on", "nopass"]}, "not as it was made"),
        ({"passwords": []}, "not as it was made"),
        ({"passwords": [DIGEST, "0" * 64]}, "not as it was made"),
        ({"passwords": ["0" * 64]}, "not as it was made"),
    ],
)
def test_less_than_ordered_or_other_than_made_is_an_error(changes: Mapping[str, Any], said: str) -> None:
    with pytest.raises(IssuerError, match=said):
        issue(with_user(**changes))


def test_a_user_that_somebody_deleted_at_once_is_an_error() -> None:
    with pytest.raises(IssuerError, match="not there any more"):
        issue(ScriptedConnection(ACL_GETUSER=None))


LISTED = "id=7 addr=x name= user=lh_a lib-name=\nid=8 addr=y user=lh_ab\nid=9 addr=z user=lh_a\n"


def revoke(**answers: Any) -> ScriptedConnection:
    connection = ScriptedConnection(**{"CLIENT_LIST": LISTED, "CLIENT_LIST_ID": "", "ACL_GETUSER": None, **answers})
    asyncio.run(_revoke(connection, "lh_a"))  # type: ignore[arg-type]
    return connection


def test_the_connections_that_it_had_are_looked_for() -> None:
    assert revoke().sent[-1] == ("CLIENT", "LIST", "ID", "7", "9")
    assert revoke(CLIENT_LIST="").sent[-1] == ("ACL", "GETUSER", "lh_a")


@pytest.mark.parametrize("answers", [{"CLIENT_LIST_ID": "id=9 user=default"}, {"ACL_GETUSER": ["flags", ["on"]]}])
def test_what_is_still_there_is_no_success(answers: Mapping[str, Any]) -> None:
    with pytest.raises(IssuerError, match="still there"):
        revoke(**answers)


def test_a_file_that_is_not_there_is_an_error_that_says_where_to_look() -> None:
    server = Server(host="127.0.0.1", port=1, user="issuer", ca="/nonexistent/ca.pem")
    issuer = RedisIssuer(server, Secret(b"x"), allowed=[GRANT])
    with pytest.raises(IssuerError) as caught:
        asyncio.run(issuer.find())
    assert "ca" in caught.value.hint
    assert caught.value.__context__ is None
