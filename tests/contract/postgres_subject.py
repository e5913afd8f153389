"""A database with the role that the page of the issuer ``postgres`` tells an operator to make."""

from __future__ import annotations

import re
import secrets
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import psycopg
from psycopg import sql

from contract.subject import Material, Refused
from leasehold.broker.issuers.builtin import BUILTIN, Parameters
from leasehold.broker.issuers.ports import Issuer
from leasehold.core.secret import Secret
from servers.postgres import ADDRESS, PostgresServer

PAGE = Path(__file__).parents[2] / "docs" / "issuers" / "postgres.md"
ISSUER = "leasehold_issuer"
_TABLES = """
CREATE SCHEMA shop;
CREATE TABLE shop.orders (id serial PRIMARY KEY, item text);
CREATE TABLE shop.customers (name text);
CREATE SCHEMA private;
CREATE TABLE private.payroll (name text);
CREATE ROLE shop_auditors;
CREATE TABLE shop.trail (entry text);
"""
_GROUP = "GRANT UPDATE ON shop.trail TO shop_auditors"
_CONNECT_TIMEOUT_S = 10
_REFUSED = (psycopg.errors.InsufficientPrivilege, psycopg.errors.InvalidPassword)


class DatabaseSession:
    """An open connection of a client."""

    def __init__(self, connection: psycopg.Connection) -> None:
        self.connection = connection

    def alive(self) -> bool:
        try:
            self.connection.execute("SELECT 1")
        except psycopg.OperationalError:
            return False
        return True

    def close(self) -> None:
        self.connection.close()


class DatabaseSubject:
    """A database ``orders`` with the administrative role of the page."""

    scope = frozenset(
        {
            "CONNECT",
            "USAGE ON SCHEMA shop",
            "SELECT ON ALL TABLES IN SCHEMA shop",
            "INSERT ON TABLE shop.orders",
            "USAGE ON ALL SEQUENCES IN SCHEMA shop",
            "MEMBER OF shop_auditors",
        }
    )
    within: Sequence[str] = (
        "SELECT * FROM shop.orders",
        "SELECT * FROM shop.customers",
        "INSERT INTO shop.orders (item) VALUES ('tea')",
        "UPDATE shop.trail SET entry = ''",
    )
    beyond: Sequence[str] = (
        "DELETE FROM shop.orders",
        "INSERT INTO shop.customers VALUES ('me')",
        "SELECT * FROM private.payroll",
        "CREATE TABLE shop.mine (a int)",
        "CREATE TABLE public.mine (a int)",
        "CREATE TEMPORARY TABLE mine (a int)",
        "CREATE ROLE lh_friend LOGIN",
        "ALTER ROLE CURRENT_USER VALID UNTIL 'infinity'",
        "ALTER ROLE CURRENT_USER CONNECTION LIMIT -1",
        f"SET ROLE {ISSUER}",
        "COPY shop.orders TO PROGRAM 'true'",
        "SELECT rolpassword FROM pg_authid",
        "ALTER TABLE shop.orders OWNER TO CURRENT_USER",
    )
    less = frozenset({"CONNECT", "USAGE ON SCHEMA shop", "SELECT ON ALL TABLES IN SCHEMA shop"})
    beyond_less = "INSERT INTO shop.orders (item) VALUES ('tea')"
    outside = frozenset({"SELECT ON TABLE private.payroll"})
    ends_by_itself = True
    hostile: Sequence[Mapping[str, object]] = (
        *(
            {"grants": [grant]}
            for grant in (
                "",
                "SELECT",
                "SELECT ON shop.orders; DROP TABLE shop.orders",
                "SELECT ON shop.orders TO PUBLIC --",
                "SELECT ON shop.orders WITH GRANT OPTION",
                'SELECT ON "shop"."orders"',
                "SELECT ON shop.'orders'",
                "SELECT ON shop.*",
                "SELECT ON ALL TABLES IN SCHEMA *",
                "SELECT ON orders",
                "SELECT ON other.shop.orders",
                "SELECT ON ALL TABLES IN SCHEMA pg_catalog",
                "SELECT ON information_schema.tables",
                "SELECT (item) ON shop.orders",
                "ALL PRIVILEGES ON shop.orders",
                "TRIGGER ON shop.orders",
                "CONNECT ON DATABASE other",
                "MEMBER OF pg_execute_server_program",
                "MEMBER OF shop_auditors, postgres",
                "SUPERUSER",
                "SELECT ON shop.orders\0",
                "SELECT ON shop.\u043erders",
            )
        ),
        {"grants": []},
        {"grants": ["CONNECT", "CONNECT"]},
        {"grants": "CONNECT"},
        *(
            {"server": server}
            for server in (
                "postgresql://issuer:password@db.example/orders",
                "postgresql://db.example/orders",
                "postgresql://issuer@/orders",
                "postgresql://issuer@db.example",
                "postgresql://issuer@db.example/orders?sslmode=disable",
                "postgresql://issuer@db.example,evil.example/orders",
                "postgresql://issuer@db.example:port/orders",
                "postgresql://issuer@db.example/orders%20sslmode=disable",
                "postgresql://issuer@%2Ftmp/orders",
                "http://issuer@db.example/orders",
            )
        ),
        {"connections": 0},
        {"connections": -1},
        {"ca": "ca.pem"},
        {"reassign_to": "x; DROP ROLE y"},
        {"reassign_to": "pg_monitor"},
        {"sslmode": "disable"},
    )

    def __init__(self, server: PostgresServer) -> None:
        self.server = server
        self.secret = Secret(secrets.token_urlsafe(24).encode())
        server.database("orders")
        with server.admin("orders") as admin:
            admin.execute(_TABLES)
            for block in re.findall(r"^```sql\n(.*?)^```", PAGE.read_text(), flags=re.DOTALL | re.MULTILINE):
                admin.execute(block)
            admin.execute(_GROUP)
            verifier = admin.pgconn.encrypt_password(self.secret.reveal(), ISSUER.encode(), b"scram-sha-256")
            password = sql.Literal(verifier.decode())
            admin.execute(sql.SQL("ALTER ROLE {} PASSWORD {}").format(sql.Identifier(ISSUER), password))
        self.admin = server.admin("orders")

    def close(self) -> None:
        self.admin.close()
        with self.server.admin() as admin:
            admin.execute("DROP DATABASE orders WITH (FORCE)")
            admin.execute(f"DROP ROLE {ISSUER}, shop_auditors")

    def parameters(self, address: tuple[str, int] | None = None) -> Mapping[str, object]:
        host, port = address or (ADDRESS, self.server.port)
        return {
            "server": f"postgresql://{ISSUER}@{host}:{port}/orders",
            "ca": str(self.server.ca),
            "grants": [grant.lower() for grant in sorted(self.scope)],
        }

    def issuer(self, parameters: Mapping[str, object], secret: Secret) -> Issuer:
        table = Parameters("postgres", parameters)
        issuer = BUILTIN["postgres"](table, secret)
        table.done()
        return issuer

    def attempt(self, material: Material, operation: str) -> None:
        session = self.open(material)
        try:
            session.connection.execute(operation.encode())
        except _REFUSED as e:
            raise Refused(str(e)) from e
        finally:
            session.close()

    def open(self, material: Material, database: str = "") -> DatabaseSession:
        fields = {name: value.reveal().decode() for name, value in material.items()}
        url = self.server.url(fields["username"], fields["password"], database or fields["database"])
        try:
            return DatabaseSession(psycopg.connect(url, autocommit=True, connect_timeout=_CONNECT_TIMEOUT_S))
        except psycopg.OperationalError as e:
            # The driver gives no code of what the server said while connecting; only a refusal is meant here.
            if "password authentication failed" in str(e) or "is not permitted to log in" in str(e):
                raise Refused(str(e)) from e
            raise

    def accounts(self) -> Collection[str]:
        return [name for (name,) in self.admin.execute("SELECT rolname FROM pg_roles").fetchall()]

    def plant(self, name: str) -> None:
        self.admin.execute(sql.SQL("CREATE ROLE {} NOLOGIN").format(sql.Identifier(name)))

    def remove(self, name: str) -> None:
        self.admin.execute(sql.SQL("DROP ROLE IF EXISTS {}").format(sql.Identifier(name)))

    def expires(self, name: str) -> float | None:
        query = "SELECT extract(epoch FROM rolvaliduntil)::float8 FROM pg_roles WHERE rolname = %s"
        return self.one(query, name)  # type: ignore[return-value]

    def sessions(self, name: str) -> int:
        return self.one("SELECT count(*) FROM pg_stat_activity WHERE usename = %s", name)  # type: ignore[return-value]

    def one(self, query: str, *parameters: object) -> object:
        """The first column of the first row."""
        row = self.admin.execute(query.encode(), parameters).fetchone()
        return row[0] if row else None
