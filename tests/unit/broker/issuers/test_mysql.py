"""What the issuer of MySQL users hears and says, with a server that says what no real one here does."""

from __future__ import annotations

import asyncio
import re
import socket
import struct
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pymysql
import pytest

from leasehold.broker.issuers.mysql import MARIADB, MYSQL, MYSQL_LITERAL, Link, MysqlIssuer, Server, Wire, _said
from leasehold.broker.issuers.mysql_grants import parse
from leasehold.broker.issuers.mysql_passwords import SALT_BYTES, caching_sha2
from leasehold.broker.issuers.ports import Issued, Order
from leasehold.core.errors import IssuerError
from leasehold.core.secret import Secret
from servers.ca import TestCa

GRANT = parse("SELECT, INSERT ON a_b.*")
NAME = "lh_a"
ORDER = Order(name=NAME, secret=Secret(b"s" * 32), task="t", expires=60.0, scope=frozenset({str(GRANT)}))
USAGE = "GRANT USAGE ON *.* TO `lh_a`@`%`"
GRANTED = r"GRANT SELECT, INSERT ON `a\_b`.* TO `lh_a`@`%`"
OWN = [
    "GRANT PROCESS, CREATE USER ON *.* TO `issuer`@`%`",
    "GRANT CONNECTION_ADMIN ON *.* TO `issuer`@`%`",
    "GRANT SELECT ON `mysql`.* TO `issuer`@`%`",
    r"GRANT SELECT, INSERT ON `a\_b`.* TO `issuer`@`%` WITH GRANT OPTION",
]
_PATIENCE_S = 30.0


class ScriptedServer:
    """Answers each statement by how it begins, the longest that is known; nothing to all others. Notes all it hears."""

    def __init__(self, **answers: Any) -> None:
        self._answers: dict[str, Any] = {
            "SELECT VERSION()": [("8.0.36",)],
            "SELECT @@partial_revokes": [(0,)],
            "SELECT @@mandatory_roles": [("",)],
            "SELECT UNIX_TIMESTAMP()": [(0,)],
            "SELECT CURRENT_USER()": [("issuer@%",)],
            "SHOW GRANTS FOR `issuer`": [(line,) for line in OWN],
            "SHOW GRANTS FOR `lh_a`": [(USAGE,), (GRANTED,)],
            "SELECT ssl_type": self.user,
            **{name.replace("_", " "): answer for name, answer in answers.items()},
        }
        self.heard: list[str] = []

    def said(self, beginning: str, answer: Any) -> ScriptedServer:
        """From now on."""
        self._answers[beginning] = answer
        return self

    def user(self) -> list[tuple[Any, ...]]:
        """As it was made."""
        [made] = [line for line in self.heard if line.startswith("CREATE USER")]
        digest, limit = re.findall(r" AS '([^']*)' .* MAX_USER_CONNECTIONS (\d+)", made)[0]
        return [("ANY", int(limit), "caching_sha2_password", digest)]

    def cursor(self) -> ScriptedServer:
        return self

    def close(self) -> None:
        pass

    def execute(self, statement: str, values: tuple[str, ...] | None) -> None:
        assert statement.count("%s") == len(values or ())
        self.heard.append(statement.strip())

    def fetchall(self) -> list[tuple[Any, ...]]:
        last = self.heard[-1]
        known = max((begin for begin in self._answers if last.startswith(begin)), key=len, default="")
        answer = self._answers.get(known, [])
        if isinstance(answer, Exception):
            raise answer
        found: list[tuple[Any, ...]] = answer() if callable(answer) else answer
        return found

    def link(self) -> Link:
        link = Link(self)
        link.prepare()
        return link


def issuer(**waits: Any) -> MysqlIssuer:
    server = Server(host="127.0.0.1", port=1, user="issuer", ca="/nonexistent/ca.pem")
    return MysqlIssuer(server, Secret(b"x"), allowed=[GRANT], connections=3, **waits)


def issue(server: ScriptedServer) -> Issued:
    return issuer()._issue(server.link(), ORDER)


class TestDialect:
    """What a server is spoken to in."""

    @pytest.mark.parametrize(
        ("version", "literal", "dialect"),
        [
            ("10.11.6-MariaDB-0+deb12u1", 0, MARIADB),
            ("11.4.2-mariadb", 0, MARIADB),
            ("8.0.36", 0, MYSQL),
            ("8.4.0", 1, MYSQL_LITERAL),
        ],
    )
    def test_it_is_known_by_the_version(self, version: str, literal: int, dialect: object) -> None:
        server = ScriptedServer().said("SELECT VERSION()", [(version,)]).said("SELECT @@partial_revokes", [(literal,)])
        assert server.link().dialect is dialect

    def test_a_grant_makes_no_user_where_it_could(self) -> None:
        mariadb = ScriptedServer().said("SELECT VERSION()", [("10.4.1-MariaDB",)])
        mariadb.link()
        assert "NO_AUTO_CREATE_USER" in mariadb.heard[-1]
        mysql = ScriptedServer()
        mysql.link()
        assert mysql.heard[-1] == "SET SESSION sql_mode = 'STRICT_ALL_TABLES', lock_wait_timeout = 8"

    def test_a_salt_is_another_each_time(self) -> None:
        digests = {MYSQL.digest(ORDER.secret) for _ in range(8)}
        assert len(digests) == 8
        for digest in digests:
            salt = digest.removeprefix("$A$005$")[:SALT_BYTES]
            assert salt.isalnum()
            assert digest == caching_sha2(ORDER.secret.reveal(), salt)


class TestIssue:
    """How a user is made on MySQL."""

    def test_it_is_unlocked_last(self) -> None:
        server = ScriptedServer()
        assert issue(server).scope == ORDER.scope
        made = next(at for at, line in enumerate(server.heard) if line.startswith("CREATE USER"))
        assert (
            "REQUIRE SSL WITH MAX_USER_CONNECTIONS 3 PASSWORD EXPIRE INTERVAL 1 DAY ACCOUNT LOCK" in server.heard[made]
        )
        assert server.heard[made + 1 :] == [
            r"GRANT SELECT, INSERT ON `a\_b`.* TO `lh_a`@`%`",
            "SELECT ssl_type, max_user_connections, plugin, authentication_string FROM mysql.user "
            "WHERE User = %s AND Host = %s",
            "SHOW GRANTS FOR `lh_a`@`%`",
            "ALTER USER `lh_a`@`%` ACCOUNT UNLOCK",
        ]
        assert not [line for line in server.heard if ORDER.secret.reveal().decode() in line]

    def test_a_name_is_just_a_name_with_partial_revokes(self) -> None:
        server = ScriptedServer().said("SELECT @@partial_revokes", [(1,)])
        server.said("SHOW GRANTS FOR `lh_a`", [(USAGE,), ("GRANT SELECT, INSERT ON `a_b`.* TO `lh_a`@`%`",)])
        assert issue(server).scope == ORDER.scope
        assert "GRANT SELECT, INSERT ON `a_b`.* TO `lh_a`@`%`" in server.heard

    def test_what_was_there_is_dropped_wherever_it_came_from(self) -> None:
        server = ScriptedServer().said("SELECT Host", [("%",), ("10.`%",)])
        issue(server)
        assert [line for line in server.heard if line.startswith("DROP")] == [
            "DROP USER IF EXISTS `lh_a`@`%`",
            "DROP USER IF EXISTS `lh_a`@`10.``%`",
        ]

    @pytest.mark.parametrize(
        "line",
        ["GRANT DELETE ON `a`.* TO `lh_a`@`%`", "GRANT `admins`@`%` TO `lh_a`@`%`", f"{USAGE} WITH GRANT OPTION"],
    )
    def test_more_than_ordered_is_said_and_stays_locked(self, line: str) -> None:
        server = ScriptedServer().said("SHOW GRANTS FOR `lh_a`", [(USAGE,), (GRANTED,), (line,)])
        assert len(issue(server).scope - ORDER.scope) == 1
        assert not [said for said in server.heard if "UNLOCK" in said]

    @pytest.mark.parametrize("lines", [[USAGE], [USAGE, GRANTED.replace(", INSERT", "")]])
    def test_less_than_ordered_is_an_error(self, lines: list[str]) -> None:
        server = ScriptedServer().said("SHOW GRANTS FOR `lh_a`", [(line,) for line in lines])
        with pytest.raises(IssuerError, match="did not grant all of SELECT, INSERT ON a_b"):
            issue(server)
        assert not [said for said in server.heard if "UNLOCK" in said]

    @pytest.mark.parametrize(
        ("at", "other"), [(0, ""), (1, 0), (2, "mysql_native_password"), (3, "$A$005$"), (None, 0)]
    )
    def test_another_user_than_was_made_is_an_error(self, at: int | None, other: object) -> None:
        server = ScriptedServer()

        def changed() -> list[tuple[Any, ...]]:
            row = list(server.user()[0])
            if at is None:
                return []
            row[at] = other
            return [tuple(row)]

        with pytest.raises(IssuerError, match="not as it was made"):
            issue(server.said("SELECT ssl_type", changed))


class TestRevoke:
    """How a user is taken back."""

    def revoke(self, *listed: list[tuple[int, str]], hosts: tuple[list[Any], ...] = (), **waits: Any) -> list[str]:
        """``listed``: connections, each time that they are asked for; the last for good."""
        lists, users = list(listed), list(hosts)
        server = ScriptedServer()
        server.said("SELECT id, user", lambda: lists.pop(0) if len(lists) > 1 else lists[0])
        server.said("SELECT Host", lambda: users.pop(0) if users else [])
        issuer(**waits)._revoke(server.link(), NAME)
        return server.heard

    def test_it_is_locked_first_and_dropped_last(self) -> None:
        heard = self.revoke([(7, NAME), (8, "lh_ab"), (9, NAME)], [(8, "lh_ab")], hosts=([("%",)],))
        steps = [line for line in heard if line.startswith(("ALTER", "KILL", "DROP"))]
        assert steps[0] == "ALTER USER IF EXISTS `lh_a`@`%` ACCOUNT LOCK"
        assert sorted(steps[1:-1]) == ["KILL 7", "KILL 9"]
        assert steps[-1] == "DROP USER IF EXISTS `lh_a`@`%`"

    def test_a_login_that_had_begun_is_waited_for(self) -> None:
        heard = self.revoke([(7, "unauthenticated user")], [(7, NAME)], [], starting_s=60.0)
        assert "KILL 7" in heard

    def test_one_that_began_later_is_not(self) -> None:
        late = (9, "unauthenticated user")
        heard = self.revoke([(7, "unauthenticated user")], [(7, "somebody"), late], [late], starting_s=0.0)
        assert "KILL 9" not in heard

    def test_one_that_takes_too_long_is_cut(self) -> None:
        assert "KILL 7" in self.revoke([(7, "unauthenticated user")], [], starting_s=-1.0)

    def test_one_that_has_ended_meanwhile_is_no_error(self) -> None:
        server = ScriptedServer().said("KILL", pymysql.err.OperationalError(1094, "Unknown thread id: 7"))
        lists = [[(7, NAME)], []]
        server.said("SELECT id, user", lambda: lists.pop(0) if lists else [])
        issuer()._revoke(server.link(), NAME)
        server.said("KILL", pymysql.err.OperationalError(1095, "You are not owner of thread 7"))
        server.said("SELECT id, user", [(7, NAME)])
        with pytest.raises(pymysql.err.OperationalError):
            issuer()._revoke(server.link(), NAME)

    def test_one_that_does_not_end_is_an_error(self) -> None:
        with pytest.raises(IssuerError, match="2 connections or logins do not end"):
            self.revoke([(7, NAME), (8, "unauthenticated user")], sessions_end_s=-1.0)

    def test_what_is_still_there_is_no_success(self) -> None:
        with pytest.raises(IssuerError, match="still there"):
            self.revoke([], hosts=([("%",)], [("%",)]))
        with pytest.raises(IssuerError, match="still there"):
            self.revoke([], [(7, NAME)], hosts=([("%",)],))


class TestCheck:
    """The issuer's user on MySQL."""

    def check(self, server: ScriptedServer) -> None:
        link = server.link()

        def granted() -> list[tuple[Any, ...]]:
            name = re.findall(r"`(lh_check_\w+)`", server.heard[-1])[0]
            return [(line.replace("lh_a", name),) for line in (USAGE, GRANTED)]

        server.said("SHOW GRANTS FOR `lh_check", granted)
        issuer()._check(link)

    def test_the_one_of_the_page_will_do(self) -> None:
        server = ScriptedServer()
        self.check(server)
        assert server.heard[-1].startswith("DROP USER IF EXISTS `lh_check_")
        assert not [line for line in server.heard if "UNLOCK" in line]

    @pytest.mark.parametrize(
        ("lines", "said"),
        [
            (OWN[1:], "lacks CREATE USER ON [*].[*], PROCESS"),
            (OWN[:1] + OWN[2:], "lacks CONNECTION_ADMIN"),
            (OWN[:2] + OWN[3:], "lacks SELECT ON `mysql`"),
            ([*OWN, "GRANT SYSTEM_USER ON *.* TO `issuer`@`%`"], "more than an issuer needs"),
            ([*OWN, "GRANT INSERT ON `mysql`.`db` TO `issuer`@`%`"], "more than an issuer needs"),
            ([*OWN, "GRANT `dba`@`%` TO `issuer`@`%`"], "more than an issuer needs"),
        ],
    )
    def test_one_with_less_or_more_is_refused(self, lines: list[str], said: str) -> None:
        with pytest.raises(IssuerError, match=said):
            self.check(ScriptedServer().said("SHOW GRANTS FOR `issuer`", [(line,) for line in lines]))

    def test_a_role_that_everybody_has_is_refused(self) -> None:
        with pytest.raises(IssuerError, match="everybody has the roles `readers`"):
            self.check(ScriptedServer().said("SELECT @@mandatory_roles", [("`readers`",)]))

    def test_a_mariadb_without_public_will_do(self) -> None:
        server = ScriptedServer().said("SELECT VERSION()", [("10.4.1-MariaDB",)])
        own = [line.replace("CONNECTION_ADMIN", "CONNECTION ADMIN") for line in OWN]
        server.said("SHOW GRANTS FOR `issuer`", [(line,) for line in own])
        server.said("SHOW GRANTS FOR PUBLIC", pymysql.err.OperationalError(1141, "There is no such grant"))
        server.said("CREATE USER", IssuerError("so far", hint="h"))
        with pytest.raises(IssuerError, match="so far"):
            self.check(server)
        server.said("SHOW GRANTS FOR PUBLIC", pymysql.err.OperationalError(1044, "Access denied"))
        with pytest.raises(pymysql.err.OperationalError):
            self.check(server)


class TestErrors:
    """What is said of them: never the server's own words."""

    @pytest.mark.parametrize(
        ("error", "said"),
        [
            (pymysql.err.OperationalError(1045, "secret"), "refuses the issuer's user"),
            (pymysql.err.OperationalError(1130, "secret"), "refuses the issuer's user"),
            (pymysql.err.OperationalError(1227, "secret"), "may not do that"),
            (pymysql.err.ProgrammingError(1146, "secret"), "does not exist"),
            (pymysql.err.OperationalError(1290, "secret"), "option"),
            (pymysql.err.OperationalError(2013, "secret"), "cannot be reached"),
            (pymysql.err.InterfaceError(0, "secret"), "cannot be reached"),
            (OSError(111, "secret"), "cannot be reached"),
            (pymysql.err.InternalError(1205, "secret"), "the error 1205"),
            (pymysql.err.OperationalError("secret"), "cannot be reached"),
            (pymysql.err.Error(), "cannot be reached"),
            (pymysql.err.OperationalError(3159, "secret"), "the error 3159"),
        ],
    )
    def test_each_has_words_of_its_own(self, error: Exception, said: str) -> None:
        message, hint = _said(error)
        assert said in message
        assert hint
        assert "secret" not in message

    def test_a_file_that_is_not_there_is_an_error_that_says_where_to_look(self) -> None:
        with pytest.raises(IssuerError) as caught:
            asyncio.run(issuer().find())
        assert "ca" in caught.value.hint
        assert caught.value.__context__ is None


class TestWire:
    """What goes over it, and when it ends."""

    @pytest.fixture
    def listener(self) -> Iterator[socket.socket]:
        with socket.create_server(("127.0.0.1", 0)) as sock:
            sock.settimeout(_PATIENCE_S)
            yield sock

    @pytest.fixture
    def found(self, listener: socket.socket, tmp_path: Path) -> MysqlIssuer:
        address, port = listener.getsockname()
        server = Server(host=address, port=port, user="issuer", ca=str(TestCa(tmp_path).path))
        return MysqlIssuer(server, Secret(b"the password"), allowed=[GRANT], connections=3)

    def test_a_call_that_is_given_up_goes_no_further(self, listener: socket.socket, found: MysqlIssuer) -> None:
        """The server is silent; the connection ends when nobody waits for it any more."""

        async def give_up() -> bytes:
            call = asyncio.create_task(found.issue(ORDER))
            taken, _ = await asyncio.to_thread(listener.accept)
            with taken:
                taken.settimeout(_PATIENCE_S)
                while not call.done():
                    call.cancel()
                    await asyncio.sleep(0)
                return await asyncio.to_thread(taken.recv, 1)

        assert asyncio.run(give_up()) == b""

    def test_one_given_up_before_it_has_a_connection_gets_none(self, listener: socket.socket) -> None:
        wire = Wire()
        wire.cut()
        wire.cut()
        with pytest.raises(OSError, match="given up"):
            wire.open(*listener.getsockname())

    @pytest.mark.parametrize("plugin", [b"mysql_native_password", b"mysql_clear_password"])
    def test_a_server_without_tls_hears_nothing(
        self, listener: socket.socket, found: MysqlIssuer, plugin: bytes
    ) -> None:
        """It asks for the password itself, as whoever stands in between would."""

        def serve() -> bytes:
            taken, _ = listener.accept()
            with taken:
                taken.settimeout(_PATIENCE_S)
                taken.sendall(_greeting(plugin))
                return taken.recv(1024)

        with ThreadPoolExecutor() as pool:
            heard = pool.submit(serve)
            with pytest.raises(IssuerError, match="certificate"):
                asyncio.run(found.find())
            assert heard.result() == b""


def _greeting(plugin: bytes) -> bytes:
    """Of protocol 10, with every capability that a login uses but TLS."""
    capabilities = (0x81FF | 0x000F_0000 | 0x0020_0000) & ~0x0800
    body = (
        b"\x0a8.0.36\0"
        + struct.pack("<I8sx", 1, b"saltsalt")
        + struct.pack("<HBHHB10x", capabilities & 0xFFFF, 45, 2, capabilities >> 16, 21)
        + b"saltsaltsalt\0"
        + plugin
        + b"\0"
    )
    return struct.pack("<I", len(body)) + body
