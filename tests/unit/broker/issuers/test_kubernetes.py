"""What the issuer of service account tokens makes of answers that no stand-in gives."""

from __future__ import annotations

import asyncio
import base64
import json
from dataclasses import replace
from typing import Any

import pytest

from leasehold.broker.issuers.answers import Answer
from leasehold.broker.issuers.kubernetes import LABEL, Account, KubernetesIssuer, _claims, _name
from leasehold.broker.issuers.ports import Order
from leasehold.broker.issuers.rest import Rest
from leasehold.core.errors import IssuerError
from leasehold.core.secret import Secret

SECRETS = "/api/v1/namespaces/tasks/secrets"
ORDER = Order(name="lh_a", secret=Secret(b"a" * 32), task="t", expires=900.0, scope=frozenset({"api"}))
OBJECT = {"metadata": {"name": "lh-a", "uid": "u1", "labels": {LABEL: "lh_a"}}}


def token(**changes: Any) -> str:
    bound = {"secret": {"name": "lh-a", "uid": "u1"}}
    claims = {
        "aud": ["api"],
        "exp": 898,
        "sub": "system:serviceaccount:tasks:deployer",
        "kubernetes.io": bound,
        **changes,
    }
    return f"e30.{base64.urlsafe_b64encode(json.dumps(claims).encode()).rstrip(b'=').decode()}.c2ln"


class ScriptedApi(Rest):
    """Answers each ``METHOD last-part`` from a list, the last of which stays; notes all that is asked."""

    def __init__(self, **answers: list[tuple[int, Any]]) -> None:
        super().__init__("https://k8s.example", "/nonexistent")
        self.answers: dict[str, list[tuple[int, Any]]] = {
            "POST secrets": [(201, OBJECT)],
            "POST token": [(201, {"status": {"token": token()}})],
            "GET lh-a": [(200, OBJECT), (404, {})],
            "DELETE lh-a": [(200, {})],
            "GET secrets": [(200, {"metadata": {}, "items": [OBJECT]})],
            **{name.replace("_", " ", 1).replace("_", "-"): given for name, given in answers.items()},
        }
        self.asked: list[tuple[str, str, Any]] = []

    async def ask(self, method: str, path: str, *, authorization: str = "", body: object = None) -> Answer:
        assert authorization == "Bearer of-the-issuer"
        self.asked.append((method, path, body))
        given = self.answers[f"{method} {path.partition('?')[0].rpartition('/')[2]}"]
        status, fields = given.pop(0) if len(given) > 1 else given[0]
        return Answer(status=status, fields=fields, date=0.0)


def issuer(api: Rest) -> KubernetesIssuer:
    account = Account(namespace="tasks", name="deployer")
    return KubernetesIssuer(api, Secret(b"of-the-issuer"), account, audiences=["api", "registry"])


def test_a_token_is_bound_to_the_object_of_its_name() -> None:
    api = ScriptedApi()
    issued = asyncio.run(issuer(api).issue(ORDER))
    assert (issued.expires, issued.scope) == (898.0, ORDER.scope)
    assert issued.kept is None
    [made, asked] = [body for _, _, body in api.asked]
    assert (made["metadata"], made["immutable"]) == ({"name": "lh-a", "labels": {LABEL: "lh_a"}}, True)
    assert asked["spec"] == {
        "audiences": ["api"],
        "expirationSeconds": 895,
        "boundObjectRef": {"apiVersion": "v1", "kind": "Secret", "name": "lh-a", "uid": "u1"},
    }


@pytest.mark.parametrize(("expires", "lasts_s"), [(0.0, 600), (30.0, 600), (605.0, 600), (606.0, 601), (3607.0, 3600)])
def test_how_long_it_is_asked_for(expires: float, lasts_s: int) -> None:
    api = ScriptedApi()
    asyncio.run(issuer(api).issue(replace(ORDER, expires=expires)))
    assert api.asked[-1][2]["spec"]["expirationSeconds"] == lasts_s


def test_what_a_crash_left_is_taken() -> None:
    api = ScriptedApi(POST_secrets=[(409, {})])
    asyncio.run(issuer(api).issue(ORDER))
    assert [(method, path.rpartition("/")[2]) for method, path, _ in api.asked] == [
        ("POST", "secrets"),
        ("GET", "lh-a"),
        ("POST", "token"),
    ]


def test_what_is_there_and_gone_again_is_an_error() -> None:
    with pytest.raises(IssuerError, match="gone again"):
        asyncio.run(issuer(ScriptedApi(POST_secrets=[(409, {})], GET_lh_a=[(404, {})])).issue(ORDER))


@pytest.mark.parametrize("status", [400, 401, 403, 404, 422, 500, 302])
def test_a_refusal_says_where_to_look_and_leaves_nothing(status: int) -> None:
    api = ScriptedApi(POST_token=[(status, {})])
    with pytest.raises(IssuerError, match=str(status)) as caught:
        asyncio.run(issuer(api).issue(ORDER))
    assert caught.value.hint
    [deleted] = [body for method, _, body in api.asked if method == "DELETE"]
    assert deleted["preconditions"] == {"uid": "u1"}


@pytest.mark.parametrize(
    "answers",
    [
        {"DELETE_lh_a": [(409, {})]},
        {"DELETE_lh_a": [(403, {})]},
        {"GET_lh_a": [(200, OBJECT)]},
        {"GET_lh_a": [(200, OBJECT), (500, {})]},
        {"GET_lh_a": [(403, {})]},
        {"GET_lh_a": [(200, {"metadata": {**OBJECT["metadata"], "labels": {}}})]},
        {"GET_lh_a": [(200, {})]},
    ],
)
def test_what_is_not_seen_to_be_gone_is_no_success(answers: dict[str, list[tuple[int, Any]]]) -> None:
    with pytest.raises(IssuerError):
        asyncio.run(issuer(ScriptedApi(**answers)).revoke("lh_a"))


@pytest.mark.parametrize("status", [200, 202, 404])
def test_what_is_gone_is_gone(status: int) -> None:
    assert asyncio.run(issuer(ScriptedApi(DELETE_lh_a=[(status, {})])).revoke("lh_a")) is True


def test_each_page_is_asked_for_by_what_the_one_before_said() -> None:
    pages = [(200, {"metadata": {"continue": "a&b="}, "items": [OBJECT]}), (200, {"metadata": {}, "items": []})]
    api = ScriptedApi(GET_secrets=pages)
    assert asyncio.run(issuer(api).find()) == {"lh_a"}
    query = f"{SECRETS}?labelSelector={LABEL}&limit=100"
    assert [path for _, path, _ in api.asked] == [query, f"{query}&continue=a%26b%3D"]


def test_pages_without_end_are_given_up() -> None:
    api = ScriptedApi(GET_secrets=[(200, {"metadata": {"continue": "more"}, "items": []})])
    with pytest.raises(IssuerError, match="no end"):
        asyncio.run(issuer(api).find())
    assert len(api.asked) == 100


def test_a_list_that_is_none_is_an_error() -> None:
    with pytest.raises(IssuerError, match="no answer to that"):
        asyncio.run(issuer(ScriptedApi(GET_secrets=[(200, {"items": {}})])).find())


@pytest.mark.parametrize(
    "item",
    [
        None,
        5,
        {},
        {"metadata": 5},
        {"metadata": {"name": "lh-a"}},
        {"metadata": {"name": "lh-a", "labels": {}}},
        {"metadata": {"name": "lh-a", "labels": {LABEL: 5}}},
        {"metadata": {"name": "lh-a", "labels": {LABEL: "lh_b"}}},
        {"metadata": {"name": "lhx-a", "labels": {LABEL: "lhx_a"}}},
        {"metadata": {"name": "lh-a-", "labels": {LABEL: "lh_a_"}}},
    ],
)
def test_what_is_not_named_and_labelled_is_none_of_ours(item: Any) -> None:
    assert _name(item) == ""
    assert _name(OBJECT) == "lh_a"


@pytest.mark.parametrize(
    "text", ["", "a.b", "a.b.c.d", "e30.!.c2ln", "e30.e30=.c2ln", "e30.W10.c2ln", "e30.YQ.c2ln", "e30.a.c2ln"]
)
def test_what_is_no_jwt_with_claims_is_an_error(text: str) -> None:
    with pytest.raises(IssuerError, match="no answer to that"):
        _claims(text)
    assert _claims(token()).get("exp") == 898
