"""Fixtures with real parts, for every folder of tests. Nothing starts, or is imported, before a test asks."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

# Tests of the sandbox fork this process, in which a gRPC server of other tests may run: its handlers abort on that.
os.environ["GRPC_ENABLE_FORK_SUPPORT"] = "0"
# Who starts the tests may ignore or block signals, as nohup does; a command inherits that, and tests look at it.
for number in signal.valid_signals() - {signal.SIGPIPE, signal.SIGXFSZ}:  # those two Python itself ignores
    if signal.getsignal(number) == signal.SIG_IGN:
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
signal.pthread_sigmask(signal.SIG_SETMASK, ())

if TYPE_CHECKING:
    from servers.harness import Leasehold
    from servers.people import Person
    from servers.postgres import PostgresServer
    from servers.upstreams import Upstreams


@pytest.fixture(scope="session")
def upstreams() -> Iterator[Upstreams]:
    """The real servers; each starts when a test first uses it."""
    from servers.upstreams import Upstreams

    with Upstreams() as up:
        yield up


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    """The one PostgreSQL server of the session; a test makes a database of its own in it."""
    from servers.postgres import PostgresServer

    server = PostgresServer()
    yield server
    server.close()


@pytest.fixture(scope="session")
def ordinary_user() -> Iterator[Person]:
    """A user of this machine who is not root, for this session."""
    from servers.people import ordinary_user

    with ordinary_user() as person:
        yield person


@pytest.fixture(scope="module")
def leasehold(upstreams: Upstreams) -> Iterator[Leasehold]:
    """The product, run by root, with every credential of the upstreams. What it leaves behind is an error."""
    from servers.harness import Leasehold

    with Leasehold(upstreams) as harness:
        yield harness


@pytest.fixture(scope="module")
def leasehold_of_user(upstreams: Upstreams, ordinary_user: Person) -> Iterator[Leasehold]:
    """The same, run by an ordinary user."""
    from servers.harness import Leasehold

    with Leasehold(upstreams, person=ordinary_user) as harness:
        yield harness
