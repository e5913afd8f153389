"""The issuer of RabbitMQ users keeps the contract, with the rights that its page tells an operator to give it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from contract.clauses import IssuerContract, fails
from contract.desk import Desk, Run
from contract.rabbitmq_subject import ISSUER, RabbitSubject
from contract.subject import Refused
from leasehold.broker.issuers.ports import Issuer
from servers.ca import TestCa
from servers.rabbitmq import ADDRESS, RabbitServer


@pytest.fixture(scope="module")
def server() -> Iterator[RabbitServer]:
    made = RabbitServer()
    yield made
    made.close()


@pytest.fixture(scope="module")
def subject(server: RabbitServer) -> Iterator[RabbitSubject]:
    made = RabbitSubject(server)
    yield made
    made.close()


def issuer(subject: RabbitSubject, *grants: str) -> Issuer:
    """One that may grant something else."""
    return subject.issuer({**subject.parameters(), "grants": list(grants)}, subject.secret)


class TestRabbitmq(IssuerContract):
    """Its own tests follow the clauses."""

    def test_a_server_with_another_certificate_gets_no_password(
        self, subject: RabbitSubject, desk: Desk, run: Run, tmp_path: Path
    ) -> None:
        stranger = {**subject.parameters(), "ca": str(TestCa(tmp_path).path)}
        assert "certificate" in fails(run, subject.issuer(stranger, subject.secret).check(), subject.secret).message
        misnamed = {**subject.parameters(), "server": str(subject.parameters()["server"]).replace(ADDRESS, "localhost")}
        assert "certificate" in fails(run, subject.issuer(misnamed, subject.secret).check(), subject.secret).message
        run(desk.issuer.check())


class TestGrants:
    """What the server makes of them."""

    def test_a_star_does_not_reach_what_is_the_servers_own(self, subject: RabbitSubject, desk: Desk, run: Run) -> None:
        """Whoever may publish to the default exchange reaches every queue."""
        for grant in ("WRITE ON * IN /shop", "WRITE ON am* IN /shop"):
            raw = issuer(subject, grant)
            order = desk.order(scope=raw.scope)
            material = run(raw.issue(order)).material
            for name in ("amq.default customers", "amq.topic x"):
                with pytest.raises(Refused):
                    subject.attempt(material, f"publish {name}")
            run(raw.close())
        raw = issuer(subject, "WRITE ON * IN /shop", "WRITE ON amq.default IN /shop")
        order = desk.order(scope=raw.scope)
        material = run(raw.issue(order)).material
        subject.attempt(material, "publish orders.in x")
        subject.attempt(material, "publish amq.default customers")
        with pytest.raises(Refused):
            subject.attempt(material, "publish amq.topic x")
        run(raw.close())

    def test_a_name_means_itself(self, subject: RabbitSubject, desk: Desk, run: Run) -> None:
        """A point in it is a point, and nothing stands before or behind."""
        raw = issuer(subject, "CONFIGURE, READ ON a.b IN /shop")
        order = desk.order(scope=raw.scope)
        material = run(raw.issue(order)).material
        subject.attempt(material, "declare a.b")
        for name in ("a-b", "a.bc", "xa.b", "A.B", "a"):
            with pytest.raises(Refused):
                subject.attempt(material, f"declare {name}")
        run(raw.close())

    def test_one_virtual_host_is_not_another(self, subject: RabbitSubject, desk: Desk, run: Run) -> None:
        raw = issuer(subject, "READ ON stock IN elsewhere")
        order = desk.order(scope=raw.scope)
        material = run(raw.issue(order)).material
        subject.attempt(material, "elsewhere get stock")
        with pytest.raises(Refused):
            subject.attempt(material, "get stock")
        run(raw.close())

    def test_a_virtual_host_that_is_not_there_is_an_error(self, subject: RabbitSubject, desk: Desk, run: Run) -> None:
        raw = issuer(subject, "READ ON stock IN nowhere")
        order = desk.order(scope=raw.scope)
        assert "virtual host" in fails(run, raw.issue(order), order.secret, subject.secret).hint
        assert "virtual host" in fails(run, raw.check(), subject.secret).hint
        assert not [name for name in subject.accounts() if name.startswith("lh_check")]
        run(raw.close())


def test_a_lease_has_no_more_connections_than_are_configured(subject: RabbitSubject, desk: Desk, run: Run) -> None:
    raw = subject.issuer({**subject.parameters(), "connections": 2}, subject.secret)
    order = desk.order()
    material = run(raw.issue(order)).material
    first, second = desk.open(material), subject.open(material)
    with pytest.raises(Refused):
        subject.open(material)
    second.close()
    assert first.alive()
    run(raw.close())


def test_permissions_that_somebody_else_gave_are_seen(subject: RabbitSubject, desk: Desk, run: Run) -> None:
    """They were there before the user was made again; what is wider than asked is taken back by the one door."""
    order = desk.order()
    subject.plant(order.name)
    subject.server.ask("PUT", f"/permissions/elsewhere/{order.name}", {"configure": "", "write": "", "read": ".*"})
    assert "more than asked" in fails(run, desk.issuer.issue(order), order.secret).message
    assert order.name not in subject.accounts()


class TestTheIssuersUser:
    """It is as its page says, or refused."""

    def test_without_its_tag(self, subject: RabbitSubject, desk: Desk, run: Run) -> None:
        self._tagged(subject, "management")
        try:
            assert "administrator" in fails(run, desk.issuer.check(), subject.secret).message
        finally:
            self._tagged(subject, "administrator")
        run(desk.issuer.check())

    def test_with_permissions(self, subject: RabbitSubject, desk: Desk, run: Run) -> None:
        path = f"/permissions/%2Fshop/{ISSUER}"
        subject.server.ask("PUT", path, {"configure": "", "write": "", "read": ".*"})
        try:
            assert "need not" in fails(run, desk.issuer.check(), subject.secret).message
        finally:
            subject.server.ask("DELETE", path)
        run(desk.issuer.check())

    def _tagged(self, subject: RabbitSubject, tags: str) -> None:
        user = {"password": subject.secret.reveal().decode(), "tags": tags}
        subject.server.ask("PUT", f"/users/{ISSUER}", user)
