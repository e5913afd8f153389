"""The issuer of MariaDB users keeps the contract, with the rights that its page tells an operator to give it."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import pymysql
import pytest
from pymysql.connections import Connection

from contract.clauses import IssuerContract, fails
from contract.desk import Desk, Run
from contract.mysql_subject import ISSUER, MariaSubject
from contract.subject import Material, Refused
from leasehold.broker.issuers.mysql import Link, MysqlIssuer
from leasehold.broker.issuers.mysql_passwords import native
from leasehold.broker.issuers.ports import Issuer
from leasehold.core.secret import Secret
from servers.ca import TestCa
from servers.mariadb import ADDRESS, MariaServer

_PATIENCE_S = 30.0
MYSELF = f"{ISSUER}@'{ADDRESS}'"


@pytest.fixture(scope="module")
def server() -> Iterator[MariaServer]:
    made = MariaServer()
    yield made
    made.close()


@pytest.fixture(scope="module")
def subject(server: MariaServer) -> Iterator[MariaSubject]:
    made = MariaSubject(server)
    yield made
    made.close()


def issuer(subject: MariaSubject, **changes: Any) -> Issuer:
    return subject.issuer({**subject.parameters(), **changes}, subject.secret)


def statements(subject: MariaSubject) -> list[str]:
    """What the server is at work on."""
    return [text for (text,) in subject.admin.ask("SELECT info FROM information_schema.processlist")]


def until(true: Callable[[], bool]) -> None:
    """Ask again until it is."""
    deadline = time.monotonic() + _PATIENCE_S
    while not true():
        assert time.monotonic() < deadline


class Dead(Exception):
    """The process that was at work is no more."""


class LateLogin:
    """A login whose client goes on when it likes. ``began``: it waits; ``named``: the server knows already for whom."""

    def __init__(self, subject: MariaSubject, material: Material, *, named: bool) -> None:
        self.began, self.goes_on = threading.Event(), threading.Event()
        self._subject, self._material, self._named = subject, material, named

    def connect(self) -> Any:
        """The connection; an error of the driver's when the server does not let it in."""
        late = self

        class Late(Connection):  # type: ignore[misc]
            """Says that it knows no way to prove itself, so that the server, who has looked it up, asks for one."""

            def _request_authentication(self) -> None:
                self._auth_plugin_name = "none"
                if not late._named:
                    late.wait()
                super()._request_authentication()

            def _process_auth(self, *found: Any) -> Any:
                if late._named:
                    late.wait()
                return super()._process_auth(*found)

        fields = {name: value.reveal().decode() for name, value in self._material.items()}
        return self._subject.server.connect(fields["username"], fields["password"], Late)

    def wait(self) -> None:
        self.began.set()
        assert self.goes_on.wait(_PATIENCE_S)


class MortalLink(Link):
    """The issuer's own, on which it dies after so many statements."""

    def __init__(self, subject: MariaSubject) -> None:
        self._left = sys.maxsize
        self._raw = subject.server.connect(ISSUER, subject.secret.reveal().decode())
        super().__init__(self._raw)
        self.prepare()

    def ask(self, statement: str, *values: str) -> list[tuple[Any, ...]]:
        if self._left == 0:
            raise Dead
        self._left -= 1
        return super().ask(statement, *values)

    def survived(self, work: Callable[[], object], statements: int) -> bool:
        """Whether it was done within so many."""
        self._left = statements
        try:
            work()
        except Dead:
            return False
        return True

    def close(self) -> None:
        self._raw.close()


class TestMysql(IssuerContract):
    """Its own tests follow the clauses."""

    def test_a_server_with_another_certificate_gets_no_password(
        self, subject: MariaSubject, desk: Desk, run: Run, tmp_path: Path
    ) -> None:
        stranger = issuer(subject, ca=str(TestCa(tmp_path).path))
        assert "certificate" in fails(run, stranger.check(), subject.secret).message
        misnamed = issuer(subject, server=str(subject.parameters()["server"]).replace(ADDRESS, "localhost"))
        assert "certificate" in fails(run, misnamed.check(), subject.secret).message
        run(desk.issuer.check())

    def test_no_password_is_in_what_the_server_logs(self, subject: MariaSubject, desk: Desk) -> None:
        order = desk.order()
        desk.issue(order)
        desk.revoke(order.name)
        log = subject.server.log.read_bytes()
        assert native(order.secret.reveal()).encode() in log  # it does log how the user was made
        assert order.secret.reveal() not in log
        assert subject.secret.reveal() not in log


class TestUser:
    """What a user is besides its grants."""

    def test_it_comes_in_by_tls_only(self, subject: MariaSubject, desk: Desk) -> None:
        order = desk.order()
        material = desk.issue(order).material
        subject.open(material).close()
        with pytest.raises(pymysql.err.OperationalError) as caught:
            pymysql.connect(
                host=ADDRESS,
                port=subject.server.port,
                user=order.name,
                password=order.secret.reveal(),
                ssl_disabled=True,
            )
        assert caught.value.args[0] == 1045

    def test_it_has_so_many_connections_and_no_more(self, subject: MariaSubject, desk: Desk, run: Run) -> None:
        raw = issuer(subject, connections=2)
        material = run(raw.issue(desk.order())).material
        for _ in range(2):
            desk.open(material)
        with pytest.raises(pymysql.err.OperationalError) as caught:
            subject.open(material)
        assert caught.value.args[0] == 1226

    def test_it_comes_from_where_it_may(self, subject: MariaSubject, desk: Desk, run: Run) -> None:
        here, elsewhere = (
            issuer(subject, client_host="127.0.0.%"),
            issuer(subject, client_host="10.1.2.0/255.255.255.0"),
        )
        order, other = desk.order(), desk.order()
        subject.open(run(here.issue(order)).material).close()
        material = run(elsewhere.issue(other)).material
        with pytest.raises(Refused):
            subject.open(material)
        for name in (order.name, other.name):
            desk.revoke(name)  # by an issuer that makes users for everywhere
            assert name not in subject.accounts()

    @pytest.mark.parametrize(("days", "ends_in_s"), [(1, 600), (1, 86000), (3, 2 * 86400 + 600)])
    def test_its_password_expires_when_all_brokers_are_lost(
        self, subject: MariaSubject, desk: Desk, days: int, ends_in_s: int
    ) -> None:
        [(now,)] = subject.admin.ask("SELECT UNIX_TIMESTAMP()")
        order = desk.order(expires=float(now + ends_in_s))
        desk.issue(order)
        [(made,)] = subject.admin.ask(f"SHOW CREATE USER `{order.name}`@`%`")
        assert f"PASSWORD EXPIRE INTERVAL {days} DAY" in made

    def test_it_was_locked_before_it_had_all(self, subject: MariaSubject, desk: Desk, run: Run) -> None:
        """Here: what the second grant is on has gone."""
        raw = issuer(subject, grants=["SELECT ON shop_eu.*", "SELECT ON shop_eu.trail"])
        order = desk.order(scope=raw.scope)
        subject.admin.ask("RENAME TABLE shop_eu.trail TO shop_eu.aside")
        try:
            error = fails(run, raw.issue(order), subject.secret, order.secret)
        finally:
            subject.admin.ask("RENAME TABLE shop_eu.aside TO shop_eu.trail")
        assert "may not" in error.message or "does not exist" in error.message
        material = {"username": Secret(order.name.encode()), "password": order.secret}
        assert order.name in subject.accounts()
        with pytest.raises(Refused):
            subject.open(material)
        run(issuer(subject).revoke(order.name))
        assert order.name not in subject.accounts()


class TestCrash:
    """An issuer that ends after any of its statements."""

    @pytest.mark.parametrize("adopts", [False, True])
    def test_it_leaves_nobody_who_can_come_in_and_the_next_goes_on(
        self, subject: MariaSubject, desk: Desk, adopts: bool
    ) -> None:
        order = desk.order()
        raw = issuer(subject)
        assert isinstance(raw, MysqlIssuer)
        material = {"username": Secret(order.name.encode()), "password": order.secret}
        done = 0
        with closing(MortalLink(subject)) as link:
            while not link.survived(lambda: raw._issue(link, order), done):
                with pytest.raises(Refused):
                    subject.open(material)
                if adopts:
                    subject.attempt(desk.issue(order).material, subject.within[0])
                desk.revoke(order.name)
                assert order.name not in subject.accounts()
                done += 1
            subject.attempt(material, subject.within[0])
            assert done > 5

    def test_what_is_half_taken_back_is_taken_back(self, subject: MariaSubject, desk: Desk) -> None:
        order = desk.order()
        raw = issuer(subject)
        assert isinstance(raw, MysqlIssuer)
        done = 0
        with closing(MortalLink(subject)) as link:
            desk.issue(order)
            while not link.survived(lambda: raw._revoke(link, order.name), done):
                desk.revoke(order.name)
                assert order.name not in subject.accounts()
                desk.issue(order)
                done += 1
            assert order.name not in subject.accounts()
            assert done > 3


class TestGrants:
    """What the server makes of them."""

    def test_an_underscore_is_no_wildcard(self, subject: MariaSubject, desk: Desk) -> None:
        order = desk.order()
        material = desk.issue(order).material
        subject.attempt(material, "SELECT * FROM shop_eu.orders")
        with pytest.raises(Refused):
            subject.attempt(material, "SELECT * FROM shopXeu.orders")
        granted = {line for (line,) in subject.admin.ask(f"SHOW GRANTS FOR `{order.name}`@`%`")}
        assert rf"GRANT SELECT ON `shop\_eu`.* TO `{order.name}`@`%`" in granted

    def test_what_the_issuer_may_not_hand_on_is_not_given(self, subject: MariaSubject, desk: Desk, run: Run) -> None:
        raw = issuer(subject, grants=["DELETE ON shop_eu.orders"])
        before = {*subject.accounts()}
        assert "may not" in fails(run, raw.check(), subject.secret).message
        assert {*subject.accounts()} == before

    def test_a_routine_that_is_not_there_is_said(self, subject: MariaSubject, run: Run) -> None:
        raw = issuer(subject, grants=["EXECUTE ON FUNCTION shop_eu.none"])
        assert fails(run, raw.check(), subject.secret).message


class TestRevoke:
    """What is open when it is taken back."""

    def test_one_in_the_midst_of_something_is_cut_too(self, subject: MariaSubject, desk: Desk) -> None:
        order = desk.order()
        material = desk.issue(order).material
        busy, changing = subject.open(material), subject.open(material)
        changing.ask("BEGIN")
        changing.ask("INSERT INTO shop_eu.orders (item) VALUES ('late')")
        with ThreadPoolExecutor() as pool:
            asked = pool.submit(busy.ask, "SELECT SLEEP(100)")
            until(lambda: "SELECT SLEEP(100)" in statements(subject))
            desk.revoke(order.name)
            assert isinstance(asked.exception(), pymysql.err.OperationalError)
        assert not changing.alive()
        assert subject.admin.ask("SELECT * FROM shop_eu.orders WHERE item = 'late'") == []
        assert subject.sessions(order.name) == 0

    @pytest.mark.parametrize("named", [False, True])
    def test_a_login_that_had_begun_does_not_come_in(self, subject: MariaSubject, desk: Desk, named: bool) -> None:
        """The server has said who it is, or has looked the user up too; the client goes on when the user is gone."""
        order, other = desk.order(), desk.order()
        taken, left = (LateLogin(subject, desk.issue(each).material, named=named) for each in (order, other))
        with ThreadPoolExecutor() as pool:
            logins = [pool.submit(late.connect) for late in (taken, left)]
            assert taken.began.wait(_PATIENCE_S)
            assert left.began.wait(_PATIENCE_S)
            desk.revoke(order.name)
            taken.goes_on.set()
            left.goes_on.set()
            assert isinstance(logins[0].exception(), pymysql.err.OperationalError)
            logins[1].result().close()
        assert subject.sessions(order.name) == 0

    def test_what_somebody_else_dropped_has_no_connection_left(self, subject: MariaSubject, desk: Desk) -> None:
        order = desk.order()
        session = desk.open(desk.issue(order).material)
        subject.admin.ask(f"DROP USER `{order.name}`@`%`")
        assert session.alive()
        desk.revoke(order.name)
        assert not session.alive()


class TestCheck:
    """What is said before anything is issued."""

    @pytest.mark.parametrize(
        ("change", "undo", "said"),
        [
            ("REVOKE PROCESS ON *.* FROM {}", "GRANT PROCESS ON *.* TO {}", "lacks PROCESS"),
            ("REVOKE CONNECTION ADMIN ON *.* FROM {}", "GRANT CONNECTION ADMIN ON *.* TO {}", "lacks CONNECTION ADMIN"),
            ("REVOKE CREATE USER ON *.* FROM {}", "GRANT CREATE USER ON *.* TO {}", "lacks CREATE USER"),
            ("REVOKE SELECT ON mysql.* FROM {}", "GRANT SELECT ON mysql.* TO {}", "lacks SELECT ON `mysql`.*"),
            ("GRANT FILE ON *.* TO {}", "REVOKE FILE ON *.* FROM {}", "more than an issuer needs"),
            ("GRANT SELECT ON *.* TO {}", "REVOKE SELECT ON *.* FROM {}", "more than an issuer needs"),
            ("GRANT SUPER ON *.* TO {}", "REVOKE SUPER ON *.* FROM {}", "more than an issuer needs"),
            (
                "GRANT USAGE ON *.* TO {} WITH GRANT OPTION",
                "REVOKE GRANT OPTION ON *.* FROM {}",
                "more than an issuer needs",
            ),
            ("GRANT UPDATE ON mysql.* TO {}", "REVOKE UPDATE ON mysql.* FROM {}", "more than an issuer needs"),
            (
                "GRANT UPDATE ON mysql.global_priv TO {}",
                "REVOKE UPDATE ON mysql.global_priv FROM {}",
                "more than an issuer needs",
            ),
            ("CREATE ROLE helpers; GRANT helpers TO {}", "DROP ROLE helpers", "more than an issuer needs"),
            ("GRANT SELECT (User) ON mysql.user TO {}", "REVOKE SELECT (User) ON mysql.user FROM {}", "more than an"),
            ("GRANT SELECT ON test.* TO PUBLIC", "REVOKE SELECT ON test.* FROM PUBLIC", "everybody has SELECT"),
            (
                "CREATE USER ''@'%'; GRANT SELECT ON test.* TO ''@'%'",
                "DROP USER ''@'%'",
                "everybody has rights in",
            ),
        ],
    )
    def test_the_issuers_user_is_exactly_what_is_needed(
        self, subject: MariaSubject, desk: Desk, run: Run, change: str, undo: str, said: str
    ) -> None:
        try:
            for statement in change.split("; "):
                subject.admin.ask(statement.format(MYSELF))
            assert said in fails(run, desk.issuer.check(), subject.secret).message
        finally:
            subject.admin.ask(undo.format(MYSELF))
        run(desk.issuer.check())


def test_what_has_our_prefix_and_no_name_of_ours_is_not_found(subject: MariaSubject, desk: Desk, run: Run) -> None:
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


def test_what_the_server_says_else_is_a_number(subject: MariaSubject, desk: Desk, run: Run) -> None:
    """Its own words stay where they are."""
    order = desk.order()
    subject.admin.ask("SET GLOBAL read_only = ON")
    try:
        assert "option" in fails(run, desk.issuer.issue(order), order.secret).message
    finally:
        subject.admin.ask("SET GLOBAL read_only = OFF")
    desk.issue(order)


def test_the_options_of_a_server_change_nothing(subject: MariaSubject, desk: Desk, run: Run) -> None:
    """Modes in which quotes mean names, a backslash is a letter, and a grant makes a user."""
    subject.admin.ask("SET GLOBAL sql_mode = 'ANSI_QUOTES,NO_BACKSLASH_ESCAPES'")
    try:
        order = desk.order()
        material = desk.issue(order).material
        subject.attempt(material, "SELECT * FROM shop_eu.orders")
        desk.revoke(order.name)
        assert order.name not in subject.accounts()
    finally:
        subject.admin.ask("SET GLOBAL sql_mode = DEFAULT")
