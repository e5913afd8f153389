"""What a person reads about a run."""

from __future__ import annotations

import pytest

from fakes.launcher import REPLY, SUMMARY
from leasehold.cli import summary
from leasehold.cli.summary import duration, footer, header


def test_header() -> None:
    assert header(REPLY, "/home/ann/acme/web/") == [
        "leasehold  task 7f3k · local · 1 h · acme/web",
        "  forge    api.forge.test /repos/**   on first use",
        "  hosts    docs.test   no credential",
    ]


def test_header_shows_a_role_that_is_not_the_agents_and_no_empty_lines() -> None:
    grant = REPLY["grants"][0] | {"role": "fetch", "lines": ["a.test", "b.test"]}
    assert header(REPLY | {"grants": [grant], "hosts": []}, "/w")[1:] == [
        "  forge    a.test · b.test   on first use · fetch"
    ]


def test_header_names_the_first_of_many_paths() -> None:
    line = "GET,POST api.forge.test /a /b/** /c /d /e · other"
    grant = REPLY["grants"][0] | {"name": "a-long-name", "lines": [line, "b.test /1 /2 /3 /4"]}
    assert header(REPLY | {"grants": [grant]}, "/w")[1:] == [
        "  a-long-name GET,POST api.forge.test /a /b/** /c (and 2 more) · other · b.test /1 /2 /3 /4   on first use",
        "  hosts       docs.test   no credential",
    ]


def test_footer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "UTC")
    unused = {"name": "npm", "requests": 0, "first_use": None, "ended": 20.0, "revocability": "never-issued"}
    summary = SUMMARY | {"credentials": [*SUMMARY["credentials"], unused]}
    hosts = [*SUMMARY["hosts"], {"host": "quiet.test", "requests": 0}]
    assert footer(
        summary | {"hosts": hosts, "alarm": "a record is missing"}, {"b.test": 1, "a.test": 4}, ["removed x"]
    ) == [
        "leasehold  task 7f3k ended after 1.5 s",
        "  forge     2 requests · first used 00:00:10 · access ended 00:00:20",
        "  npm       not used",
        "  docs.test 1 request without a credential",
        "  denied    3 \N{MULTIPLICATION SIGN} POST api.forge.test/keys   rule-not-allowed",
        "            4 \N{MULTIPLICATION SIGN} a.test   not a known host: allow it under [hosts]",
        "            1 \N{MULTIPLICATION SIGN} b.test   not a known host: allow it under [hosts]",
        "  alarm     a record is missing",
        "  note      removed x",
        "  secrets that entered the compartment: 0",
    ]


def test_footer_is_bounded() -> None:
    names = {f"n{i:03}.test": 1 for i in range(30)}
    lines = footer(SUMMARY | {"denied": []}, names, [])
    assert sum("n0" in line for line in lines) == 20
    assert any("10 \N{MULTIPLICATION SIGN} more names" in line for line in lines)


def test_text_of_others_is_made_safe() -> None:
    denied = [{"method": "GET", "host": "x\x1b]0;t\x07.test", "path": "/\n", "reason": "r", "count": 1}]
    for line in footer(SUMMARY | {"denied": denied}, {"\x9b31m.test": 1}, ["\u202e"]):
        assert line.isprintable()


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.04, "0 s"),
        (0.34, "0.3 s"),
        (5, "5 s"),
        (59.7, "1 min"),
        (760, "12 min 40 s"),
        (3600, "1 h"),
        (3661, "1 h 1 min 1 s"),
    ],
)
def test_duration(seconds: float, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize("revocability", ["ttl-only", "role-wide"])
def test_what_can_only_expire_is_not_called_revoked(revocability: str) -> None:
    used = {"name": "code", "requests": 1, "first_use": 1.0, "ended": 2.0, "revocability": revocability}
    assert "at the provider it only expires" in summary._use({**used, "lease": "revoking"})
    assert "tried again" in summary._use({**used, "revocability": "now", "lease": "revoking"})
