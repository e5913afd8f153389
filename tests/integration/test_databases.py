"""Databases from a compartment: real clients connect with no password, as a role that was made for their task."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from contract.mysql_subject import MariaSubject
from contract.postgres_subject import DatabaseSubject
from contract.redis_subject import RedisSubject
from integration.databases import Database, configure
from servers import mariadb, postgres, redis
from servers.harness import Leasehold
from servers.mariadb import MariaServer
from servers.redis import RedisServer

if TYPE_CHECKING:
    from servers.people import Person
    from servers.postgres import PostgresServer
    from servers.upstreams import Upstreams

_PYTHON = sys.executable


@pytest.fixture(scope="module")
def orders(postgres_server: PostgresServer) -> Iterator[Database]:
    subject = DatabaseSubject(postgres_server)
    server = subject.server
    yield Database(
        name="orders",
        protocol="postgres",
        host=postgres.HOST,
        port=server.port,
        subject=subject,
        authority=server.ca,
    )
    subject.close()


@pytest.fixture(scope="module")
def cache() -> Iterator[Database]:
    server = RedisServer()
    subject = RedisSubject(server)
    yield Database(
        name="cache", protocol="redis", host=redis.HOST, port=server.port, subject=subject, authority=server.ca
    )
    subject.close()
    server.close()


@pytest.fixture(scope="module")
def shop() -> Iterator[Database]:
    server = MariaServer()
    subject = MariaSubject(server)
    yield Database(
        name="shop", protocol="mysql", host=mariadb.HOST, port=server.port, subject=subject, authority=server.ca
    )
    subject.close()
    server.close()


@pytest.fixture(scope="module")
def lh(
    upstreams: Upstreams, orders: Database, cache: Database, shop: Database, person: Person | None
) -> Iterator[Leasehold]:
    with Leasehold(upstreams, "api", person=person) as harness:
        configure(harness, upstreams, orders, cache, shop)
        yield harness


def psql(lh: Leasehold, orders: Database, *statements: str, options: str = "") -> subprocess.CompletedProcess[str]:
    where = f"host={orders.host} port={orders.port} dbname=orders {options}"
    commands = (part for statement in statements for part in ("-c", statement))
    return lh.run("psql", "-XAtq", "-v", "ON_ERROR_STOP=1", "-d", where, *commands)


def redis_cli(lh: Leasehold, cache: Database, *command: str) -> subprocess.CompletedProcess[str]:
    return lh.run("redis-cli", "-h", cache.host, "-p", str(cache.port), *command)


def records(lh: Leasehold, task: str) -> list[dict[str, Any]]:
    answer = lh.cli("audit", "query", "--task", task, "--json")
    return [json.loads(line) for line in answer.stdout.splitlines()]


def where(orders: Database) -> str:
    return f"host={orders.host} port={orders.port} dbname=orders"


def task_of(done: subprocess.CompletedProcess[str]) -> str:
    return done.stderr.split("task ", 1)[1].split(" ", 1)[0]


def test_the_operator_can_ask_whether_it_would_work(lh: Leasehold) -> None:
    done = lh.cli("credential", "check")
    assert done.returncode == 0, done.stdout + done.stderr
    wrong = lh.config.parent / "cache.secret"
    right = wrong.read_bytes()
    wrong.write_bytes(b"something else")
    try:
        done = lh.cli("credential", "check")
        assert done.returncode != 0 and "cache" in done.stdout + done.stderr
    finally:
        wrong.write_bytes(right)


class TestPostgres:
    """psql and psycopg, as they are."""

    def test_a_client_without_a_password_is_the_tasks_own_role(self, lh: Leasehold, orders: Database) -> None:
        done = psql(lh, orders, "SELECT session_user", "SELECT count(*) FROM shop.orders")
        assert done.returncode == 0, done.stderr
        role, count = done.stdout.split()
        assert role.startswith(f"lh_{task_of(done)}_") and count.isdigit()
        assert role not in orders.subject.accounts()
        assert "orders   1 request" in done.stderr and "revoked at the provider" in done.stderr
        events = [record["event"] for record in records(lh, task_of(done))]
        assert events[:3] == ["task:opened", "credential:first-use", "lease:issued"]
        assert sorted(events[3:]) == ["credential:used", "lease:revoked", "task:closed"]

    @pytest.mark.parametrize("options", ["sslmode=disable", "sslmode=require", "user=root password=x", "user=postgres"])
    def test_whatever_the_client_says_of_tls_and_password(self, lh: Leasehold, orders: Database, options: str) -> None:
        done = psql(lh, orders, "SELECT session_user", options=options)
        assert done.returncode == 0, done.stderr
        assert done.stdout.startswith("lh_")

    def test_a_client_that_verifies_the_server_knows_it(self, lh: Leasehold, orders: Database) -> None:
        where = f"host={orders.host} port={orders.port} dbname=orders sslmode=verify-full sslrootcert=system"
        script = f"import psycopg; print(psycopg.connect('{where}').execute('SELECT session_user').fetchone()[0])"
        done = lh.run(_PYTHON, "-c", script)
        assert done.returncode == 0, done.stderr
        assert done.stdout.startswith("lh_")

    def test_what_was_not_granted_is_refused_by_the_database(self, lh: Leasehold, orders: Database) -> None:
        done = psql(lh, orders, "SELECT * FROM private.payroll")
        assert done.returncode != 0 and "permission denied" in done.stderr

    def test_a_driver_works_with_many_connections_and_one_role(self, lh: Leasehold, orders: Database) -> None:
        script = (
            "import psycopg, concurrent.futures as f\n"
            "def who(_):\n"
            f"    with psycopg.connect(host='{orders.host}', port={orders.port}, dbname='orders', user='me') as c:\n"
            "        return c.execute('SELECT session_user').fetchone()[0]\n"
            "with f.ThreadPoolExecutor(8) as pool: print(*set(pool.map(who, range(8))))\n"
        )
        done = lh.run(_PYTHON, "-c", script)
        assert done.returncode == 0, done.stderr
        assert len(done.stdout.split()) == 1 and done.stdout.startswith("lh_")
        assert "orders   8 requests" in done.stderr

    @pytest.mark.parametrize("user", ["pgbouncer", "postgres", "root"])
    def test_the_poolers_console_is_closed(self, lh: Leasehold, orders: Database, user: str) -> None:
        """It would show the password, and it lets in whoever has the pooler's own user."""
        where = f"host={orders.host} port={orders.port} dbname=pgbouncer user={user}"
        for command in ("SHOW FDS", "SHOW CONFIG", "SHOW DATABASES"):
            done = lh.run("psql", "-XAtq", "-d", where, "-c", command)
            assert done.returncode != 0, done.stdout
            assert "there is no such database" in done.stderr

    def test_a_name_that_is_no_database_of_the_task_is_not_there(self, lh: Leasehold, orders: Database) -> None:
        done = lh.run("psql", "-XAtq", "-d", f"host=127.0.0.1 port={orders.port} dbname=orders", "-c", "SELECT 1")
        assert done.returncode != 0 and "refused" in done.stderr


class TestRedis:
    """redis-cli and redis-py, as they are."""

    def test_a_client_without_a_password_is_the_tasks_own_user(self, lh: Leasehold, cache: Database) -> None:
        done = redis_cli(lh, cache, "SET", "orders:1", "tea")
        assert (done.returncode, done.stdout.strip()) == (0, "OK"), done.stderr
        assert "cache    1 request" in done.stderr and "revoked at the provider" in done.stderr
        assert not [name for name in cache.subject.accounts() if name.startswith("lh_")]

    @pytest.mark.parametrize("word", [("-a", "x"), ("--user", "root", "--pass", "x"), ("--tls",)], ids="-".join)
    def test_whatever_the_client_says_of_tls_and_password(
        self, lh: Leasehold, cache: Database, word: tuple[str, ...]
    ) -> None:
        done = redis_cli(lh, cache, *word, "SET", "orders:1", "tea")
        assert (done.returncode, done.stdout.strip()) == (0, "OK"), done.stderr

    def test_what_was_not_granted_is_refused_by_the_server(self, lh: Leasehold, cache: Database) -> None:
        done = redis_cli(lh, cache, "GET", "customers:1")
        assert "NOPERM" in done.stdout + done.stderr

    def test_a_driver_works(self, lh: Leasehold, cache: Database) -> None:
        script = (
            f"import redis; r = redis.Redis(host='{cache.host}', port={cache.port}, password='any')\n"
            "r.set('orders:2', 'x' * 100000); print(len(r.get('orders:2')))\n"
            "r.delete('orders:n'); p = r.pipeline(transaction=False)\n"
            "for _ in range(50): p.incr('orders:n')\n"
            "print(p.execute()[-1])\n"
        )
        done = lh.run(_PYTHON, "-c", script)
        assert (done.returncode, done.stdout.split()) == (0, ["100000", "50"]), done.stderr


class TestMysql:
    """mysql and PyMySQL, as they are."""

    @pytest.mark.parametrize("word", [(), ("-u", "root", "-px"), ("--ssl",)], ids="-".join)
    def test_whatever_the_client_says_it_is_the_tasks_own_user(
        self, lh: Leasehold, shop: Database, word: tuple[str, ...]
    ) -> None:
        where = ("-h", shop.host, "-P", str(shop.port), *word, "shop_eu")
        done = lh.run("mysql", *where, "-BNe", "SELECT CURRENT_USER(), COUNT(*) FROM orders")
        assert done.returncode == 0, done.stderr
        assert done.stdout.startswith(f"lh_{task_of(done)}_")
        assert "shop     1 request" in done.stderr and "revoked at the provider" in done.stderr
        assert not [name for name in shop.subject.accounts() if name.startswith("lh_")]

    def test_what_was_not_granted_is_refused_by_the_server(self, lh: Leasehold, shop: Database) -> None:
        done = lh.run("mysql", "-h", shop.host, "-P", str(shop.port), "-BNe", "SELECT * FROM mysql.user")
        assert done.returncode != 0 and "denied" in done.stderr

    @pytest.mark.parametrize("how", ["", "password='any'", "ssl_ca='/etc/ssl/certs/ca-certificates.crt'"])
    def test_a_driver_works(self, lh: Leasehold, shop: Database, how: str) -> None:
        script = (
            "import pymysql\n"
            f"c = pymysql.connect(host='{shop.host}', port={shop.port}, user='me', database='shop_eu', {how})\n"
            "k = c.cursor(); k.execute('SELECT REPEAT(%s, 3000000)', 'x'); print(len(k.fetchone()[0]))\n"
        )
        done = lh.run(_PYTHON, "-c", script)
        assert (done.returncode, done.stdout.strip()) == (0, "3000000"), done.stderr


class TestEnd:
    """What a client sees when there is no credential, or none any more."""

    @pytest.fixture
    def alone(self, upstreams: Upstreams) -> Iterator[Leasehold]:
        with Leasehold(upstreams, "api") as harness:
            yield harness

    def commands(self, orders: Database, cache: Database, shop: Database) -> dict[str, tuple[str, str]]:
        """For each protocol: one that does not end by itself, and a short one."""
        psql = f"psql -XAtq -d 'host={orders.host} port={orders.port} dbname=orders' -c "
        redis = f"redis-cli -h {cache.host} -p {cache.port} "
        mysql = f"mysql -h {shop.host} -P {shop.port} -BN shop_eu -e "
        return {
            "orders": (psql + "'SELECT pg_sleep(60)'", psql + "'SELECT 1'"),
            "cache": (redis + "BRPOP orders:none 60", redis + "GET orders:1"),
            "shop": (mysql + "'SELECT SLEEP(60)'", mysql + "'SELECT 1'"),
        }

    @pytest.mark.parametrize("name", ["orders", "cache", "shop"])
    def test_open_connections_are_cut_and_new_ones_are_told_why(
        self, alone: Leasehold, upstreams: Upstreams, orders: Database, cache: Database, shop: Database, name: str
    ) -> None:
        each = {"orders": orders, "cache": cache, "shop": shop}[name]
        configure(alone, upstreams, replace(each, max_ttl="3s"))
        long, short = self.commands(orders, cache, shop)[name]
        until_ended = f'timeout 20 sh -c "until ({short} 2>&1) | grep -q access-ended; do :; done"'
        script = f"{short} && ! {long} && echo cut; {until_ended} && echo told"
        done = alone.run("sh", "-c", script, mixed=True)
        assert "told" in done.stdout, done.stdout
        assert name == "cache" or "cut" in done.stdout, done.stdout  # redis-cli calls a lost connection no failure
        assert not [account for account in each.subject.accounts() if account.startswith("lh_")]

    @pytest.mark.parametrize("name", ["orders", "cache", "shop"])
    def test_a_provider_that_refuses_is_an_error_in_the_clients_own_protocol(
        self, alone: Leasehold, upstreams: Upstreams, orders: Database, cache: Database, shop: Database, name: str
    ) -> None:
        each = {"orders": orders, "cache": cache, "shop": shop}[name]
        configure(alone, upstreams, each)
        secret = alone.config.parent / f"{name}.secret"
        right = secret.read_bytes()
        secret.write_bytes(b"wrong")
        _, short = self.commands(orders, cache, shop)[name]
        done = alone.run("sh", "-c", f"{short}; true", mixed=True)
        assert f"leasehold: issuer({each.protocol})" in done.stdout, done.stdout
        secret.write_bytes(right)
        done = alone.run("sh", "-c", short, mixed=True)
        assert done.returncode == 0, done.stdout


class TestExposed:
    """What a tool that cannot do otherwise gets in its environment, and what becomes of it."""

    def test_it_is_a_credential_of_its_own_and_is_taken_back(
        self, upstreams: Upstreams, orders: Database, person: Person | None
    ) -> None:
        with Leasehold(upstreams, "api", person=person) as lh:
            configure(lh, upstreams, orders)
            config = lh.config.read_text()
            assert lh.run("true", options=["--expose", "orders"]).returncode == 125, "nobody has allowed it"
            expose = 'expose = { TOOL_USER = "username", TOOL_PASSWORD = "password" }\nmax_ttl'
            lh.config.write_text(config.replace("max_ttl", expose))
            script = f"echo $TOOL_USER $TOOL_PASSWORD; psql -XAtq -d '{where(orders)}' -c 'SELECT session_user'"
            done = lh.run("sh", "-c", script, options=["--expose", "orders"])
            assert done.returncode == 0, done.stderr
            user, password, other = done.stdout.split()
            assert user.startswith("lh_") and other.startswith("lh_") and user != other
            assert len(password) >= 32
            assert "secrets that entered the compartment: 1 (orders, as asked for)" in done.stderr
            assert not [name for name in orders.subject.accounts() if name.startswith("lh_")]
            events = [record["event"] for record in records(lh, task_of(done))]
            assert events.count("credential:exposed") == 1 and events.count("lease:revoked") == 2
            in_file = 'expose = { TOOL_PASSWORD_FILE = "file:password" }\nmax_ttl'
            lh.config.write_text(config.replace("max_ttl", in_file))
            script = "stat -c '%a %n' $TOOL_PASSWORD_FILE; cat $TOOL_PASSWORD_FILE; echo; env"
            done = lh.run("sh", "-c", script, options=["--expose", "orders"])
            mode, path, password = done.stdout.split()[:3]
            assert (mode, path) == ("400", "/run/leasehold/exposed/TOOL_PASSWORD_FILE")
            assert len(password) >= 32 and done.stdout.count(password) == 1, "in the file, and in no variable"
            plain = lh.run("sh", "-c", "echo [$TOOL_PASSWORD]; ls /run/leasehold/exposed")
            assert plain.stdout.strip() == "[]" and "entered the compartment: 0" in plain.stderr
