"""A MariaDB server with the user that the page of the issuer ``mysql`` tells an operator to make."""

from __future__ import annotations

import re
import secrets
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import pymysql

from contract.subject import Material, Refused
from leasehold.broker.issuers.builtin import BUILTIN, Parameters
from leasehold.broker.issuers.mysql_passwords import native
from leasehold.broker.issuers.ports import Issuer
from leasehold.core.secret import Secret
from servers.mariadb import ADDRESS, MariaServer

PAGE = Path(__file__).parents[2] / "docs" / "issuers" / "mysql.md"
ISSUER = "leasehold_issuer"
_TABLES = (
    "CREATE DATABASE shop_eu",
    "CREATE DATABASE shopXeu",
    "CREATE DATABASE private",
    "CREATE TABLE shop_eu.orders (id INT AUTO_INCREMENT PRIMARY KEY, item TEXT)",
    "CREATE TABLE shop_eu.stock (item TEXT)",
    "CREATE TABLE shop_eu.trail (entry TEXT)",
    "CREATE TABLE shopXeu.orders (item TEXT)",
    "CREATE TABLE private.payroll (name TEXT)",
    "CREATE PROCEDURE shop_eu.note() INSERT INTO shop_eu.trail VALUES ('noted')",
    "CREATE PROCEDURE shop_eu.forget() DELETE FROM shop_eu.trail",
)
_GONE = {2006, 2013}
_NOT_IN = {1045, 4151}
_NOT_ALLOWED = {1044, 1045, 1142, 1227, 1370, 1141, 1698, 1959}


class MariaSession:
    """An open connection of a client."""

    def __init__(self, connection: Any) -> None:
        self.connection = connection

    def ask(self, statement: str) -> list[tuple[Any, ...]]:
        with self.connection.cursor() as cursor:
            cursor.execute(statement)
            return list(cursor.fetchall())

    def alive(self) -> bool:
        try:
            self.ask("SELECT 1")
        except pymysql.err.OperationalError as e:
            if e.args[0] in _GONE:
                return False
            raise
        except pymysql.err.InterfaceError:
            return False
        return True

    def close(self) -> None:
        if self.connection.open:
            self.connection.close()


class MariaSubject:
    """A database of orders, and one whose name differs from its only where SQL has a wildcard."""

    scope = frozenset({"SELECT ON shop_eu.*", "INSERT, UPDATE ON shop_eu.orders", "EXECUTE ON PROCEDURE shop_eu.note"})
    within: Sequence[str] = (
        "SELECT * FROM shop_eu.orders",
        "SELECT * FROM shop_eu.stock",
        "INSERT INTO shop_eu.orders (item) VALUES ('tea')",
        "UPDATE shop_eu.orders SET item = 'tea'",
        "CALL shop_eu.note()",
    )
    beyond: Sequence[str] = (
        "DELETE FROM shop_eu.orders",
        "INSERT INTO shop_eu.stock VALUES ('tea')",
        "SELECT * FROM shopXeu.orders",
        "SELECT * FROM private.payroll",
        "CALL shop_eu.forget()",
        "CREATE TABLE shop_eu.mine (a INT)",
        "CREATE TEMPORARY TABLE shop_eu.mine (a INT)",
        "CREATE VIEW shop_eu.mine AS SELECT 1",
        "CREATE PROCEDURE shop_eu.mine() SELECT 1",
        "CREATE TRIGGER shop_eu.mine BEFORE INSERT ON shop_eu.orders FOR EACH ROW SET NEW.item = ''",
        "CREATE EVENT shop_eu.mine ON SCHEDULE EVERY 1 DAY DO SELECT 1",
        "CREATE DATABASE mine",
        "CREATE USER lh_friend",
        "ALTER USER CURRENT_USER() REQUIRE NONE",
        "ALTER USER CURRENT_USER() WITH MAX_USER_CONNECTIONS 0",
        "ALTER USER CURRENT_USER() PASSWORD EXPIRE NEVER",
        "GRANT SELECT ON shop_eu.* TO CURRENT_USER() WITH GRANT OPTION",
        f"SET PASSWORD FOR {ISSUER}@'{ADDRESS}' = '*0000000000000000000000000000000000000000'",
        "SELECT * FROM mysql.user",
        "SELECT * FROM mysql.global_priv",
        "SET GLOBAL general_log = OFF",
        "SELECT * FROM shop_eu.orders INTO OUTFILE '/tmp/orders'",
        "LOAD DATA INFILE '/etc/hostname' INTO TABLE shop_eu.orders",
        f"SHOW GRANTS FOR {ISSUER}@'{ADDRESS}'",
        "FLUSH PRIVILEGES",
        "SHUTDOWN",
        "INSTALL SONAME 'ha_connect'",
        "LOCK TABLES shop_eu.orders WRITE",
    )
    less = frozenset({"SELECT ON shop_eu.*"})
    beyond_less = "INSERT INTO shop_eu.orders (item) VALUES ('tea')"
    outside = frozenset({"SELECT ON private.payroll"})
    ends_by_itself = False
    hostile: Sequence[Mapping[str, object]] = (
        *(
            {"grants": [grant]}
            for grant in (
                "",
                " ",
                "SELECT",
                "SELECT ON orders",
                "SELECT ON *",
                "SELECT ON *.*",
                "SELECT ON shop_e%.*",
                "SELECT ON shop_eu.ord%",
                "SELECT ON `shop_eu`.orders",
                "SELECT ON 'shop_eu'.orders",
                "SELECT ON shop_eu.orders; DROP TABLE shop_eu.orders",
                "SELECT ON shop_eu.orders TO root@localhost --",
                "SELECT ON shop_eu.orders/**/",
                "SELECT ON shop_eu.orders WITH GRANT OPTION",
                "SELECT (item) ON shop_eu.orders",
                "SELECT, SELECT ON shop_eu.orders",
                "ALL ON shop_eu.*",
                "ALL PRIVILEGES ON shop_eu.*",
                "GRANT OPTION ON shop_eu.*",
                "SUPER ON *.*",
                "FILE ON *.*",
                "PROCESS ON *.*",
                "CREATE USER ON *.*",
                "CREATE USER ON shop_eu.*",
                "TRIGGER ON shop_eu.orders",
                "EVENT ON shop_eu.*",
                "CREATE VIEW ON shop_eu.*",
                "CREATE ROUTINE ON shop_eu.*",
                "ALTER ROUTINE ON PROCEDURE shop_eu.note",
                "REFERENCES ON shop_eu.orders",
                "EXECUTE ON shop_eu.*",
                "EXECUTE ON PROCEDURE shop_eu.*",
                "LOCK TABLES ON shop_eu.orders",
                "PROXY ON root",
                "SELECT ON mysql.*",
                "SELECT ON MySQL.user",
                "SELECT ON performance_schema.*",
                "EXECUTE ON PROCEDURE sys.table_exists",
                "SELECT ON shop_eu.orders\0",
                "SELECT ON shop_eu.\u043erders",
            )
        ),
        {"grants": []},
        {"grants": ["SELECT ON a.b", "select on a.b"]},
        {"grants": "SELECT ON a.b"},
        *(
            {"server": server}
            for server in (
                "mysql://issuer:password@db.example",
                "mysql://db.example",
                "mysql://issuer@",
                "mysql://issuer@db.example/orders",
                "mysql://issuer@db.example?ssl_disabled=1",
                "mysql://issuer@db.example#x",
                "mysql://issuer@db.example,evil.example",
                "mysql://issuer@db.example:port",
                "mysql://issuer@%2Ftmp",
                "http://issuer@db.example",
            )
        ),
        *(
            {"client_host": host}
            for host in ("", "localhost' IDENTIFIED BY ''", "`", "10.1.%.2", "%%", "_", "10.1.2.0/24", "a" * 61, 7)
        ),
        {"connections": 0},
        {"connections": -1},
        {"ca": "ca.pem"},
        {"ssl_disabled": True},
    )

    def __init__(self, server: MariaServer) -> None:
        self.server = server
        self.secret = Secret(secrets.token_urlsafe(24).encode())
        self.admin = MariaSession(server.admin())
        for statement in _TABLES:
            self.admin.ask(statement)
        [block] = re.findall(r"^```sql\n(.*?)^```", PAGE.read_text(), flags=re.DOTALL | re.MULTILINE)
        for statement in filter(str.strip, block.split(";")):
            self.admin.ask(statement)
        digest = native(self.secret.reveal())
        self.admin.ask(f"SET PASSWORD FOR {ISSUER}@'{ADDRESS}' = '{digest}'")
        self.admin.ask(f"ALTER USER {ISSUER}@'{ADDRESS}' ACCOUNT UNLOCK")

    def close(self) -> None:
        for name in ("shop_eu", "shopXeu", "private"):
            self.admin.ask(f"DROP DATABASE {name}")
        self.admin.ask(f"DROP USER {ISSUER}@'{ADDRESS}'")
        self.admin.close()

    def parameters(self, address: tuple[str, int] | None = None) -> Mapping[str, object]:
        host, port = address or (ADDRESS, self.server.port)
        return {
            "server": f"mysql://{ISSUER}@{host}:{port}",
            "ca": str(self.server.ca),
            "grants": [grant.replace("SELECT", "select") for grant in sorted(self.scope)],
        }

    def issuer(self, parameters: Mapping[str, object], secret: Secret) -> Issuer:
        table = Parameters("mysql", parameters)
        issuer = BUILTIN["mysql"](table, secret)
        table.done()
        return issuer

    def attempt(self, material: Material, operation: str) -> None:
        session = self.open(material)
        try:
            session.ask(operation)
        except pymysql.err.MySQLError as e:
            if e.args[0] in _NOT_ALLOWED:
                raise Refused(str(e)) from e
            raise
        finally:
            session.close()

    def open(self, material: Material) -> MariaSession:
        fields = {name: value.reveal().decode() for name, value in material.items()}
        try:
            return MariaSession(self.server.connect(fields["username"], fields["password"]))
        except pymysql.err.OperationalError as e:
            if e.args[0] in _NOT_IN:
                raise Refused(str(e)) from e
            raise

    def accounts(self) -> Collection[str]:
        return [name for (name,) in self.admin.ask("SELECT User FROM mysql.user")]

    def plant(self, name: str) -> None:
        """With another host than the issuer's own: its configuration has been changed since, perhaps."""
        self.admin.ask(f"CREATE USER `{name}`@'10.%' ACCOUNT LOCK")

    def remove(self, name: str) -> None:
        self.admin.ask(f"DROP USER IF EXISTS `{name}`@'10.%'")

    def expires(self, name: str) -> float | None:
        return None

    def sessions(self, name: str) -> int:
        listed = self.admin.ask("SELECT user FROM information_schema.processlist")
        return [user for (user,) in listed].count(name)
