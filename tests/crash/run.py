"""`make crash`: every point, every issuer with a real server, both ledgers; the table, and build/crash.json."""

from __future__ import annotations

import getpass
import json
import logging
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests"))

from contract.aws_subject import AwsSubject  # noqa: E402  # the path above comes first
from contract.mysql_subject import MariaSubject  # noqa: E402
from contract.oauth_subject import OauthSubject  # noqa: E402
from contract.postgres_subject import DatabaseSubject  # noqa: E402
from contract.rabbitmq_subject import RabbitSubject  # noqa: E402
from contract.redis_subject import RedisSubject  # noqa: E402
from contract.ssh_subject import SshSubject  # noqa: E402
from contract.subject import Subject  # noqa: E402
from crash.matrix import Case, between_answers, cases  # noqa: E402
from servers.mariadb import MariaServer  # noqa: E402
from servers.moto import MotoServer  # noqa: E402
from servers.oauth import OauthServer  # noqa: E402
from servers.postgres import PostgresServer  # noqa: E402
from servers.rabbitmq import RabbitServer  # noqa: E402
from servers.redis import RedisServer  # noqa: E402
from servers.sshd import SshServer  # noqa: E402

Open = Callable[[ExitStack, PostgresServer], Subject]


def _postgres(stack: ExitStack, server: PostgresServer) -> Subject:
    subject = DatabaseSubject(server)
    stack.callback(subject.close)
    return subject


def _mysql(stack: ExitStack, _server: PostgresServer) -> Subject:
    server = MariaServer()
    stack.callback(server.close)
    subject = MariaSubject(server)
    stack.callback(subject.close)
    return subject


def _redis(stack: ExitStack, _server: PostgresServer) -> Subject:
    server = RedisServer()
    stack.callback(server.close)
    subject = RedisSubject(server)
    stack.callback(subject.close)
    return subject


def _rabbitmq(stack: ExitStack, _server: PostgresServer) -> Subject:
    server = RabbitServer()
    stack.callback(server.close)
    subject = RabbitSubject(server)
    stack.callback(subject.close)
    return subject


def _ssh_ca(stack: ExitStack, _server: PostgresServer) -> Subject:
    me = getpass.getuser()
    server = SshServer({me: "deploy"})
    stack.callback(server.close)
    subject = SshSubject(server, me)
    stack.callback(subject.close)
    return subject


def _aws_sts(stack: ExitStack, _server: PostgresServer) -> Subject:
    server = MotoServer()
    stack.callback(server.close)
    return AwsSubject(server)


def _oauth2(stack: ExitStack, _server: PostgresServer) -> Subject:
    server = OauthServer()
    stack.callback(server.close)
    return OauthSubject(server)


SUBJECTS: dict[str, Open] = {
    "postgres": _postgres,
    "mysql": _mysql,
    "redis": _redis,
    "rabbitmq": _rabbitmq,
    "ssh-ca": _ssh_ca,
    "aws-sts": _aws_sts,
    "oauth2": _oauth2,
}
"""Those that have a real server here, or the nearest that there is: moto, and the server of Authlib's."""


_ON_FILES = ("ssh-ca",)
"""Nobody is asked for a certificate: there is no answer that could be lost."""
_ANSWERS_MAX = 64


def main() -> int:
    """All of it, or the kinds that are named."""
    logging.disable()  # of servers in this process, which tell of each connection that is lost
    chosen = {kind: SUBJECTS[kind] for kind in sys.argv[1:] or SUBJECTS}
    found: list[Case] = []
    with ExitStack() as stack:
        server = PostgresServer()
        stack.callback(server.close)
        ledgers = ("", server.database("ledger"))
        for kind, open_subject in chosen.items():
            subject = open_subject(stack, server)
            for ledger in ledgers:
                print(f"crash: {kind}, ledger on {'PostgreSQL' if ledger else 'SQLite'}", flush=True)
                found += told(cases(kind, subject, ledger))
            if kind not in _ON_FILES:
                print(f"crash: {kind}, an answer of the provider's lost, ledger on SQLite", flush=True)
                found += told(between_answers(kind, subject, _ANSWERS_MAX))
    sums = Counter({"cases": len(found), "unknown_alive": 0, "alive_after_sweep": 0})
    for case in found:
        sums["unknown_alive"] += case.unknown
        sums["alive_after_sweep"] += case.left
    (ROOT / "build").mkdir(exist_ok=True)
    (ROOT / "build" / "crash.json").write_text(json.dumps(dict(sums), indent=2) + "\n")
    print(", ".join(f"{name.replace('_', ' ')}: {number}" for name, number in sums.items()))
    return 1 if sums["unknown_alive"] or sums["alive_after_sweep"] else 0


def told(found: Iterator[Case]) -> Iterator[Case]:
    """Pass them on, and print each as a line of the table."""
    print(f"  {'killed at':15} {'alive':>6} {'unknown':>8} {'after the sweep':>16}")
    for case in found:
        more = "  ends by itself only" if case.lapsed else ""
        print(f"  {case.point:15} {case.alive:6} {case.unknown:8} {case.left:16}{more}", flush=True)
        yield case


if __name__ == "__main__":
    sys.exit(main())
