"""The issuer of GitHub App tokens keeps the contract, before a stand-in for GitHub: see ``tests/servers/github.py``."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from contract.clauses import IssuerContract, fails
from contract.desk import Desk, Run
from contract.github_subject import GithubSubject
from contract.subject import Refused
from leasehold.broker.issuers.checked import CheckedIssuer
from leasehold.core.errors import ConfigError
from leasehold.core.secret import Secret
from servers.ca import TestCa
from servers.github import LASTS_S as TOKEN_LASTS_S
from servers.github import GithubStandIn
from servers.standin import ADDRESS


@pytest.fixture(scope="module")
def subject() -> Iterator[GithubSubject]:
    github = GithubStandIn()
    yield GithubSubject(github)
    github.close()


@pytest.fixture(autouse=True)
def fresh(subject: GithubSubject) -> Iterator[None]:
    """Answers as they are, and no token that a test before has lost."""
    yield
    subject.github.altered, subject.github.skew_s = {}, 0.0
    subject.github.tokens.clear()


class TestGithubApp(IssuerContract):
    """Its own tests follow the clauses."""

    named = False
    chosen = False
    outlasts_s = TOKEN_LASTS_S

    def test_a_server_with_another_certificate_gets_no_key(
        self, subject: GithubSubject, desk: Desk, run: Run, tmp_path: Path
    ) -> None:
        asked = len(subject.github.asked)
        stranger = {**subject.parameters(), "ca": str(TestCa(tmp_path).path)}
        assert "certificate" in fails(run, subject.issuer(stranger, subject.secret).check(), subject.secret).message
        misnamed = {**subject.parameters(), "server": str(subject.parameters()["server"]).replace(ADDRESS, "localhost")}
        assert "certificate" in fails(run, subject.issuer(misnamed, subject.secret).check(), subject.secret).message
        assert len(subject.github.asked) == asked
        run(desk.issuer.check())

    @pytest.mark.parametrize("key", ["client_id", "installation", "grants"])
    def test_what_is_needed_has_to_be_there(self, subject: GithubSubject, key: str) -> None:
        parameters = {name: value for name, value in subject.parameters().items() if name != key}
        with pytest.raises(ConfigError, match=f"the key {key} is missing"):
            subject.issuer(parameters, subject.secret)

    def test_what_github_gives_unasked_is_taken_back(self, subject: GithubSubject, desk: Desk, run: Run) -> None:
        """A token for more, whatever it was asked for."""
        web, plans = {"full_name": "Acme/Web"}, {"full_name": "Acme/secret-plans"}
        for altered, said in (
            ({"permissions": {"contents": "write", "issues": "write"}}, "contents:write on acme/web"),
            ({"permissions": {"contents": "read", "administration": "write"}}, "administration:write on acme/web"),
            ({"repositories": [web, plans]}, "contents:read on acme/secret-plans"),
            ({"repositories": ["Acme/secret-plans"]}, "contents:read on acme/secret-plans"),
            ({"repository_selection": "all"}, "contents:read on all repositories"),
            ({"repositories": None}, "contents:read on all repositories"),
            ({"expires_at": "2999-01-01T00:00:00Z"}, "s more than asked"),
        ):
            subject.github.altered = altered
            assert said in fails(run, desk.issuer.issue(desk.order()), subject.secret).message
            assert subject.accounts() == set()
        subject.github.altered = {"permissions": {"contents": "read", "issues": "write"}}
        subject.attempt(desk.issue(desk.order()).material, "GET /repos/acme/web/contents")

    def test_an_answer_that_says_too_little_is_taken_back(self, subject: GithubSubject, desk: Desk, run: Run) -> None:
        times: tuple[Any, ...] = ("soon", "2026-01-01T00:00:00", 5, None)
        for altered in (*({"expires_at": time} for time in times), {"permissions": 5}):
            subject.github.altered = altered
            fails(run, desk.issuer.issue(desk.order()), subject.secret)
            assert subject.accounts() == set()

    def test_reading_metadata_comes_with_every_token_of_its_repositories_only(
        self, subject: GithubSubject, desk: Desk, run: Run
    ) -> None:
        raw = subject.issuer({**subject.parameters(), "grants": ["metadata:read on acme/web"]}, subject.secret)
        order = desk.order(scope=raw.scope)
        assert run(raw.issue(order)).scope == raw.scope
        subject.github.altered = {"repositories": [{"full_name": "Acme/Web"}, {"full_name": "Acme/secret-plans"}]}
        assert "on acme/secret-plans" in fails(run, CheckedIssuer(raw).issue(order), subject.secret).message

    def test_clocks_that_differ_are_no_hindrance(self, subject: GithubSubject, desk: Desk, run: Run) -> None:
        for skew_s in (-7200.0, 7200.0):
            subject.github.skew_s = skew_s
            run(desk.issuer.check())

    def test_what_is_not_granted_to_the_app_is_refused(self, subject: GithubSubject, run: Run) -> None:
        for grant in ("contents:read on acme/elsewhere", "actions:read on acme/web"):
            issuer = subject.issuer({**subject.parameters(), "grants": [grant]}, subject.secret)
            assert "422" in fails(run, issuer.check(), subject.secret).message
        issuer = subject.issuer({**subject.parameters(), "installation": 1}, subject.secret)
        assert "404" in fails(run, issuer.check(), subject.secret).message
        issuer = subject.issuer({**subject.parameters(), "client_id": "Iv1.other"}, subject.secret)
        assert "refuses the App's key" in fails(run, issuer.check(), subject.secret).message

    def test_an_order_that_is_no_rectangle_is_refused(self, subject: GithubSubject, desk: Desk, run: Run) -> None:
        """Rounded up, it would be more than was asked."""
        four = [f"{what} on acme/{where}" for what in ("contents:read", "issues:write") for where in ("web", "api")]
        raw = subject.issuer({**subject.parameters(), "grants": four}, subject.secret)
        for scope in ([four[0], four[3]], four[:3], []):
            fails(run, raw.issue(desk.order(scope=frozenset(scope))))
            assert subject.accounts() == set()
        issued = run(raw.issue(desk.order(scope=frozenset(four[:2]))))
        subject.attempt(issued.material, "GET /repos/acme/api/contents")
        with pytest.raises(Refused):
            subject.attempt(issued.material, "POST /repos/acme/api/issues")

    def test_one_that_a_crash_lost_is_not_called_gone(self, subject: GithubSubject, desk: Desk, run: Run) -> None:
        order = desk.order()
        issued = desk.issue(order)
        assert run(desk.issuer.revoke(order.name)) is False
        subject.attempt(issued.material, subject.within[0])
        assert run(desk.issuer.revoke(order.name, issued.kept)) is True

    def test_one_that_is_over_is_gone(self, subject: GithubSubject, desk: Desk) -> None:
        order = desk.order()
        desk.issue(order)
        subject.github.skew_s = TOKEN_LASTS_S + 1
        assert desk.revoke(order.name)

    def test_the_key_is_never_sent(self, subject: GithubSubject, desk: Desk) -> None:
        order = desk.order()
        desk.issue(order)
        desk.revoke(order.name)
        lines = [line for line in subject.secret.reveal().decode().splitlines() if "-" not in line]
        sent = "".join(f"{asked.path} {asked.query} {asked.headers} {asked.body}" for asked in subject.github.asked)
        assert "Bearer ey" in sent
        assert not [line for line in lines if line in sent]

    @pytest.mark.parametrize("secret", [b"", b"\xff", b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----"])
    def test_a_secret_that_is_no_key_is_refused(self, subject: GithubSubject, run: Run, secret: bytes) -> None:
        assert "refuse" in fails(run, subject.issuer(subject.parameters(), Secret(secret)).check()).message
