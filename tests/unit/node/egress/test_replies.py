"""What an agent reads when it is refused: one form, a code that has its page, and a way on."""

from __future__ import annotations

import pytest
from google.protobuf.json_format import MessageToDict

from leasehold.core.model import DEFAULT_METHODS, GitRule, Rule
from leasehold.node.egress.model import Destination
from leasehold.node.egress.replies import denial_body, describe, error, local_replies

_DESTINATION = Destination(scheme="https", host="a.test", port=443)


@pytest.mark.parametrize(
    ("rule", "text"),
    [
        (Rule(host="a.test"), "a.test"),
        (Rule(host="a.test", methods=DEFAULT_METHODS), "a.test"),
        (Rule(host="a.test", port=80, scheme="http"), "a.test"),
        (Rule(host="a.test", port=8443, paths=("/x",)), "a.test:8443 /x"),
        (Rule(host="a.test", methods=("GET", "HEAD"), paths=("/a", "/b/**")), "GET,HEAD a.test /a /b/**"),
        (Rule(host="a.test", paths=("/socket",), websocket=True), "a.test /socket (websocket)"),
        (Rule(host="a.test", websocket=True), "a.test (websocket)"),
        (Rule(host="a.test", git=GitRule(repository="acme/web", access="read")), "a.test acme/web (git read)"),
    ],
)
def test_a_rule_reads_as_people_write_it(rule: Rule, text: str) -> None:
    assert describe(rule) == text


def test_a_denial_by_rule_lists_the_rules() -> None:
    rules = [Rule(host="a.test", paths=("/x",)), Rule(host="a.test", methods=("GET",))]
    body = denial_body("rule-not-allowed", _DESTINATION, rules)["error"]
    assert body["code"] == "rule-not-allowed"
    assert body["message"] == "No rule allows this method and path on a.test."
    assert body["hint"].startswith("Allowed here: a.test /x; GET a.test.")
    assert "on this host" in denial_body("rule-not-allowed", None, rules)["error"]["message"]


@pytest.mark.parametrize("code", ["host-not-allowed", "misdirected-request", "method-override", "access-ended"])
def test_every_other_denial_has_a_message_and_a_way_on(code: str) -> None:
    body = denial_body(code, None, ())["error"]
    assert body["code"] == code
    assert body["message"].endswith(".")
    assert body["hint"].endswith(".")


def test_a_code_without_a_text_is_a_defect_and_not_an_empty_denial() -> None:
    with pytest.raises(KeyError):
        denial_body("no-such-code", None, ())
    assert error("c", "m", "h") == {"error": {"code": "c", "message": "m", "hint": "h"}}


def test_envoys_own_failures_take_the_same_form() -> None:
    mappers = local_replies().mappers
    codes = []
    for mapper in mappers:
        assert mapper.body_format_override.content_type == "application/json"
        body = MessageToDict(mapper.body_format_override.json_format)["error"]
        (option,) = mapper.headers_to_add
        assert (option.header.key, option.header.value) == ("x-leasehold-decision", f"error; code={body['code']}")
        assert body["hint"] == f"`leasehold explain {body['code']}` says more."
        codes.append(body["code"])
    assert codes == [
        "upstream-unavailable",
        "upstream-failed",
        "request-malformed",
        "credential-missing",
        "headers-too-large",
    ]


def test_a_denial_that_we_wrote_is_left_as_it_is() -> None:
    """No mapper is for a status that our denials have, and each is for flags or for one status."""
    filters = [mapper.filter for mapper in local_replies().mappers]
    flags = [list(f.response_flag_filter.flags) for f in filters if f.HasField("response_flag_filter")]
    assert flags == [["UF", "UH", "NC", "UO", "UT"], ["UC", "UPE", "LR", "UR"]]
    comparisons = [f.status_code_filter.comparison for f in filters if f.HasField("status_code_filter")]
    assert [comparison.value.default_value for comparison in comparisons] == [400, 401, 431]
    assert {comparison.op for comparison in comparisons} == {comparisons[0].EQ}
