"""The issuer of Vault's dynamic credentials keeps the contract, before a stand-in: see ``tests/servers/vault.py``."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from contract.clauses import IssuerContract, fails
from contract.desk import Desk, Run
from contract.subject import Refused
from contract.vault_subject import ROLE, VaultSubject
from leasehold.broker.issuers.ports import Issued
from leasehold.broker.lease.machine import Revocability
from leasehold.core.errors import ConfigError
from leasehold.core.secret import Secret
from servers.ca import TestCa
from servers.standin import ADDRESS
from servers.vault import VaultStandIn


@pytest.fixture(scope="module")
def subject() -> Iterator[VaultSubject]:
    vault = VaultStandIn()
    yield VaultSubject(vault)
    vault.close()


@pytest.fixture(autouse=True)
def fresh(subject: VaultSubject) -> Iterator[None]:
    """As it was, and without what a test left."""
    yield
    vault = subject.vault
    vault.altered, vault.broken, vault.skew_s, vault.lazy = {}, frozenset(), 0.0, False
    vault.users.clear()
    vault.tokens = {text: token for text, token in vault.tokens.items() if text == subject.secret.reveal().decode()}


class TestVault(IssuerContract):
    """Its own tests follow the clauses."""

    revocability = Revocability.NEXT_USE
    chosen = False
    adopts = False
    divisible = False

    def test_a_server_with_another_certificate_gets_no_token(
        self, subject: VaultSubject, desk: Desk, run: Run, tmp_path: Path
    ) -> None:
        asked = len(subject.vault.asked)
        stranger = {**subject.parameters(), "ca": str(TestCa(tmp_path).path)}
        assert "certificate" in fails(run, subject.issuer(stranger, subject.secret).check(), subject.secret).message
        misnamed = {**subject.parameters(), "server": str(subject.parameters()["server"]).replace(ADDRESS, "localhost")}
        assert "certificate" in fails(run, subject.issuer(misnamed, subject.secret).check(), subject.secret).message
        assert len(subject.vault.asked) == asked
        run(desk.issuer.check())

    @pytest.mark.parametrize("key", ["server", "path"])
    def test_what_is_needed_has_to_be_there(self, subject: VaultSubject, key: str) -> None:
        parameters = {name: value for name, value in subject.parameters().items() if name != key}
        with pytest.raises(ConfigError, match=f"the key {key} is missing"):
            subject.issuer(parameters, subject.secret)

    def test_the_environment_is_not_asked(
        self, subject: VaultSubject, desk: Desk, run: Run, monkeypatch: pytest.MonkeyPatch, nobody: tuple[str, int]
    ) -> None:
        for name, value in {
            "HTTPS_PROXY": f"http://{nobody[0]}:{nobody[1]}",
            "ALL_PROXY": f"http://{nobody[0]}:{nobody[1]}",
            "REQUESTS_CA_BUNDLE": "/nonexistent",
            "VAULT_ADDR": f"https://{nobody[0]}:{nobody[1]}",
            "VAULT_TOKEN": "another",
            "VAULT_NAMESPACE": "another",
        }.items():
            monkeypatch.setenv(name, value)
        run(desk.issuer.check())
        assert not [asked for asked in subject.vault.asked if "x-vault-namespace" in asked.headers]

    def test_a_namespace_goes_with_each_request(self, subject: VaultSubject, run: Run) -> None:
        before = len(subject.vault.asked)
        run(subject.issuer({**subject.parameters(), "namespace": "teams/orders"}, subject.secret).check())
        sent = [asked.headers.get("x-vault-namespace") for asked in subject.vault.asked[before:]]
        assert sent and {*sent} == {"teams/orders"}

    def test_a_root_token_is_refused(self, subject: VaultSubject, run: Run) -> None:
        root = Secret(subject.vault.mint("root").encode())
        assert "root token" in fails(run, subject.issuer(subject.parameters(), root).check(), root).message

    def test_what_a_policy_lacks_is_refused(self, subject: VaultSubject, run: Run) -> None:
        rules = subject.vault.policies["leasehold-issuer"]
        for path in list(rules):
            without = {other: verbs for other, verbs in rules.items() if other != path}
            subject.vault.policies["less"] = without
            less = Secret(subject.vault.mint("less").encode())
            assert "403" in fails(run, subject.issuer(subject.parameters(), less).check(), less).message, path
            subject.vault.tokens.pop(less.reveal().decode())

    def test_the_issuers_own_token_reads_no_credential(self, subject: VaultSubject, desk: Desk) -> None:
        desk.issue(desk.order())
        own = subject.secret.reveal().decode()
        read = [asked for asked in subject.vault.asked if asked.path.startswith("/v1/database/")]
        assert read and not [asked for asked in read if asked.headers["x-vault-token"] == own]

    def test_the_child_can_read_one_path_and_is_not_given_out(self, subject: VaultSubject, desk: Desk) -> None:
        order = desk.order()
        issued = desk.issue(order)
        [(text, token)] = [(t, each) for t, each in subject.vault.tokens.items() if each.meta.get("leasehold")]
        assert token.policies == ("leasehold-orders",)
        assert {*issued.material} == {"username", "password"}
        assert issued.kept is not None
        assert text not in issued.kept.reveal().decode()

    def test_what_ends_sooner_at_the_engine_says_so(self, subject: VaultSubject, desk: Desk, run: Run) -> None:
        subject.vault.policies["leasehold-orders"]["database/creds/brief"] = frozenset({"read"})
        raw = subject.issuer({**subject.parameters(), "path": "database/creds/brief"}, subject.secret)
        order = desk.order(scope=raw.scope)
        assert order.expires - 500 < run(raw.issue(order)).expires + 20 < order.expires - 400

    def test_clocks_that_differ_are_no_hindrance(self, subject: VaultSubject, desk: Desk, run: Run) -> None:
        subject.vault.skew_s = -300.0
        order = desk.order()
        assert abs(desk.issue(order).expires - order.expires) < 10
        subject.vault.skew_s = 700.0
        assert "clock" in fails(run, desk.issuer.issue(desk.order()), subject.secret).message

    def test_what_has_no_lease_is_not_given(self, subject: VaultSubject, desk: Desk, run: Run) -> None:
        subject.vault.policies["leasehold-orders"]["secret/orders"] = frozenset({"read"})
        raw = subject.issuer({**subject.parameters(), "path": "secret/orders"}, subject.secret)
        before = sorted(subject.accounts())
        assert "no lease" in fails(run, raw.issue(desk.order(scope=raw.scope)), subject.secret).message
        assert sorted(subject.accounts()) == before

    @pytest.mark.parametrize(
        "altered", [{"data": {"username": "a"}}, {"data": {"username": "a", "password": 5}}, {"lease_duration": "1h"}]
    )
    def test_an_answer_that_lacks_something_leaves_nothing(
        self, subject: VaultSubject, desk: Desk, run: Run, altered: dict[str, object]
    ) -> None:
        before = sorted(subject.accounts())
        subject.vault.altered = altered
        fails(run, desk.issuer.issue(desk.order()), subject.secret)
        assert sorted(subject.accounts()) == before

    def test_a_path_that_the_child_may_not_read_leaves_nothing(
        self, subject: VaultSubject, desk: Desk, run: Run
    ) -> None:
        raw = subject.issuer({**subject.parameters(), "path": "database/creds/admin"}, subject.secret)
        before = sorted(subject.accounts())
        assert "403" in fails(run, raw.issue(desk.order(scope=raw.scope)), subject.secret).message
        assert sorted(subject.accounts()) == before

    def test_a_role_that_does_not_exist_is_an_error(self, subject: VaultSubject, run: Run) -> None:
        subject.vault.policies["leasehold-issuer"]["auth/token/create/other"] = frozenset({"update"})
        raw = subject.issuer({**subject.parameters(), "token_role": "other"}, subject.secret)
        assert "400" in fails(run, raw.check(), subject.secret).message

    def test_the_lease_is_seen_to_be_gone_though_tokens_are_lazy(self, subject: VaultSubject, desk: Desk) -> None:
        subject.vault.lazy = True
        order = desk.order()
        issued = desk.issue(order)
        assert desk.revoke(order.name) is True
        assert not subject.vault.users
        with pytest.raises(Refused):
            subject.attempt(issued.material, "SELECT")

    def test_after_a_crash_nothing_is_called_gone_that_vault_may_still_have(
        self, subject: VaultSubject, desk: Desk
    ) -> None:
        subject.vault.lazy = True
        order = desk.order()
        desk.issue(order)
        desk.forget(order.name)
        assert desk.revoke(order.name) is False
        assert subject.vault.users
        assert order.name not in subject.accounts()

    def test_what_is_still_there_is_no_success(self, subject: VaultSubject, desk: Desk, run: Run) -> None:
        order = desk.order()
        issued: Issued = desk.issue(order)
        assert issued.kept is not None
        accessor, lease = json.loads(issued.kept.reveal())
        subject.vault.broken = frozenset({"sys/leases/revoke"})
        assert "500" in fails(run, desk.issuer.revoke(order.name, issued.kept), subject.secret).message
        subject.vault.broken = frozenset({"auth/token/revoke-accessor"})
        fails(run, desk.issuer.revoke(order.name, issued.kept), subject.secret)
        subject.vault.broken = frozenset()
        # Another lease than that which is revoked: what is looked for is what was kept.
        assert [user.lease for user in subject.vault.users.values()] == []
        assert run(desk.issuer.revoke(order.name, Secret(json.dumps([accessor, lease]).encode()))) is True

    def test_tokens_of_another_role_are_not_ours(self, subject: VaultSubject, desk: Desk, run: Run) -> None:
        order = desk.order()
        subject.vault.mint("leasehold-orders", meta={"leasehold": order.name}, role="somebody")
        subject.vault.mint("leasehold-orders", meta={"leasehold": order.name})
        assert run(desk.issuer.find()) == frozenset()
        assert desk.revoke(order.name) is True
        assert [*subject.accounts()].count(order.name) == 2
        subject.remove(order.name)

    def test_many_tokens_are_looked_through(self, subject: VaultSubject, desk: Desk, run: Run) -> None:
        names = {f"lh_many{number}" for number in range(20)}
        for name in names:
            subject.vault.mint("leasehold-orders", meta={"leasehold": name}, role=ROLE)
            subject.vault.mint("other")
        assert run(desk.issuer.find()) == names

    def test_fields_are_named_as_is_configured(self, subject: VaultSubject, desk: Desk, run: Run) -> None:
        raw = subject.issuer({**subject.parameters(), "fields": ["token=password"]}, subject.secret)
        order = replace(desk.order(), scope=raw.scope)
        issued = run(raw.issue(order))
        assert {*issued.material} == {"token"}
        [user] = subject.vault.users.values()
        assert issued.material["token"] == Secret(user.password.encode())
