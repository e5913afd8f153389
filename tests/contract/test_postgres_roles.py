"""What is peculiar to roles of a database: what they own, what they are in, their sessions, and many at once."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import ssl
import struct
from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
import pytest
from psycopg import sql

from contract.clauses import fails
from contract.desk import Desk, Run
from contract.postgres_subject import ISSUER, DatabaseSession, DatabaseSubject
from contract.subject import Refused
from leasehold.broker.issuers.postgres import PostgresIssuer, Server, _rows
from leasehold.broker.issuers.postgres_grants import parse
from leasehold.core.secret import Secret
from servers.postgres import ADDRESS, PostgresServer

MAKER = frozenset({"CONNECT", "USAGE, CREATE ON SCHEMA shop", "SELECT ON TABLE shop.orders"})
READER = frozenset({"CONNECT", "USAGE ON SCHEMA shop", "SELECT ON TABLE shop.orders"})
LONG_S = 60.0
TLS_REQUEST = struct.pack("!II", 8, 80877103)


@pytest.fixture(scope="module")
def subject(postgres_server: PostgresServer) -> Iterator[DatabaseSubject]:
    made = DatabaseSubject(postgres_server)
    made.admin.execute(f"GRANT CREATE ON SCHEMA shop TO {ISSUER} WITH GRANT OPTION")
    made.admin.execute("CREATE ROLE keepers")
    made.admin.execute(f"GRANT keepers TO {ISSUER}")
    made.admin.execute("GRANT CREATE ON SCHEMA shop TO keepers")
    yield made
    made.admin.execute("DROP OWNED BY keepers; DROP ROLE keepers")
    made.close()


def issuer(
    subject: DatabaseSubject, *grants: str, user: str = ISSUER, reassign_to: str = "", **waits: float
) -> PostgresIssuer:
    """One with other grants than the subject's."""
    server = Server(host=ADDRESS, port=subject.server.port, user=user, database="orders", ca=str(subject.server.ca))
    allowed = [parse(grant) for grant in grants]
    return PostgresIssuer(
        server,
        subject.secret,
        allowed=allowed,
        connections=3,
        reassign_to=reassign_to,
        **waits,
    )


class TestOwned:
    """What a role has created."""

    def test_it_goes_with_the_role(self, subject: DatabaseSubject, desk: Desk, run: Run) -> None:
        maker = issuer(subject, *MAKER)
        order = desk.order(scope=MAKER)
        session = subject.open(run(maker.issue(order)).material)
        session.connection.execute("CREATE TABLE shop.mine (a int); SELECT lo_create(4711)")
        session.connection.execute("ALTER DEFAULT PRIVILEGES GRANT SELECT ON TABLES TO PUBLIC")
        run(maker.revoke(order.name))
        assert subject.one("SELECT to_regclass('shop.mine')::text") is None
        assert subject.one("SELECT count(*) FROM pg_largeobject_metadata") == 0
        assert order.name not in subject.accounts()
        run(maker.close())

    def test_it_is_kept_by_the_role_that_is_named(self, subject: DatabaseSubject, desk: Desk, run: Run) -> None:
        maker = issuer(subject, *MAKER, reassign_to="keepers")
        run(maker.check())
        order = desk.order(scope=MAKER)
        session = subject.open(run(maker.issue(order)).material)
        session.connection.execute("CREATE TABLE shop.kept (a int)")
        run(maker.revoke(order.name))
        owner = "SELECT relowner::regrole::text FROM pg_class WHERE oid = 'shop.kept'::regclass"
        assert subject.one(owner) == "keepers"
        assert order.name not in subject.accounts()
        subject.admin.execute("DROP TABLE shop.kept")
        run(maker.close())

    def test_in_another_database_it_goes_too(self, subject: DatabaseSubject, desk: Desk) -> None:
        order = desk.order()
        issued = desk.issue(order)
        elsewhere = subject.open(issued.material, "postgres")
        elsewhere.connection.execute("SELECT lo_create(4712)")
        desk.revoke(order.name)
        assert not elsewhere.alive()
        assert order.name not in subject.accounts()

    def test_where_others_depend_on_it_a_person_decides(self, subject: DatabaseSubject, desk: Desk, run: Run) -> None:
        """Nothing of theirs is dropped; the role cannot be used meanwhile."""
        maker = issuer(subject, *MAKER)
        order = desk.order(scope=MAKER)
        issued = run(maker.issue(order))
        session = subject.open(issued.material)
        session.connection.execute("CREATE TABLE shop.base (a int)")
        subject.admin.execute("CREATE VIEW shop.over_it AS SELECT * FROM shop.base")
        error = fails(run, maker.revoke(order.name), order.secret)
        assert "depend" in error.message
        assert not session.alive()
        with pytest.raises(Refused):
            subject.open(issued.material)
        subject.admin.execute("DROP VIEW shop.over_it")
        run(maker.revoke(order.name))
        assert order.name not in subject.accounts()
        run(maker.close())


def test_where_the_role_cannot_be_ended_it_cannot_log_in_either(subject: DatabaseSubject, desk: Desk, run: Run) -> None:
    """Somebody has put the issuer's role into the task's: the other way round is refused by the server then."""
    order = desk.order()
    material = desk.issue(order).material
    subject.open(material).close()
    subject.admin.execute(f"GRANT {ISSUER} TO {order.name}")
    fails(run, desk.issuer.revoke(order.name), order.secret)
    with pytest.raises(Refused):
        subject.open(material)
    subject.admin.execute(f"REVOKE {ISSUER} FROM {order.name}")
    assert desk.revoke(order.name)
    assert order.name not in subject.accounts()


@pytest.mark.parametrize(("exposed", "iterations"), [(False, 1), (True, 4096)])
def test_clients_that_nobody_knows_get_what_they_may_insist_on(
    subject: DatabaseSubject, desk: Desk, exposed: bool, iterations: int
) -> None:
    """RFC 7677, section 4; elsewhere a password of that many random characters gains nothing by it."""
    order = desk.order(exposed=exposed)
    subject.open(desk.issue(order).material).close()
    stored = subject.one("SELECT rolpassword FROM pg_authid WHERE rolname = %s", order.name)
    assert str(stored).startswith(f"SCRAM-SHA-256${iterations}:")


def test_a_password_that_a_task_gave_its_own_role_goes_too(subject: DatabaseSubject, desk: Desk) -> None:
    order = desk.order()
    issued = desk.issue(order)
    own = {**issued.material, "password": Secret(b"known-to-the-task")}
    with pytest.raises(Refused):
        subject.open(own)
    subject.attempt(issued.material, "ALTER ROLE CURRENT_USER PASSWORD 'known-to-the-task'")
    session = subject.open(own)
    desk.revoke(order.name)
    assert not session.alive()
    with pytest.raises(Refused):
        subject.open(own)


class TestReadBack:
    """What the server says it granted, not what was ordered."""

    def test_more_than_ordered_is_noticed_and_taken_back(self, subject: DatabaseSubject, desk: Desk, run: Run) -> None:
        for planted in (
            "GRANT INSERT ON shop.orders TO {}",
            "GRANT SELECT ON shop.customers TO {}",
            "GRANT SELECT ON shop.orders TO {} WITH GRANT OPTION",
            "GRANT USAGE ON shop.orders_id_seq TO {}",
            "GRANT SELECT (name) ON shop.customers TO {}",
            "GRANT shop_auditors TO {}",
        ):
            order = desk.order(scope=subject.less - {"SELECT ON ALL TABLES IN SCHEMA shop"})
            subject.plant(order.name)
            grant = sql.SQL(planted).format(sql.Identifier(order.name))
            subject.admin.execute(sql.SQL("SET ROLE {}; {}; RESET ROLE").format(sql.Identifier(ISSUER), grant))
            assert "more than asked" in fails(run, desk.issuer.issue(order), order.secret).message, planted
            assert order.name not in subject.accounts(), planted

    def test_a_role_with_attributes_is_none_of_a_lease(self, subject: DatabaseSubject, desk: Desk, run: Run) -> None:
        order = desk.order()
        subject.plant(order.name)
        subject.admin.execute(sql.SQL("ALTER ROLE {} CREATEDB").format(sql.Identifier(order.name)))
        assert "attributes" in fails(run, desk.issuer.issue(order), order.secret).message

    def test_less_than_ordered_is_an_error_and_leaves_nothing(
        self, subject: DatabaseSubject, desk: Desk, run: Run
    ) -> None:
        """A server only warns about what its caller may not grant."""
        raw = issuer(subject, "DELETE ON shop.orders", "USAGE ON SCHEMA shop")
        order = desk.order(scope=frozenset({"DELETE ON TABLE shop.orders"}))
        assert "did not grant all of DELETE" in fails(run, raw.issue(order), order.secret).message
        assert order.name not in subject.accounts()

    def test_all_tables_are_those_that_the_issuer_may_hand_on(
        self, subject: DatabaseSubject, desk: Desk, run: Run
    ) -> None:
        """So a table that a task makes, or that nobody granted to the issuer, is in nobody's way."""
        maker = issuer(subject, *MAKER)
        session = desk.open(run(maker.issue(desk.order(scope=MAKER))).material)
        assert isinstance(session, DatabaseSession)
        session.connection.execute("CREATE TABLE shop.unshared (a int)")
        issued = desk.issue(desk.order())
        assert issued.scope == subject.scope
        subject.attempt(issued.material, "SELECT * FROM shop.orders")
        with pytest.raises(Refused):
            subject.attempt(issued.material, "SELECT * FROM shop.unshared")
        run(maker.close())


class TestCheck:
    """What is said before anything is issued."""

    @pytest.mark.parametrize(
        ("grant", "said"),
        [
            ("DELETE ON shop.orders", "did not grant all of DELETE ON TABLE shop.orders"),
            ("SELECT ON shop.nothing", "does not exist"),
            ("USAGE ON SCHEMA nowhere", "does not exist"),
            ("SELECT ON ALL TABLES IN SCHEMA nowhere", "nothing for which"),
            ("DELETE ON ALL TABLES IN SCHEMA shop", "nothing for which"),
            ("SELECT, DELETE ON ALL TABLES IN SCHEMA shop", "nothing for which"),
            ("MEMBER OF nobody", "does not exist"),
            ("SELECT ON private.payroll", "may not do that"),
            ("MEMBER OF builders", "builders may"),
            ("MEMBER OF foremen", "builders may"),
            (f"MEMBER OF {ISSUER}", "may, which is more"),
        ],
    )
    def test_a_grant_that_cannot_be_given_is_named(
        self, subject: DatabaseSubject, run: Run, grant: str, said: str
    ) -> None:
        subject.admin.execute("CREATE ROLE builders CREATEDB; CREATE ROLE foremen; GRANT builders TO foremen")
        try:
            raw = issuer(subject, "CONNECT", grant)
            before = {*subject.accounts()}
            assert said in fails(run, raw.check(), subject.secret).message
            assert {*subject.accounts()} == before
        finally:
            subject.admin.execute("DROP ROLE builders, foremen")

    @pytest.mark.parametrize(
        ("attribute", "undo", "said"),
        [
            ("SUPERUSER", "NOSUPERUSER", "more than"),
            ("CREATEDB", "NOCREATEDB", "more than"),
            ("NOCREATEROLE", "CREATEROLE", "CREATEROLE"),
            ("NOINHERIT", "INHERIT", "INHERIT"),
        ],
    )
    def test_the_issuers_role_is_exactly_what_is_needed(
        self, subject: DatabaseSubject, desk: Desk, run: Run, attribute: str, undo: str, said: str
    ) -> None:
        subject.admin.execute(f"ALTER ROLE {ISSUER} {attribute}".encode())
        try:
            assert said in fails(run, desk.issuer.check(), subject.secret).message
        finally:
            subject.admin.execute(f"ALTER ROLE {ISSUER} {undo}".encode())
        run(desk.issuer.check())

    def test_a_database_that_is_closed_refuses(self, subject: DatabaseSubject, desk: Desk, run: Run) -> None:
        subject.admin.execute("ALTER DATABASE orders CONNECTION LIMIT 0")
        try:
            assert "refuses" in fails(run, desk.issuer.check(), subject.secret).message
        finally:
            subject.admin.execute("ALTER DATABASE orders CONNECTION LIMIT -1")

    def test_what_the_server_says_else_is_a_number(self, subject: DatabaseSubject, desk: Desk, run: Run) -> None:
        """Its own words stay where they are. Here: somebody else is changing the database."""
        raw = issuer(subject, *READER)
        order = desk.order(scope=READER)
        run(raw.issue(order))
        with subject.admin.transaction():
            subject.admin.execute("UPDATE pg_database SET datname = datname WHERE datname = 'orders'")
            run(raw._work(lambda connection: connection.execute("SET lock_timeout = '1ms'")))
            assert "error 55P03" in fails(run, raw.revoke(order.name), order.secret).message
        run(raw.revoke(order.name))
        run(raw.close())


class TestSessions:
    """Until the last one is dead."""

    def test_one_that_does_not_end_is_an_error_until_it_does(
        self, subject: DatabaseSubject, desk: Desk, run: Run
    ) -> None:
        raw = issuer(subject, *READER, sessions_end_s=0.1)
        order = desk.order(scope=READER)
        session = subject.open(run(raw.issue(order)).material)
        pid = session.connection.info.backend_pid
        os.kill(pid, signal.SIGSTOP)
        try:
            assert "1 sessions" in fails(run, raw.revoke(order.name), order.secret).message
            assert order.name in subject.accounts()
        finally:
            os.kill(pid, signal.SIGCONT)
        patient = issuer(subject, *READER)
        run(patient.revoke(order.name))
        assert not session.alive()
        assert order.name not in subject.accounts()
        run(patient.close())

    def test_one_of_a_role_that_somebody_dropped_is_no_success(
        self, subject: DatabaseSubject, desk: Desk, run: Run
    ) -> None:
        order = desk.order(scope=frozenset())
        session = subject.open(desk.issue(order).material, "postgres")
        subject.remove(order.name)
        assert session.alive()
        assert "session" in fails(run, desk.issuer.revoke(order.name), order.secret).message
        subject.admin.execute("SELECT pg_terminate_backend(%s, 5000)", [session.connection.info.backend_pid])
        desk.revoke(order.name)

    def test_one_that_is_starting_is_waited_for(self, subject: DatabaseSubject, desk: Desk, run: Run) -> None:
        """Whoever is asked for the password is in a transaction already, and in no list."""
        raw = issuer(subject, *READER, starting_s=LONG_S)
        order = desk.order(scope=READER)
        run(raw.issue(order))

        async def revoke_with_one_at_the_door() -> None:
            with at_the_door(subject, order.name):
                revoking = asyncio.ensure_future(raw.revoke(order.name))
                while subject.one("SELECT rolcanlogin FROM pg_roles WHERE rolname = %s", order.name):
                    await asyncio.sleep(0.01)
                await asyncio.wait([revoking], timeout=0.1)
                assert not revoking.done()
                assert order.name in subject.accounts()
            await revoking

        run(revoke_with_one_at_the_door())
        assert order.name not in subject.accounts()
        run(raw.close())

    def test_one_that_stays_at_the_door_does_not_hold_it_up(
        self, subject: DatabaseSubject, desk: Desk, run: Run
    ) -> None:
        raw = issuer(subject, *READER, sessions_end_s=LONG_S, starting_s=0.05)
        order = desk.order(scope=READER)
        run(raw.issue(order))
        with at_the_door(subject, order.name):
            run(raw.revoke(order.name))
            assert order.name not in subject.accounts()
        run(raw.close())


@contextmanager
def at_the_door(subject: DatabaseSubject, user: str) -> Iterator[None]:
    """A client that has said who it is and does not answer the question for its password."""
    startup = struct.pack("!I", 196608) + f"user\0{user}\0database\0orders\0\0".encode()
    context = ssl.create_default_context(cafile=str(subject.server.ca))
    with socket.create_connection((ADDRESS, subject.server.port)) as plain:
        plain.sendall(TLS_REQUEST)
        assert plain.recv(1) == b"S"
        with context.wrap_socket(plain, server_hostname=ADDRESS) as client:
            client.sendall(struct.pack("!I", len(startup) + 4) + startup)
            assert client.recv(1) == b"R"
            yield


class TestTogether:
    """Several workers, and connections that are kept."""

    def test_many_at_once_do_not_disturb_each_other(self, subject: DatabaseSubject, desk: Desk, run: Run) -> None:
        """Tasks of one broker take turns; two brokers do it again when they have met."""
        brokers = [desk.issuer, desk.made()]
        orders = [desk.order() for _ in range(16)]
        work = [(brokers[at % 2], order) for at, order in enumerate(orders)]

        async def cycle() -> list[str]:
            await asyncio.gather(*(broker.issue(order) for broker, order in work))
            await asyncio.gather(*(broker.revoke(order.name) for broker, order in work))
            return [*await desk.issuer.find()]

        assert run(cycle()) == []
        run(brokers[1].close())

    def test_no_lock_that_a_task_can_hold_is_in_the_way(self, subject: DatabaseSubject, desk: Desk) -> None:
        """One on a table does not matter; those that only have a number are anybody's, so none is used."""
        session = desk.open(desk.issue(desk.order()).material)
        assert isinstance(session, DatabaseSession)
        session.connection.execute("BEGIN")
        session.connection.execute("LOCK TABLE shop.orders IN ROW EXCLUSIVE MODE")
        before = len(subject.server.log.read_text())
        order = desk.order()
        desk.issue(order)
        desk.revoke(order.name)
        statements = subject.server.log.read_text()[before:]
        assert order.name in statements
        assert "advisory" not in statements
        assert session.alive()

    def test_two_who_issue_the_same_get_the_same(self, subject: DatabaseSubject, desk: Desk, run: Run) -> None:
        order = desk.order()

        async def twice() -> None:
            await asyncio.gather(*(desk.issuer.issue(order) for _ in range(4)))

        run(twice())
        issued = desk.issue(order)
        subject.attempt(issued.material, subject.within[0])

    def test_a_connection_that_was_kept_and_died_is_replaced(self, subject: DatabaseSubject, desk: Desk) -> None:
        order = desk.order()
        desk.issue(order)
        query = "SELECT count(pg_terminate_backend(pid, 5000)) FROM pg_stat_activity WHERE usename = %s"
        assert subject.one(query, ISSUER) == 1
        desk.revoke(order.name)
        assert order.name not in subject.accounts()
        assert subject.sessions(ISSUER) == 1

    def test_a_limit_of_connections_holds(self, subject: DatabaseSubject, desk: Desk, run: Run) -> None:
        raw = issuer(subject, *READER)
        issued = run(raw.issue(desk.order(scope=READER)))
        sessions = [desk.open(issued.material) for _ in range(3)]
        with pytest.raises(psycopg.OperationalError, match="too many connections"):
            subject.open(issued.material)
        assert all(session.alive() for session in sessions)
        run(raw.close())


def test_what_has_our_prefix_and_no_name_of_ours_is_not_found(subject: DatabaseSubject, desk: Desk, run: Run) -> None:
    """It could not be revoked either."""
    strange = ("lh_SHOUTED", "lh_with space", f"lh_{'a' * 30}")
    order = desk.order()
    desk.issue(order)
    try:
        for name in strange:
            subject.plant(name)
        assert set(run(desk.issuer.find())) == {order.name}
    finally:
        for name in strange:
            subject.remove(name)


@pytest.mark.parametrize(
    ("setting", "value"), [("search_path", "pg_catalog,pg_temp"), ("synchronous_commit", "on"), ("lock_timeout", "8s")]
)
def test_no_ones_settings_hold_for_the_issuer(subject: DatabaseSubject, run: Run, setting: str, value: str) -> None:
    """Or what a task has created would be found by an unqualified name, and what was confirmed could be lost."""
    subject.admin.execute(f"ALTER ROLE {ISSUER} SET {setting} = {'public' if setting == 'search_path' else 0}".encode())
    raw = issuer(subject, *READER)
    assert run(raw._work(lambda connection: _rows(connection, f"SHOW {setting}", ()))) == [(value,)]
    subject.admin.execute(f"ALTER ROLE {ISSUER} RESET ALL")
    run(raw.close())
