"""The issuer of Redis users keeps the contract, with the rights that its page tells an operator to give it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from contract.clauses import IssuerContract, fails
from contract.desk import Desk, Run
from contract.redis_subject import ISSUER, RedisSubject
from contract.subject import Refused
from leasehold.broker.issuers.ports import Issuer
from leasehold.core.secret import Secret
from servers.ca import TestCa
from servers.redis import ADDRESS, RedisServer


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    made = RedisServer()
    yield made
    made.close()


@pytest.fixture(scope="module")
def subject(server: RedisServer) -> Iterator[RedisSubject]:
    made = RedisSubject(server)
    yield made
    made.close()


def issuer(subject: RedisSubject, *grants: str) -> Issuer:
    """One that may grant something else."""
    return subject.issuer({**subject.parameters(), "grants": list(grants)}, subject.secret)


class TestRedis(IssuerContract):
    """Its own tests follow the clauses."""

    def test_a_server_with_another_certificate_gets_no_password(
        self, subject: RedisSubject, desk: Desk, run: Run, tmp_path: Path
    ) -> None:
        stranger = {**subject.parameters(), "ca": str(TestCa(tmp_path).path)}
        assert "certificate" in fails(run, subject.issuer(stranger, subject.secret).check(), subject.secret).message
        misnamed = {**subject.parameters(), "server": str(subject.parameters()["server"]).replace(ADDRESS, "localhost")}
        assert "certificate" in fails(run, subject.issuer(misnamed, subject.secret).check(), subject.secret).message
        run(desk.issuer.check())


class TestGrants:
    """What the server makes of them."""

    def test_one_grant_does_not_reach_the_keys_of_another(self, subject: RedisSubject, desk: Desk, run: Run) -> None:
        raw = issuer(subject, "~cart:* +set", "~orders:* +get")
        order = desk.order(scope=raw.scope)
        material = run(raw.issue(order)).material
        subject.attempt(material, "SET cart:1 tea")
        subject.attempt(material, "GET orders:1")
        for operation in ("SET orders:1 tea", "GET cart:1", "PING"):
            with pytest.raises(Refused):
                subject.attempt(material, operation)

    def test_every_key_is_what_must_be_written(self, subject: RedisSubject, desk: Desk, run: Run) -> None:
        raw = issuer(subject, "~* &* +get +scan +publish")
        material = run(raw.issue(desk.order(scope=raw.scope))).material
        for operation in ("GET customers:1", "SCAN 0", "PUBLISH anything x"):
            subject.attempt(material, operation)
        with pytest.raises(Refused):
            subject.attempt(material, "SET customers:1 x")

    @pytest.mark.parametrize(
        ("grant", "said"),
        [
            ("~a +flushall", "+flushall is dangerous"),
            ("~a +client|kill", "+client|kill is dangerous"),
            ("~a +client", "no command of the server, or a group"),
            ("~a +nothing", "no command of the server"),
        ],
    )
    def test_what_the_server_warns_of_is_not_given(
        self, subject: RedisSubject, desk: Desk, run: Run, grant: str, said: str
    ) -> None:
        raw = issuer(subject, grant)
        before = {*subject.accounts()}
        order = desk.order(scope=raw.scope)
        errors = [fails(run, raw.check(), subject.secret), fails(run, raw.issue(order), subject.secret, order.secret)]
        assert [said in error.message for error in errors] == [True, True], errors
        assert {*subject.accounts()} == before


class TestCheck:
    """What is said before anything is issued."""

    @pytest.mark.parametrize(
        ("change", "undo", "said"),
        [
            ("-acl|save", "+acl|save", "lacks +acl|save"),
            ("-client|list", "+client|list", "lacks +client|list"),
            ("-acl|cat", "+acl|cat", "may not do that"),
            ("+get", "-get", "more than an issuer needs"),
            ("~orders:*", "resetkeys", "more than an issuer needs"),
            ("&*", "resetchannels", "more than an issuer needs"),
            ("(~a +get)", "clearselectors", "more than an issuer needs"),
        ],
    )
    def test_the_issuers_user_is_exactly_what_is_needed(
        self, subject: RedisSubject, desk: Desk, run: Run, change: str, undo: str, said: str
    ) -> None:
        subject.admin.ask("ACL", "SETUSER", ISSUER, change)
        try:
            assert said in fails(run, desk.issuer.check(), subject.secret).message
        finally:
            subject.admin.ask("ACL", "SETUSER", ISSUER, undo)
        run(desk.issuer.check())

    def test_what_the_server_says_else_is_a_word(self, subject: RedisSubject, desk: Desk, run: Run) -> None:
        """Its own words stay where they are. Here: the file of users cannot be written."""
        order = desk.order()
        desk.issue(order)
        users = subject.server.users
        aside = users.rename(users.with_suffix(".aside"))
        users.mkdir()
        try:
            assert "error ResponseError" in fails(run, desk.issuer.revoke(order.name), order.secret).message
        finally:
            users.rmdir()
            aside.rename(users)
        assert order.name in users.read_text()
        assert order.name not in subject.accounts()
        desk.revoke(order.name)
        assert order.name not in subject.server.users.read_text()


class TestRestart:
    """A server that forgets nobody, and one that forgets."""

    def test_what_was_issued_outlives_it_and_what_was_revoked_does_not_come_back(self, run: Run) -> None:
        server = RedisServer()
        subject = RedisSubject(server)
        desk = Desk(subject, run)
        try:
            kept, gone = desk.order(), desk.order()
            material = desk.issue(kept).material
            desk.issue(gone)
            desk.revoke(gone.name)
            server.stop()
            server.start()
            subject.admin = server.admin()
            assert kept.name in subject.accounts()
            assert gone.name not in subject.accounts()
            subject.attempt(material, "GET orders:1")
            with pytest.raises(Refused):
                subject.attempt(material, "GET customers:1")
            desk.close()
        finally:
            server.close()

    def test_users_in_memory_are_enough(self, run: Run) -> None:
        server = RedisServer(durable=False)
        try:
            with pytest.raises(redis.ResponseError):  # there is no file to save to
                RedisSubject(server)
            subject = RedisSubject(server, save=False)
            desk = Desk(subject, run)
            run(desk.issuer.check())
            order = desk.order()
            subject.attempt(desk.issue(order).material, "GET stock:tea")
            desk.revoke(order.name)
            assert order.name not in subject.accounts()
            desk.close()
        finally:
            server.close()


def test_what_has_our_prefix_and_no_name_of_ours_is_not_found(subject: RedisSubject, desk: Desk, run: Run) -> None:
    strange = ("lh_SHOUTED", f"lh_{'a' * 30}")
    order = desk.order()
    desk.issue(order)
    try:
        for name in strange:
            subject.plant(name)
        assert set(run(desk.issuer.find())) == {order.name}
    finally:
        for name in strange:
            subject.remove(name)


def test_a_blocked_connection_is_cut_too(subject: RedisSubject, desk: Desk, run: Run) -> None:
    """One that waits for a message, and one in the midst of a transaction."""
    raw = issuer(subject, "~orders:* &news +@list +@pubsub +@transaction")
    order = desk.order(scope=raw.scope)
    material = run(raw.issue(order)).material
    listening, changing = subject.open(material), subject.open(material)
    listening.client.ask("SUBSCRIBE", "news")
    changing.client.ask("MULTI")
    changing.client.ask("LPUSH", "orders:late", "1")
    run(raw.revoke(order.name))
    assert subject.sessions(order.name) == 0
    with pytest.raises(redis.ConnectionError):
        changing.client.ask("EXEC")
    assert subject.admin.ask("EXISTS", "orders:late") == 0
    listening.close()
    changing.close()


def test_a_password_that_is_no_text_is_refused(subject: RedisSubject, run: Run) -> None:
    wrong = subject.issuer(subject.parameters(), Secret(b"\xff\xfe"))
    assert "refuses" in fails(run, wrong.check()).message
