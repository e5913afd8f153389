"""What the issuer of RabbitMQ users makes of answers that no server gives."""

from __future__ import annotations

import asyncio
import re
from typing import Any

import pytest

from leasehold.broker.issuers.answers import Answer
from leasehold.broker.issuers.ports import Order
from leasehold.broker.issuers.rabbitmq import RabbitmqIssuer
from leasehold.broker.issuers.rabbitmq_grants import NONE, parse, permissions
from leasehold.broker.issuers.rest import Rest
from leasehold.core.errors import IssuerError
from leasehold.core.secret import Secret
from leasehold.core.toml import Wrong

GRANT = "READ ON orders.* IN /"
ORDER = Order(name="lh_a", secret=Secret(b"a" * 32), task="t", expires=900.0, scope=frozenset({GRANT}))
[(CONFIGURE, READ, WRITE)] = permissions([parse(GRANT)]).values()
HERE = {"user": "lh_a", "vhost": "/", "configure": CONFIGURE, "read": READ, "write": WRITE}
LIMITS = [{"user": "lh_a", "value": {"max-connections": 3}}]


class ScriptedApi(Rest):
    """Answers each ``METHOD path`` from a list, the last of which stays."""

    def __init__(self, **answers: list[tuple[int, Any]]) -> None:
        super().__init__("https://mq.example", "/nonexistent")
        self.answers: dict[str, list[tuple[int, Any]]] = {
            "GET whoami": [(200, {"name": "issuer", "tags": ["administrator"]})],
            "GET users": [(200, {"name": "lh_a", "tags": []})],
            "GET permissions": [(200, [])],
            "GET user-limits": [(200, LIMITS)],
            "GET connections": [(200, [])],
            **{name.replace("_", " ", 1).replace("_", "-"): given for name, given in answers.items()},
        }
        self.asked: list[str] = []

    async def ask(self, method: str, path: str, *, authorization: str = "", body: object = None) -> Answer:
        assert authorization == "Basic aXNzdWVyOm9mLXRoZS1pc3N1ZXI="
        what = "permissions" if path.endswith("/permissions") else path.split("/")[2].partition("?")[0]
        self.asked.append(f"{method} {what}")
        given = self.answers.get(f"{method} {what}", [(204, {})])
        status, found = given.pop(0) if len(given) > 1 else given[0]
        is_list = isinstance(found, list)
        return Answer(status=status, fields={} if is_list else found, date=0.0, items=found if is_list else None)


def issuer(api: Rest) -> RabbitmqIssuer:
    return RabbitmqIssuer(
        api, "issuer", Secret(b"of-the-issuer"), allowed=[parse(GRANT)], connections=3, sessions_end_s=0.1
    )


def fails(api: Rest, what: str = "issue") -> IssuerError:
    made = issuer(api)
    call = {"issue": lambda: made.issue(ORDER), "revoke": lambda: made.revoke("lh_a"), "check": made.check}[what]
    with pytest.raises(IssuerError) as caught:
        asyncio.run(call())
    assert caught.value.hint
    return caught.value


def test_permissions_come_last_and_are_read_back() -> None:
    api = ScriptedApi(GET_permissions=[(200, [HERE])])
    issued = asyncio.run(issuer(api).issue(ORDER))
    assert issued.scope == {GRANT}
    assert issued.expires == ORDER.expires
    assert api.asked[:3] == ["PUT users", "PUT user-limits", "PUT permissions"]
    assert api.asked[-1] == "GET permissions"


@pytest.mark.parametrize(
    "answers",
    [
        {"GET_users": [(200, {"name": "lh_a", "tags": ["management"]})]},
        {"GET_users": [(200, {"name": "lh_a"})]},
        {"GET_user_limits": [(200, [])]},
        {"GET_user_limits": [(200, [{"value": {"max-connections": 100}}])]},
        {"GET_permissions": [(200, [])]},
        {"GET_permissions": [(200, [{**HERE, "read": ".*"}])]},
        {"GET_permissions": [(200, [{**HERE, "write": ".*"}])]},
        {"GET_permissions": [(200, [{**HERE, "vhost": "/other"}])]},
        {"GET_permissions": [(200, {})]},
        {"GET_permissions": [(200, ["all"])]},
        {"PUT_users": [(503, {})]},
    ],
)
def test_what_is_not_as_it_was_made_is_refused(answers: dict[str, list[tuple[int, Any]]]) -> None:
    fails(ScriptedApi(**({"GET_permissions": [(200, [HERE])]} | answers)))


def test_what_is_more_is_named() -> None:
    api = ScriptedApi(GET_permissions=[(200, [HERE, {**HERE, "vhost": "other"}])])
    assert asyncio.run(issuer(api).issue(ORDER)).scope == {GRANT, "permissions in 'other'"}


def test_connections_that_do_not_end_are_not_called_gone() -> None:
    open_still = [{"name": "a", "user": "lh_a"}]
    assert "do not end" in fails(ScriptedApi(GET_connections=[(200, open_still)]), "revoke").message
    api = ScriptedApi(GET_connections=[(200, open_still), (200, [])], GET_users=[(404, {})])
    assert asyncio.run(issuer(api).revoke("lh_a"))
    assert api.asked == [
        "DELETE users", "GET connections", "DELETE connections", "GET connections", "GET users",
    ]  # fmt: skip


def test_an_answer_that_is_no_list_is_not_taken_for_an_empty_one() -> None:
    fails(ScriptedApi(GET_connections=[(200, {"error": "busy"})], GET_users=[(404, {})]), "revoke")


def test_a_user_that_is_still_there_is_not_called_gone() -> None:
    assert "still there" in fails(ScriptedApi(), "revoke").message
    assert asyncio.run(issuer(ScriptedApi(DELETE_users=[(404, {})], GET_users=[(404, {})])).revoke("lh_a"))
    fails(ScriptedApi(DELETE_users=[(500, {})], GET_users=[(404, {})]), "revoke")


@pytest.mark.parametrize(
    ("tags", "good"), [("management,administrator", True), (["administrator"], True), ("", False), (None, False)]
)
def test_the_tag_is_found_in_the_form_of_each_version(tags: object, good: bool) -> None:
    """A text before 3.9, a list since."""
    api = ScriptedApi(GET_whoami=[(200, {"tags": tags})], GET_permissions=[(200, []), (200, [HERE])])
    if good:
        asyncio.run(issuer(api).check())
        assert api.asked[-1] == "DELETE users"
    else:
        assert "administrator" in fails(api, "check").message


def test_only_names_of_ours_are_found() -> None:
    rows = [{"name": "lh_a"}, {"name": "lhx"}, {"name": "LH_B"}, {"name": 7}, {}]
    assert asyncio.run(issuer(ScriptedApi(GET_users=[(200, rows)])).find()) == {"lh_a"}


class TestGrants:
    """The language, and its patterns."""

    @pytest.mark.parametrize(
        ("text", "canonical"),
        [
            ("read on orders in /", "READ ON orders IN /"),
            ("write,READ ON orders.* IN /shop", "READ, WRITE ON orders.* IN /shop"),
            ("CONFIGURE ON * IN /", "CONFIGURE ON * IN /"),
            ("WRITE ON amq.topic IN /", "WRITE ON amq.topic IN /"),
        ],
    )
    def test_each_has_one_way_to_be_written(self, text: str, canonical: str) -> None:
        assert str(parse(text)) == canonical
        assert parse(canonical) == parse(text)

    @pytest.mark.parametrize(
        ("grants", "fits", "fits_not"),
        [
            (["READ ON a.b IN /"], ["a.b"], ["a-b", "a.bc", "xa.b", "a.b\n", "\na.b", ""]),
            (["READ ON a* IN /"], ["a", "abc", "am"], ["ba", "amq.x", "a\nb", "amq.rabbitmq.log"]),
            (["READ ON * IN /"], ["x", "amq"], ["amq.default", "amq.rabbitmq.trace"]),
            (["READ ON amq.gen-* IN /"], ["amq.gen-1"], ["amq.default", "gen-1"]),
            (["READ ON amq.* IN /"], ["amq.topic"], ["amq.rabbitmq.trace", "amqx"]),
            (["READ ON a IN /", "READ ON b* IN /"], ["a", "b", "bc"], ["ab", "ac"]),
            (["WRITE ON a IN /"], [], ["a", "x", "amq.default"]),
            (["READ ON a IN /other"], [], ["a"]),
        ],
    )
    def test_a_pattern_fits_whole_names_only(self, grants: list[str], fits: list[str], fits_not: list[str]) -> None:
        """As the server searches for it, but for how Python writes the end of all."""
        found = permissions([parse(text) for text in grants]).get("/", (NONE, NONE, NONE))[1].replace(r"\z", r"\Z")
        assert [name for name in fits if not re.search(found, name)] == []
        assert [name for name in fits_not if name and re.search(found, name)] == []

    @pytest.mark.parametrize("text", ["READ ON amq.rabbitmq.log IN /", "READ, READ ON a IN /", "READ ON a|b IN /"])
    def test_others_are_refused(self, text: str) -> None:
        with pytest.raises(Wrong):
            parse(text)
