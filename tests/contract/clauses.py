"""The contract that every issuer keeps, against its real provider. Each issuer's module has a class of these tests.

::

    @pytest.fixture(scope="module")
    def subject(…) -> Iterator[Subject]: …

    class TestPostgres(IssuerContract): …

What providers do differently is said by the attributes of the class, each of which a clause holds against the issuer.

The clause "never wider than asked", which a real provider does not break, is tried with a lying issuer in
``tests/unit/broker/issuers/test_checked.py``.
"""

from __future__ import annotations

from collections.abc import Awaitable
from dataclasses import replace
from typing import Any

import pytest

from contract.desk import LIMIT_S, Desk, Run
from contract.subject import Material, Refused, Subject
from leasehold.broker.issuers.checked import CheckedIssuer
from leasehold.broker.issuers.ports import NAME_PREFIX
from leasehold.broker.lease.machine import Revocability
from leasehold.core.errors import ConfigError, IssuerError
from leasehold.core.secret import Secret

FOREIGN = ("lhx_stranger", "my_lh_account", "LH_SHOUTED")
HOSTILE_NAMES = (
    "",
    "postgres",
    NAME_PREFIX,
    f"{NAME_PREFIX}{'a' * 40}",
    f"{NAME_PREFIX}UPPER",
    f"{NAME_PREFIX}a b",
    f"{NAME_PREFIX}a*",
    f"{NAME_PREFIX}%",
    f"{NAME_PREFIX}a\n",
    f"{NAME_PREFIX}a\0",
    f"{NAME_PREFIX}a/../b",
    f'{NAME_PREFIX}a\'; DROP ROLE "x"; --',
)


def said(error: BaseException | None) -> str:
    """Everything that an exception and those behind it would show."""
    if error is None:
        return ""
    own = f"{error} {error!r} {error.args} {getattr(error, 'hint', '')} {vars(error)}"
    return f"{own} {said(error.__cause__)} {said(error.__context__)}"


def fails(run: Run, call: Awaitable[Any], *values: Secret) -> IssuerError:
    """It is an ``IssuerError`` that helps, and tells none of the secret values."""
    with pytest.raises(IssuerError) as caught:
        run(call)
    error = caught.value
    assert error.hint
    assert not [value for value in values if value.reveal().decode() in said(error)]
    return error


class IssuerContract:
    """The clauses.

    ``revocability``: what the issuer states; with ``next-use``, connections may stay open and be refused.
    ``named``: the provider knows a credential by its name. Where it does not, revoking needs what the issuer kept, and
    ``Subject.accounts`` tells credentials apart in some other way. ``chosen``: the secret is the order's, so that
    issuing again gives the same. ``adopts``: issuing again takes what is there; where it does not, the name finds all
    that was made under it. ``divisible``: an order can be for a part of the scope. ``outlasts_s``: how much longer than
    ordered it lasts at most where nobody ends it. ``cuts``: revoking ends what is open; where it does not, only the way
    to the provider does. ``nameable``: whoever has the name can revoke it, whether or not the provider knows it.
    ``asks``: somebody has to be asked for a credential; where nobody is, nobody being there changes nothing.
    """

    revocability = Revocability.NOW
    named = True
    chosen = True
    adopts = True
    divisible = True
    outlasts_s = 0.0
    cuts = True
    nameable = False
    asks = True

    @property
    def revocable(self) -> bool:
        """Whether one credential can be taken back."""
        return self.revocability in (Revocability.NOW, Revocability.NEXT_USE)

    def has(self, subject: Subject, name: str, material: Material) -> bool:
        """Whether the provider has it; where it knows no names, whether it takes it."""
        if self.named:
            return name in subject.accounts()
        try:
            subject.attempt(material, subject.within[0])
        except Refused:
            return False
        return True

    def test_what_is_issued_works(self, subject: Subject, desk: Desk) -> None:
        order = desk.order()
        issued = desk.issue(order)
        assert self.has(subject, order.name, issued.material)
        for operation in subject.within:
            subject.attempt(issued.material, operation)

    def test_its_scope_is_what_was_asked_and_no_more(self, subject: Subject, desk: Desk) -> None:
        order = desk.order()
        issued = desk.issue(order)
        assert issued.scope == order.scope == desk.issuer.scope
        for operation in subject.beyond:
            with pytest.raises(Refused):
                subject.attempt(issued.material, operation)

    def test_a_task_that_asks_for_less_gets_less(self, subject: Subject, desk: Desk) -> None:
        if not self.divisible:
            assert len(subject.scope) == 1
            with pytest.raises(IssuerError):
                desk.issue(desk.order(scope=frozenset()))
            return
        whole, part = desk.issue(desk.order()), desk.issue(desk.order(scope=subject.less))
        assert part.scope == subject.less
        subject.attempt(whole.material, subject.beyond_less)
        with pytest.raises(Refused):
            subject.attempt(part.material, subject.beyond_less)

    def test_more_than_is_configured_is_not_issued(self, subject: Subject, desk: Desk, run: Run) -> None:
        before = {*subject.accounts()}
        raw = subject.issuer(subject.parameters(), subject.secret)
        for scope in (subject.outside, subject.scope | subject.outside):
            order = desk.order(scope=scope)
            for issuer in (raw, desk.issuer):
                fails(run, issuer.issue(order), order.secret, subject.secret)
                assert {*subject.accounts()} == before
        run(raw.close())

    def test_issuing_again_adopts(self, subject: Subject, desk: Desk) -> None:
        order = desk.order()
        first, second = desk.issue(order), desk.issue(order)
        for issued in (first, second):
            assert issued.scope == order.scope
        for issued in (first, second) if self.chosen else (second,):
            subject.attempt(issued.material, subject.within[0])
        if self.named:
            there = [name for name in subject.accounts() if name == order.name]
            assert there == [order.name] * (1 if self.adopts else 2)
            desk.forget(order.name)
            desk.revoke(order.name)
            for issued in (first, second):
                with pytest.raises(Refused):
                    subject.attempt(issued.material, subject.within[0])

    def test_what_a_crash_left_half_made_is_completed(self, subject: Subject, desk: Desk) -> None:
        order = desk.order()
        subject.plant(order.name)
        issued = desk.issue(order)
        for operation in subject.within:
            subject.attempt(issued.material, operation)
        assert issued.scope == order.scope

    def test_it_lasts_no_longer_than_was_asked(self, subject: Subject, desk: Desk) -> None:
        """Where the provider cannot end it, it is due for the ledger's sweep at the very time that was asked."""
        order = desk.order()
        issued = desk.issue(order)
        ends = subject.expires(order.name)
        assert (ends is not None) == subject.ends_by_itself
        ends = order.expires if ends is None else ends
        assert desk.issuer.outlasts_s == self.outlasts_s
        assert order.expires - 60 <= ends <= order.expires + self.outlasts_s
        assert abs(issued.expires - ends) <= 1

    def test_what_is_revoked_is_gone(self, subject: Subject, desk: Desk) -> None:
        order = desk.order()
        issued = desk.issue(order)
        assert desk.issuer.revocability is self.revocability
        sessions = [desk.open(issued.material) for _ in range(3)]
        assert all(session.alive() for session in sessions)
        assert subject.sessions(order.name) == 3
        if not self.revocable:
            assert not desk.revoke(order.name), "it only expires, and is never called revoked"
            return
        assert desk.revoke(order.name)
        assert all(session.alive() is not self.cuts for session in sessions)
        if self.revocability is Revocability.NOW:
            assert subject.sessions(order.name) == 0
        assert not self.has(subject, order.name, issued.material)
        with pytest.raises(Refused):
            subject.attempt(issued.material, subject.within[0])

    def test_revoking_one_leaves_the_others(self, subject: Subject, desk: Desk) -> None:
        order, other = desk.order(), desk.order()
        desk.issue(order)
        issued = desk.issue(other)
        session = desk.open(issued.material)
        desk.revoke(order.name)
        assert session.alive()
        subject.attempt(issued.material, subject.within[0])

    def test_what_is_not_there_is_revoked(self, subject: Subject, desk: Desk) -> None:
        order, never = desk.order(), desk.order()
        material = desk.issue(order).material
        for name in (order.name, order.name):
            assert desk.revoke(name) is self.revocable
            assert self.has(subject, name, material) is not self.revocable
        # Of one that a crash left, and that nobody there can name, nobody can say that it is gone.
        assert desk.revoke(never.name) is (self.named or self.nameable)
        assert never.name not in subject.accounts()

    def test_what_a_crash_left_half_made_is_revoked(self, subject: Subject, desk: Desk) -> None:
        order = desk.order()
        subject.plant(order.name)
        desk.revoke(order.name)
        assert order.name not in subject.accounts()

    def test_find_lists_ours_and_nobody_elses(self, subject: Subject, desk: Desk, run: Run) -> None:
        orders = [desk.order() for _ in range(2)]
        try:
            for name in FOREIGN:
                subject.plant(name)
            for order in orders:
                desk.issue(order)
            assert set(run(desk.issuer.find())) == ({order.name for order in orders} if self.named else set())
            desk.revoke(orders[0].name)
            assert set(run(desk.issuer.find())) == ({orders[1].name} if self.named else set())
            assert not self.named or {*FOREIGN} <= {*subject.accounts()}
        finally:
            for name in FOREIGN:
                subject.remove(name)

    def test_no_other_name_is_created_or_revoked(self, subject: Subject, desk: Desk, run: Run) -> None:
        before = {*subject.accounts()}
        raw = subject.issuer(subject.parameters(), subject.secret)
        for name in HOSTILE_NAMES:
            order = replace(desk.order(), name=name)
            for issuer in (raw, CheckedIssuer(raw)):
                fails(run, issuer.revoke(name), subject.secret)
                fails(run, issuer.issue(order), subject.secret, order.secret)
        run(raw.close())
        assert {*subject.accounts()} == before

    def test_the_administrative_credential_is_checked(self, subject: Subject, desk: Desk, run: Run) -> None:
        before = {*subject.accounts()}
        run(desk.issuer.check())
        assert {*subject.accounts()} == before
        wrong = Secret(b"not-the-administrative-secret")
        issuer = desk.made(secret=wrong)
        order = desk.order()
        refused = fails(run, issuer.check(), wrong)
        assert "refuse" in refused.message
        fails(run, issuer.issue(order), wrong, order.secret)
        if self.named:
            fails(run, issuer.find(), wrong)
        run(issuer.close())

    def test_a_provider_that_is_down_is_an_error_that_says_so(
        self, subject: Subject, desk: Desk, run: Run, nobody: tuple[str, int], silence: tuple[str, int]
    ) -> None:
        for address in (nobody, silence):
            issuer = desk.made(address, create_s=LIMIT_S, revoke_s=LIMIT_S)
            order = desk.order()
            if not self.asks:
                assert run(issuer.issue(order)).scope == order.scope
                continue
            fails(run, issuer.issue(order), subject.secret, order.secret)
            fails(run, issuer.check(), subject.secret)
            if self.named:
                fails(run, issuer.find(), subject.secret)
            # Where there are no names, only who has something to take back asks the provider.
            if self.revocable:
                fails(run, issuer.revoke(order.name, None if self.named else Secret(b"kept")), subject.secret)
            run(issuer.close())

    def test_what_could_be_an_attack_is_refused_as_configuration(self, subject: Subject) -> None:
        parameters = subject.parameters()
        subject.issuer(parameters, subject.secret)
        for change in subject.hostile:
            with pytest.raises(ConfigError) as caught:
                subject.issuer({**parameters, **change}, subject.secret)
            assert any(key in caught.value.message for key in change), (change, caught.value.message)

    def test_an_unknown_parameter_is_named(self, subject: Subject) -> None:
        with pytest.raises(ConfigError, match="grnats"):
            subject.issuer({**subject.parameters(), "grnats": []}, subject.secret)
