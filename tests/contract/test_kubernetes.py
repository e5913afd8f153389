"""The issuer of service account tokens keeps the contract, before a stand-in: see ``tests/servers/kubernetes.py``."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from contract.clauses import IssuerContract, fails
from contract.desk import LASTS_S, Desk, Run
from contract.kubernetes_subject import KubernetesSubject
from contract.subject import Refused
from leasehold.broker.issuers.kubernetes import LABEL, LASTS_S_MIN
from leasehold.broker.lease.machine import Revocability
from leasehold.core.errors import ConfigError
from leasehold.core.secret import Secret
from servers.ca import TestCa
from servers.kubernetes import NAMESPACE, KubernetesStandIn
from servers.standin import ADDRESS


@pytest.fixture(scope="module")
def subject() -> Iterator[KubernetesSubject]:
    kubernetes = KubernetesStandIn()
    yield KubernetesSubject(kubernetes)
    kubernetes.close()


@pytest.fixture(autouse=True)
def fresh(subject: KubernetesSubject) -> Iterator[None]:
    """As it was, and without what a test left."""
    yield
    subject.kubernetes.altered, subject.kubernetes.held, subject.kubernetes.skew_s = {}, False, 0.0
    subject.kubernetes.objects.clear()


class TestKubernetes(IssuerContract):
    """Its own tests follow the clauses."""

    revocability = Revocability.NEXT_USE
    chosen = False
    outlasts_s = LASTS_S_MIN

    def test_a_server_with_another_certificate_gets_no_token(
        self, subject: KubernetesSubject, desk: Desk, run: Run, tmp_path: Path
    ) -> None:
        asked = len(subject.kubernetes.asked)
        stranger = {**subject.parameters(), "ca": str(TestCa(tmp_path).path)}
        assert "certificate" in fails(run, subject.issuer(stranger, subject.secret).check(), subject.secret).message
        misnamed = {**subject.parameters(), "server": str(subject.parameters()["server"]).replace(ADDRESS, "localhost")}
        assert "certificate" in fails(run, subject.issuer(misnamed, subject.secret).check(), subject.secret).message
        assert len(subject.kubernetes.asked) == asked
        run(desk.issuer.check())

    @pytest.mark.parametrize("key", ["server", "namespace", "service_account", "audiences"])
    def test_what_is_needed_has_to_be_there(self, subject: KubernetesSubject, key: str) -> None:
        parameters = {name: value for name, value in subject.parameters().items() if name != key}
        with pytest.raises(ConfigError, match=f"the key {key} is missing"):
            subject.issuer(parameters, subject.secret)

    def test_what_the_role_lacks_is_refused(self, subject: KubernetesSubject, run: Run) -> None:
        assert len(subject.rules) == 5
        for rule in subject.rules:
            subject.kubernetes.admins["less"] = subject.rules - {rule}
            less = Secret(b"less")
            assert "403" in fails(run, subject.issuer(subject.parameters(), less).check()).message, rule
            subject.kubernetes.objects.clear()
        subject.kubernetes.admins["less"] = subject.rules
        run(subject.issuer(subject.parameters(), Secret(b"less")).check())

    def test_an_administrator_of_the_cluster_is_refused(self, subject: KubernetesSubject, run: Run) -> None:
        subject.kubernetes.admins["more"] = subject.rules | {"* *"}
        assert "may do more" in fails(run, subject.issuer(subject.parameters(), Secret(b"more")).check()).message

    @pytest.mark.parametrize(("key", "status"), [("namespace", "403"), ("service_account", "403")])
    def test_what_is_somewhere_else_is_refused(
        self, subject: KubernetesSubject, run: Run, key: str, status: str
    ) -> None:
        issuer = subject.issuer({**subject.parameters(), key: "elsewhere"}, subject.secret)
        assert status in fails(run, issuer.check(), subject.secret).message

    def test_what_the_token_says_is_what_counts(self, subject: KubernetesSubject, desk: Desk, run: Run) -> None:
        """Whatever the answer says of it; what is for more is taken back with its object."""
        for altered, said in (
            (
                {"aud": [*sorted(subject.scope), "https://elsewhere.example"]},
                "more than asked: https://elsewhere.example",
            ),
            ({"aud": "https://elsewhere.example"}, "more than asked: https://elsewhere.example"),
            ({"aud": None}, "more than asked: None"),
            ({"sub": f"system:serviceaccount:{NAMESPACE}:admin"}, "more than asked: system:serviceaccount"),
            ({"exp": 32_503_680_000}, "s more than asked"),
            ({"exp": "never"}, "no answer to that"),
            ({"sub": 5}, "no answer to that"),
            ({"kubernetes.io": {}}, "not bound"),
            ({"kubernetes.io": {"secret": {"name": "other", "uid": "other"}}}, "not bound"),
        ):
            subject.kubernetes.altered = altered
            assert said in fails(run, desk.issuer.issue(desk.order()), subject.secret).message
            assert list(subject.accounts()) == []

    def test_a_short_order_is_outlasted_and_ended(self, subject: KubernetesSubject, desk: Desk) -> None:
        order = desk.order()
        short = desk.order(expires=order.expires - LASTS_S + 30)
        issued = desk.issue(short)
        assert 0 < issued.expires - short.expires <= LASTS_S_MIN
        subject.attempt(issued.material, subject.within[0])
        desk.revoke(short.name)
        with pytest.raises(Refused):
            subject.attempt(issued.material, subject.within[0])

    def test_a_long_order_is_never_of_the_length_that_means_a_year(
        self, subject: KubernetesSubject, desk: Desk
    ) -> None:
        order = desk.order()
        for more in (3607, 3609, 7200):
            desk.issue(desk.order(expires=order.expires - LASTS_S + more))
        asked = [each.body["spec"] for each in subject.kubernetes.asked if each.path.endswith("/token")]
        assert max(spec["expirationSeconds"] for spec in asked) == 3600

    def test_clocks_that_differ_are_no_hindrance(self, subject: KubernetesSubject, desk: Desk) -> None:
        for skew_s in (-300.0, 300.0):
            subject.kubernetes.skew_s = skew_s
            long = desk.order()
            long = desk.order(expires=long.expires + 1800)
            assert abs(desk.issue(long).expires - long.expires) < 10

    def test_a_strangers_object_of_our_name_is_left_alone(
        self, subject: KubernetesSubject, desk: Desk, run: Run
    ) -> None:
        order = desk.order()
        subject.kubernetes.make(order.name.replace("_", "-"), {"app": "theirs"})
        for call in (desk.issuer.issue(order), desk.issuer.revoke(order.name)):
            assert "not ours" in fails(run, call, subject.secret).message
        assert len(subject.kubernetes.objects) == 1

    def test_a_label_without_the_name_is_none_of_ours(self, subject: KubernetesSubject, desk: Desk, run: Run) -> None:
        subject.kubernetes.make("something", {LABEL: "lh_a"})
        subject.kubernetes.make("lh-b", {LABEL: "lh_c"})
        assert run(desk.issuer.find()) == frozenset()

    def test_many_are_found_page_by_page(self, subject: KubernetesSubject, desk: Desk, run: Run) -> None:
        names = {f"lh_many_{number}" for number in range(10)}
        for name in names:
            subject.plant(name)
        assert run(desk.issuer.find()) == names

    def test_what_a_finalizer_keeps_is_not_called_gone(self, subject: KubernetesSubject, desk: Desk, run: Run) -> None:
        order = desk.order()
        desk.issue(order)
        subject.kubernetes.held = True
        assert "still there" in fails(run, desk.issuer.revoke(order.name), subject.secret).message
        subject.kubernetes.held = False
        assert desk.revoke(order.name)

    def test_the_object_holds_nothing(self, subject: KubernetesSubject, desk: Desk) -> None:
        desk.issue(desk.order())
        made = [each for each in subject.kubernetes.asked if each.method == "POST" and each.path.endswith("/secrets")]
        assert not {"data", "stringData"} & {*made[-1].body}
        assert made[-1].body["immutable"] is True

    def test_a_secret_that_is_no_text_is_refused(self, subject: KubernetesSubject, run: Run) -> None:
        assert (
            "refuse" in fails(run, subject.issuer(subject.parameters(), Secret("t\u00f6ken".encode())).check()).message
        )
