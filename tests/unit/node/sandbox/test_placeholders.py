"""What an agent reads in place of a secret."""

from __future__ import annotations

import json
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from leasehold.node.sandbox.placeholders import BYTES_MAX, env_placeholders, known_prefix, note, redact, shown
from leasehold.node.sandbox.secretfiles import DATA, ENV, KEY, NOT_PUBLIC, NOTE, TEXT, WORDS

SECRET = "hunter2-4711-very-secret"


def canary(prefix: str) -> str:
    return f"{prefix}CANARY"


@pytest.mark.parametrize(
    ("text", "shown_as"),
    [
        (f"KEY={SECRET}", "KEY=CANARY"),
        (f"export KEY='{SECRET}'", "export KEY=CANARY"),
        (f'  KEY = "{SECRET}"  # {SECRET}', "KEY=CANARY"),
        ("KEY=sk-ant-api03-abc", "KEY=sk-ant-api03-CANARY"),
        ("PORT=3000", "PORT=3000"),
        ("DEBUG=true", "DEBUG=true"),
        ("HOST=localhost", "HOST=localhost"),
        ("EMPTY=", "EMPTY="),
        ("PASSWORD=", "PASSWORD="),
        ("PIN=1234", "PIN=CANARY"),
        ("DB_PASSWORD=test", "DB_PASSWORD=CANARY"),
        ("A=123456", "A=CANARY"),
        ("A=1\r", "A=1"),
        ("apiUrl=x", "apiUrl=CANARY"),
        ("a=`x`", "a=CANARY"),
        (rf'A="x\"{SECRET}\"" B={SECRET}', "A=CANARY"),
        (rf"A='x\' B={SECRET}", "A=CANARY"),
    ],
)
def test_variables(text: str, shown_as: str) -> None:
    assert env_placeholders(text, canary).splitlines()[1:] == [shown_as]


@pytest.mark.parametrize(
    "text",
    [
        f"# KEY={SECRET}",
        SECRET,
        f"{SECRET}=",
        "Mixed0Case1Base64=",
        f"X{'X' * 64}={SECRET}",
        f"KEY: {SECRET}",
        "",
    ],
)
def test_what_is_no_variable_is_left_out(text: str) -> None:
    assert env_placeholders(text, canary).splitlines()[1:] == []


def test_a_value_over_several_lines_shows_none_of_them() -> None:
    text = f"A=\"-----BEGIN\nLINE={SECRET}\nEND\"\nB=2\nC='x\nD={SECRET}'\nE=3"
    assert env_placeholders(text, canary).splitlines()[1:] == ["A=CANARY", "B=2", "C=CANARY", "E=3"]


def test_a_quote_that_never_ends_hides_the_rest() -> None:
    assert env_placeholders(f'A=1\nB="x\nLINE={SECRET}\n', canary).splitlines()[1:] == ["A=1"]


@given(st.text(alphabet="ab=\"'\\\n #$XY1", max_size=60))
def test_no_value_shows(text: str) -> None:
    """Whatever the file looks like: a shown value is a placeholder or says nothing."""
    for line in env_placeholders(text, canary).splitlines()[1:]:
        value = line.partition("=")[2]
        assert value in ("CANARY", "", "1") or value.isdigit(), line


@pytest.mark.parametrize(
    ("text", "redacted"),
    [
        (f"//registry.example/:_authToken={SECRET}", "//registry.example/:_authToken=CANARY"),
        (f"_auth={SECRET}==", "_auth=CANARY"),
        (f'npmAuthToken: "{SECRET}"', 'npmAuthToken: "CANARY"'),
        (f'{{"env": {{"API_KEY": "{SECRET}"}}}}', '{"env": {"API_KEY": "CANARY"}}'),
        (f"password = '{SECRET}'", "password = 'CANARY'"),
        (f"index-url = https://me:{SECRET}@pypi.example/simple", "index-url = https://pypi.example/simple"),
        (f'"args": ["--api-key", "{SECRET}"]', '"args": ["--api-key", "CANARY"]'),
        (f'"args": ["--api-key={SECRET}"]', '"args": ["--api-key=CANARY"]'),
        ("X-Thing: Bearer abcdefgh12345678", "X-Thing: Bearer CANARY"),
        ("- ghp_abcdefghijklmnop", "- ghp_CANARY"),
        ("eyJhbGciOiJI.eyJzdWIiOiIx.abc", "CANARY"),
        (r'token = "a\"b"', 'token = "CANARY"'),
    ],
)
def test_redaction(text: str, redacted: str) -> None:
    assert redact(text, canary) == redacted


@pytest.mark.parametrize(
    "text",
    [
        "//registry.example/:_authToken=${NPM_TOKEN}", "registry=https://registry.example/", "always-auth=true",
        '"author": "someone"', "token = ", 'token = ""', "url = https://${USER}:${PASS}@host/", "PORT=1",
        "keyboard: qwerty", "passwordless is a word",
    ],
)  # fmt: skip
def test_what_is_no_secret_stays(text: str) -> None:
    assert redact(text, canary) == text


@pytest.mark.parametrize(
    "text",
    ["a" * 300_000, "token" * 60_000, '"' * 200_000, "-" * 200_000, "://a" * 60_000, 'A="' + '\\"' * 150_000,
     "A='" * 80_000, "A=" + " " * 300_000, "eyJ" * 90_000],
)  # fmt: skip
def test_hostile_files_take_no_time(text: str) -> None:
    started = time.process_time()
    redact(text, canary)
    env_placeholders(text, canary)
    assert time.process_time() - started < 5


PRIVATE = b"-----BEGIN RSA PRIVATE KEY-----\nMII\n"
PUBLIC = b"-----BEGIN CERTIFICATE-----\nMII\n"


@pytest.mark.parametrize(
    ("rule", "content", "is_shown"),
    [
        (KEY, PRIVATE, False), (KEY, PUBLIC, True), (KEY, PUBLIC + PRIVATE, False), (KEY, b"", True),
        (NOT_PUBLIC, PRIVATE, False), (NOT_PUBLIC, PUBLIC, True), (NOT_PUBLIC, PUBLIC + PRIVATE, False),
        (NOT_PUBLIC, b"\x00\x01", False),
        (WORDS, b'{"access_token": "x"}', False), (WORDS, b'{"color": "x"}', True),
        (DATA, b"password: x", False), (DATA, b"password: {{ .Values.x }}", True), (DATA, b"{{" + PRIVATE, False),
        (NOTE, b"", False), (TEXT, b"color=1", True), (TEXT, b"token=abcdefgh", False), (ENV, b"A=1", False),
        (KEY, None, False), (TEXT, None, False), (TEXT, b"x" * (BYTES_MAX + 1), False),
    ],
)  # fmt: skip
def test_what_is_shown_of_a_file(rule: str, content: bytes | None, is_shown: bool) -> None:
    assert (shown("name", rule, content, canary) is None) is is_shown


def test_what_is_not_text_keeps_its_bytes() -> None:
    assert shown(".npmrc", TEXT, b"token=abcdefgh\n\xff\xfe", canary) == b"token=CANARY\n\xff\xfe"


def test_notes_have_the_form_of_the_file() -> None:
    assert "leasehold" in json.loads(note("credentials.json")) and "leasehold" in json.loads(note("terraform.tfstate"))
    assert note("settings.xml").startswith(b"<!--") and note("server.key").startswith(b"# ")


def test_known_prefixes() -> None:
    assert known_prefix("sk-ant-api03-x") == "sk-ant-api03-" and known_prefix("x") == ""
