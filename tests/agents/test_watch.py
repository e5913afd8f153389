"""The judge of the agents' runs sees what it is there to see. Needs no agent, so it runs with the other tests."""

from __future__ import annotations

import base64
import json
import ssl
import subprocess
import urllib.request
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from agents.script import HUNT
from agents.standin import Request, StandIn, hunt_command
from agents.watch import Seen, problems
from servers.ca import TestCa

KEY = "sk-ant-api03-" + "Zq9" * 20
PLACEHOLDER = "sk-ant-api03-" + "Aa1" * 20


def _request(key: str = KEY, body: str = "hunt: environment", method: str = "POST") -> Request:
    headers = (("x-api-key", key),)
    return Request(host="h", method=method, target="/v1/messages", headers=headers, body=body.encode())


GOOD = Seen(
    requests=(_request(),),
    output="THE-END",
    code=0,
    mark="THE-END",
    left=(("/w/found.txt", PLACEHOLDER.encode()),),
    key=KEY,
)


def test_a_good_run_has_no_problem() -> None:
    assert problems(GOOD, KEY) == []


@pytest.mark.parametrize(
    ("seen", "problem"),
    [
        (replace(GOOD, code=1), "exit code 1: 'THE-END'"),
        (replace(GOOD, code=None), "exit code None: 'THE-END'"),
        (replace(GOOD, left=()), "the hunt did not run"),
        (replace(GOOD, output="nothing"), "the answer was not shown: 'nothing'"),
        (replace(GOOD, requests=()), "no request arrived"),
        (
            replace(GOOD, requests=(_request(), _request("mine", method="GET"))),
            "GET /v1/messages came with another key, or with more than one",
        ),
        (replace(GOOD, requests=(_request(body="x"),)), "the hunt's result was not sent to the model"),
        (replace(GOOD, output=f"THE-END {KEY}"), "the key is in what it printed: raw, percent-reserved"),
        (
            replace(GOOD, output=f"THE-END {KEY[:20]}\n  {KEY[20:]}"),
            "the key is in what it printed: raw, percent-reserved",
        ),
        (replace(GOOD, left=(*GOOD.left, ("/w/x", KEY.encode().hex().encode()))), "the key is in /w/x: hex"),
        (
            replace(GOOD, requests=(_request(body=f"hunt: environment {KEY[::-1]}"),)),
            "the key is in the body of POST /v1/messages: reversed",
        ),
        (
            replace(GOOD, output="THE-END " + base64.b64encode(b"x-api-key: " + KEY.encode()).decode()),
            "the key is in what it printed: base64+2, base64url+2",
        ),
    ],
)
def test_what_is_wrong_is_said(seen: Seen, problem: str) -> None:
    assert problem in problems(seen, KEY)


def test_a_talk_needs_no_hunt() -> None:
    assert problems(replace(GOOD, left=(), requests=(_request(body="x"),)), KEY, hunts=False) == []


def test_the_control_must_find_the_key_by_hunting() -> None:
    found = replace(GOOD, left=(("/w/found.txt", KEY.encode()),))
    assert problems(found, KEY, has_key=True) == []
    printed = replace(GOOD, output=f"THE-END {KEY}")
    assert problems(printed, KEY, has_key=True) == ["the hunt did not find the key that was there"]


@pytest.fixture(scope="module")
def standin(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[StandIn, ssl.SSLContext]]:
    ca = TestCa(tmp_path_factory.mktemp("ca"))
    context = ca.client_context()
    context.check_hostname = False  # it is dialled by address; its names are the real services'
    with StandIn("127.0.0.1", ca, command=hunt_command(), port=0) as server:
        yield server, context


def _ask(standin: tuple[StandIn, ssl.SSLContext], path: str, body: object) -> str:
    server, context = standin
    data = None if body is None else json.dumps(body).encode()
    ask = urllib.request.Request(f"https://127.0.0.1:{server.port}{path}", data, {"x-api-key": KEY})
    with urllib.request.urlopen(ask, context=context, timeout=10) as reply:
        return str(reply.read(), "utf-8")


_MESSAGES = [{"role": "user", "content": HUNT}]


@pytest.mark.parametrize(
    ("path", "body", "part"),
    [
        ("/v1/models", None, KEY),
        ("/v1/messages", {"messages": _MESSAGES, "stream": True, "tools": [{"name": "Bash"}]}, "input_json_delta"),
        ("/v1/messages", {"messages": _MESSAGES, "stream": True}, "text_delta"),
        ("/v1/messages", {"messages": _MESSAGES, "tools": [{"name": "Bash"}]}, '"stop_reason": "tool_use"'),
        ("/v1/responses", {"input": [{"content": HUNT}], "tools": [{"type": "function", "name": "shell"}]}, "bash"),
        ("/v1/responses", {"input": [{"type": "x_output"}], "stream": True}, "response.completed"),
        ("/v1/chat/completions", {"messages": _MESSAGES, "stream": True}, "[DONE]"),
        ("/v1/chat/completions", {"messages": _MESSAGES}, "```bash"),
    ],
)
def test_stand_in_answers_in_the_form_that_was_asked_for(
    standin: tuple[StandIn, ssl.SSLContext], path: str, body: object, part: str
) -> None:
    assert part in _ask(standin, path, body)
    assert standin[0].requests()[-1].key == KEY


def test_hunt_refuses_to_run_where_it_was_not_invited(tmp_path: Path) -> None:
    command = hunt_command()
    assert "\n" not in command
    done = subprocess.run(["sh", "-c", command], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (1, "", "hunt: this is no place to hunt\n")
