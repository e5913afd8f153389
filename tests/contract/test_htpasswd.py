"""The example of an issuer that a package brings keeps the contract, found by its entry point."""

from __future__ import annotations

import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from contract.clauses import IssuerContract, fails
from contract.desk import Desk, Run
from contract.htpasswd_subject import PERSON, REALMS, HtpasswdSubject
from leasehold.broker.issuers.builtin import make
from leasehold.broker.issuers.checked import CheckedIssuer
from leasehold.broker.lease.machine import Revocability
from leasehold.core.errors import ConfigError
from servers.realms import RealmServer


@pytest.fixture(scope="module")
def subject(example_issuer: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[HtpasswdSubject]:
    server = RealmServer(REALMS)
    made = HtpasswdSubject(server, tmp_path_factory.mktemp("subject"))
    yield made
    made.close()
    server.close()


class TestHtpasswd(IssuerContract):
    """Its own tests follow the clauses."""

    revocability = Revocability.NEXT_USE

    def test_the_product_finds_it_behind_its_door(self, subject: HtpasswdSubject) -> None:
        issuer = make("htpasswd", subject.parameters(), subject.secret)
        assert isinstance(issuer, CheckedIssuer)
        assert (issuer.kind, issuer.revocability, issuer.scope) == ("htpasswd", Revocability.NEXT_USE, subject.scope)

    @pytest.mark.parametrize("key", ["folder", "realms"])
    def test_what_is_needed_has_to_be_there(self, subject: HtpasswdSubject, key: str) -> None:
        parameters = {name: value for name, value in subject.parameters().items() if name != key}
        with pytest.raises(ConfigError, match=f"the key {key} is missing"):
            make("htpasswd", parameters, subject.secret)

    def test_what_people_wrote_stays_as_it_is(self, subject: HtpasswdSubject, desk: Desk) -> None:
        file = subject.server.passwords / "wiki"
        before = (file.read_text(), stat.S_IMODE(file.stat().st_mode))
        assert PERSON in before[0]
        order = desk.order()
        desk.issue(order)
        assert file.read_text() != before[0]
        desk.revoke(order.name)
        assert (file.read_text(), stat.S_IMODE(file.stat().st_mode)) == before

    def test_the_password_is_not_in_the_file(self, subject: HtpasswdSubject, desk: Desk) -> None:
        order = desk.order()
        desk.issue(order)
        assert order.secret.reveal() not in b"".join(path.read_bytes() for path in subject.server.passwords.iterdir())

    def test_a_file_that_is_not_there_is_an_error(self, subject: HtpasswdSubject, desk: Desk, run: Run) -> None:
        issuer = subject.issuer({**subject.parameters(), "realms": ["wiki", "gone"]}, subject.secret)
        order = desk.order(scope=frozenset({"wiki"}))
        for call in (issuer.issue(order), issuer.revoke(order.name), issuer.find(), issuer.check()):
            assert "FileNotFoundError" in fails(run, call, subject.secret).message
        assert order.name not in subject.accounts()

    def test_what_a_crash_left_of_a_write_is_no_hindrance(self, subject: HtpasswdSubject, desk: Desk) -> None:
        left: Path = subject.server.passwords / ".wiki.new"
        left.write_text("lh_half")
        order = desk.order()
        subject.attempt(desk.issue(order).material, "wiki")
        assert not left.exists()
