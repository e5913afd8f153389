"""The issuer of SSH certificates keeps the contract, on a host that trusts its authority."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from cryptography.hazmat.primitives.serialization import SSHCertificate, load_ssh_public_identity

from contract.clauses import IssuerContract, fails
from contract.desk import Desk, Run
from contract.ssh_subject import SshSubject
from contract.subject import Refused
from leasehold.broker.issuers.ssh_ca import serial
from leasehold.broker.lease.machine import Revocability
from leasehold.core.secret import Secret
from servers.sshd import SshServer

if TYPE_CHECKING:
    from servers.people import Person


@pytest.fixture(scope="module")
def subject(ordinary_user: Person) -> Iterator[SshSubject]:
    server = SshServer({ordinary_user.name: "deploy", "root": "audit"})
    made = SshSubject(server, ordinary_user.name)
    yield made
    made.close()
    server.close()


def certificate(issued: object) -> SSHCertificate:
    found = load_ssh_public_identity(issued.material["certificate"].reveal())  # type: ignore[attr-defined]
    assert isinstance(found, SSHCertificate)
    return found


class TestSshCa(IssuerContract):
    """Its own tests follow the clauses."""

    revocability = Revocability.NEXT_USE
    named = False
    chosen = False
    cuts = False
    nameable = True

    def test_the_certificate_says_whose_it_is_and_when_it_ends(self, subject: SshSubject, desk: Desk) -> None:
        order = desk.order()
        made = certificate(desk.issue(order))
        assert (made.key_id, made.serial) == (order.name.encode(), serial(order.name))
        assert order.expires - 1 < made.valid_before <= order.expires
        assert made.critical_options == {} and list(made.extensions) == [b"permit-pty"]

    def test_a_command_and_networks_bind_every_certificate(self, subject: SshSubject, desk: Desk, run: Run) -> None:
        bound = {**subject.parameters(), "command": "echo bound", "sources": ["127.0.0.0/8"]}
        issued = run(subject.issuer(bound, subject.secret).issue(desk.order()))
        words = [subject.within[0].split(" ")[0], "echo free"]
        done = subprocess.run(subject.command(issued.material, words), capture_output=True, text=True, timeout=30)
        assert done.stdout == "bound\n"
        elsewhere = {**bound, "sources": ["192.0.2.0/24"]}
        issued = run(subject.issuer(elsewhere, subject.secret).issue(desk.order()))
        with pytest.raises(Refused):
            subject.attempt(issued.material, subject.within[0])

    def test_a_name_that_was_revoked_is_never_issued(self, subject: SshSubject, desk: Desk, run: Run) -> None:
        """A sweep may have come before a slow creation: what it then made would be refused by the host in any case."""
        order = desk.order()
        desk.revoke(order.name)
        assert "revoked before" in fails(run, desk.issuer.issue(order), order.secret).message

    def test_without_a_list_it_can_only_expire(self, subject: SshSubject, desk: Desk, run: Run) -> None:
        parameters = {"grants": subject.parameters()["grants"]}
        issuer = subject.issuer(parameters, subject.secret)
        assert issuer.revocability is Revocability.TTL_ONLY
        order = desk.order()
        issued = run(issuer.issue(order))
        assert run(issuer.revoke(order.name)) is False
        subject.attempt(issued.material, subject.within[0])

    def test_another_authority_lets_nobody_in(self, subject: SshSubject, desk: Desk, run: Run) -> None:
        other = Secret((subject.server.folder / "host").read_bytes())
        issuer = subject.issuer(subject.parameters(), other)
        issued = run(issuer.issue(desk.order()))
        with pytest.raises(Refused):
            subject.attempt(issued.material, subject.within[0])

    def test_a_list_behind_a_link_is_the_one_that_is_changed(
        self, subject: SshSubject, desk: Desk, run: Run, tmp_path: Path
    ) -> None:
        link = tmp_path / "revoked"
        link.symlink_to(subject.server.revoked)
        issuer = subject.issuer({**subject.parameters(), "krl": str(link)}, subject.secret)
        order = desk.order()
        issued = run(issuer.issue(order))
        subject.attempt(issued.material, subject.within[0])
        assert run(issuer.revoke(order.name)) and link.is_symlink()
        with pytest.raises(Refused):
            subject.attempt(issued.material, subject.within[0])
