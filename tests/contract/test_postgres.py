"""The issuer of database roles keeps the contract, with the rights that its page tells an operator to give it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from contract.clauses import IssuerContract, fails
from contract.desk import Desk, Run
from contract.postgres_subject import ISSUER, DatabaseSubject
from servers.ca import TestCa
from servers.postgres import ADDRESS, PostgresServer


@pytest.fixture(scope="module")
def subject(postgres_server: PostgresServer) -> Iterator[DatabaseSubject]:
    made = DatabaseSubject(postgres_server)
    yield made
    made.close()


class TestPostgres(IssuerContract):
    """Its own tests follow the clauses."""

    def test_no_statement_has_the_password(self, subject: DatabaseSubject, desk: Desk) -> None:
        """The server of these tests logs every statement."""
        order = desk.order()
        desk.issue(order)
        desk.revoke(order.name)
        log = subject.server.log.read_text()
        assert f'CREATE ROLE "{order.name}"' in log
        assert order.secret.reveal().decode() not in log
        assert subject.secret.reveal().decode() not in log

    def test_a_server_with_another_certificate_gets_no_password(
        self, subject: DatabaseSubject, desk: Desk, run: Run, tmp_path: Path
    ) -> None:
        stranger = {**subject.parameters(), "ca": str(TestCa(tmp_path).path)}
        fails(run, subject.issuer(stranger, subject.secret).check(), subject.secret)
        misnamed = {**subject.parameters(), "server": str(subject.parameters()["server"]).replace(ADDRESS, "localhost")}
        fails(run, subject.issuer(misnamed, subject.secret).check(), subject.secret)
        password = subject.secret.reveal().decode()
        url = subject.server.url(ISSUER, password, "orders").replace(ADDRESS, "localhost")
        psycopg.connect(url.replace("verify-full", "verify-ca")).close()  # nothing but the name is wrong
        run(desk.issuer.check())
