"""The one door to issuers, with issuers behind it that lie, hang, fail and talk."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from leasehold.broker.issuers.checked import CREATE_TIMEOUT_S, REVOKE_TIMEOUT_S, CheckedIssuer
from leasehold.broker.issuers.ports import Issued, Order
from leasehold.broker.lease.machine import Revocability
from leasehold.core.errors import ConfigError, IssuerError, LeaseholdError
from leasehold.core.secret import Secret

PASSWORD = "p4ssw0rd-of-the-lease"
ORDER = Order(
    name="lh_one",
    secret=Secret(PASSWORD.encode()),
    task="t1",
    expires=1_700_000_000.0,
    scope=frozenset({"read", "write"}),
)
TRUE = Issued(material={"password": ORDER.secret}, expires=ORDER.expires, scope=ORDER.scope)


@dataclass
class Provider:
    """An issuer that answers what it is told to, and notes what it was asked."""

    kind: str = "fake"
    revocability: Revocability = Revocability.NOW
    scope: frozenset[str] = ORDER.scope
    issued: Issued = TRUE
    found: Collection[str] = ()
    fault: BaseException | None = None
    revoke_fault: BaseException | None = None
    hangs: bool = False
    asked: list[str] = field(default_factory=list)

    async def _note(self, what: str, fault: BaseException | None) -> None:
        self.asked.append(what)
        if self.hangs:
            await asyncio.Event().wait()
        if fault is not None:
            raise fault

    async def check(self) -> None:
        await self._note("check", self.fault)

    async def issue(self, order: Order) -> Issued:
        await self._note(f"issue {order.name}", self.fault)
        return self.issued

    async def revoke(self, name: str, kept: Secret | None = None) -> bool:
        await self._note(f"revoke {name}", self.revoke_fault or self.fault)
        return True

    async def find(self) -> Collection[str]:
        await self._note("find", self.fault)
        return self.found

    async def close(self) -> None:
        self.asked.append("close")


class Outlasting(Provider):
    """What it gives may last an hour more than was ordered."""

    outlasts_s = 3600.0


VERBS: dict[str, Callable[[CheckedIssuer], Awaitable[Any]]] = {
    "check": lambda issuer: issuer.check(),
    "issue": lambda issuer: issuer.issue(ORDER),
    "revoke": lambda issuer: issuer.revoke(ORDER.name),
    "find": lambda issuer: issuer.find(),
}


def ask(provider: Provider, verb: str, **limits: float) -> Any:
    async def asked() -> Any:
        return await VERBS[verb](CheckedIssuer(provider, **limits))

    return asyncio.run(asked())


def refused(provider: Provider, verb: str, **limits: float) -> IssuerError:
    with pytest.raises(IssuerError) as caught:
        ask(provider, verb, **limits)
    error = caught.value
    assert error.message.startswith(f"issuer(fake) {verb}: ")
    assert error.hint
    return error


def test_a_true_answer_is_passed_on() -> None:
    provider = Provider(found=["lh_one", "lh_two"])
    assert ask(provider, "issue") is TRUE
    assert ask(provider, "find") == {"lh_one", "lh_two"}
    ask(provider, "check")
    ask(provider, "revoke")
    asyncio.run(CheckedIssuer(provider).close())
    assert provider.asked == ["issue lh_one", "find", "check", "revoke lh_one", "close"]


def test_it_says_what_its_issuer_is() -> None:
    checked = CheckedIssuer(Provider(kind="other", revocability=Revocability.TTL_ONLY, scope=frozenset({"a"})))
    assert (checked.kind, checked.revocability, checked.scope) == ("other", Revocability.TTL_ONLY, frozenset({"a"}))


@pytest.mark.parametrize(
    "issued",
    [
        replace(TRUE, scope=frozenset()),
        replace(TRUE, scope=frozenset({"read"})),
        replace(TRUE, expires=ORDER.expires - 60),
        replace(TRUE, expires=ORDER.expires + 1),
        replace(TRUE, expires=-math.inf),
    ],
)
def test_narrower_and_shorter_is_no_lie(issued: Issued) -> None:
    """And a second or two is what clocks differ by."""
    provider = Provider(issued=issued)
    assert ask(provider, "issue") is issued
    assert provider.asked == ["issue lh_one"]


@pytest.mark.parametrize(
    ("issued", "said"),
    [
        (replace(TRUE, scope=ORDER.scope | {"admin"}), "more than asked: admin"),
        (replace(TRUE, scope=frozenset({"admin"})), "more than asked: admin"),
        (replace(TRUE, scope=frozenset({"READ", "*"})), "more than asked: *, READ"),
        (replace(TRUE, expires=ORDER.expires + 60), "60 s more than asked"),
        (replace(TRUE, expires=math.inf), "inf s more than asked"),
        (replace(TRUE, expires=math.nan), "nan s more than asked"),
    ],
)
def test_wider_or_longer_is_taken_back_at_once(issued: Issued, said: str) -> None:
    provider = Provider(issued=issued)
    assert said in refused(provider, "issue").message
    assert provider.asked == ["issue lh_one", "revoke lh_one"]


@pytest.mark.parametrize(
    ("revocability", "longer_s", "said"),
    [
        (Revocability.NOW, 3600, ""),
        (Revocability.NEXT_USE, 3600, ""),
        (Revocability.NOW, 3660, "3660 s more than asked"),
        (Revocability.NOW, math.inf, "inf s more than asked"),
        (Revocability.NOW, math.nan, "nan s more than asked"),
        (Revocability.TTL_ONLY, 3600, "3600 s more than asked"),
        (Revocability.ROLE_WIDE, 3600, "3600 s more than asked"),
    ],
)
def test_only_what_can_be_taken_back_may_outlast_its_order(
    revocability: Revocability, longer_s: float, said: str
) -> None:
    issued = replace(TRUE, expires=ORDER.expires + longer_s)
    provider = Outlasting(issued=issued, revocability=revocability)
    if said:
        assert said in refused(provider, "issue").message
    else:
        assert ask(provider, "issue") is issued


def test_what_was_wider_and_cannot_be_taken_back_is_an_error_too() -> None:
    """It is in the ledger as an intent, and is swept."""
    provider = Provider(issued=replace(TRUE, expires=math.inf), revoke_fault=OSError("down"))
    with pytest.raises(IssuerError, match=r"issuer\(fake\) revoke: OSError"):
        ask(provider, "issue")


@pytest.mark.parametrize(
    "issued",
    [
        None,
        {"password": "x"},
        replace(TRUE, material={}),
        replace(TRUE, material={"password": PASSWORD}),
        replace(TRUE, material=None),
        replace(TRUE, kept="receipt"),
        replace(TRUE, expires="soon"),
        replace(TRUE, expires=None),
        replace(TRUE, scope=["read"]),
    ],
)
def test_what_is_no_credential_is_a_defect_of_its_issuer(issued: Any) -> None:
    error = refused(Provider(issued=issued), "issue")
    assert "defect in the issuer" in error.hint
    assert PASSWORD not in f"{error!r} {vars(error)}"


@pytest.mark.parametrize("found", [None, 5, [5], [None]])
def test_what_are_no_names_is_a_defect_of_its_issuer(found: Any) -> None:
    assert "defect in the issuer" in refused(Provider(found=found), "find").hint


@pytest.mark.parametrize(("said", "gone"), [(True, True), (False, False), (None, False), (1, False), ("gone", False)])
def test_only_what_is_said_to_be_gone_is_gone(said: Any, gone: bool) -> None:
    class Mute(Provider):
        async def revoke(self, name: str, kept: Secret | None = None) -> bool:
            answer: bool = said
            return answer

    assert ask(Mute(), "revoke") is gone


@pytest.mark.parametrize("verb", VERBS)
def test_one_that_hangs_is_given_up(verb: str) -> None:
    assert "no answer within 0.01 s" in refused(Provider(hangs=True), verb, create_s=0.01, revoke_s=0.01).message


def test_creating_has_less_time_than_taking_back() -> None:
    """A sweep looks at an intent only when nobody can be at work on it."""
    assert 0 < CREATE_TIMEOUT_S < REVOKE_TIMEOUT_S


@pytest.mark.parametrize("verb", VERBS)
def test_one_that_is_stopped_from_outside_stops(verb: str) -> None:
    async def stopped() -> None:
        task = asyncio.ensure_future(VERBS[verb](CheckedIssuer(Provider(hangs=True))))
        await asyncio.sleep(0)
        task.cancel()
        await task

    with pytest.raises(asyncio.CancelledError):
        asyncio.run(stopped())


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize(
    ("fault", "message", "hint"),
    [
        (IssuerError("the role is in use", hint="wait"), "the role is in use", "wait"),
        (ConfigError("no such key", hint="name it"), "no such key", "name it"),
        (ValueError(f"password={PASSWORD}"), "ValueError", "defect"),
        (TimeoutError(PASSWORD), "no answer within", "up"),
    ],
)
def test_every_failure_is_an_error_of_this_issuer(verb: str, fault: Exception, message: str, hint: str) -> None:
    error = refused(Provider(fault=fault), verb)
    assert message in error.message
    assert hint in error.hint
    assert type(error) is IssuerError


@pytest.mark.parametrize("verb", VERBS)
def test_nothing_of_the_original_is_carried_along(verb: str) -> None:
    """Neither its text nor the exception itself, whose frames hold the password."""
    for kind in (ValueError, TimeoutError, OSError):
        error = refused(Provider(fault=kind(PASSWORD)), verb)
        assert PASSWORD not in f"{error} {error!r} {error.args} {error.hint} {vars(error)}"
        assert error.__cause__ is None
        assert error.__context__ is None
    said: LeaseholdError = refused(Provider(fault=IssuerError("it said no", hint="ask again")), verb)
    assert said.__cause__ is None
    assert said.__context__ is None


@pytest.mark.parametrize("name", ["", "postgres", "lh", "LH_one", "xlh_one"])
def test_nothing_is_revoked_that_is_none_of_ours(name: str) -> None:
    provider = Provider()
    with pytest.raises(IssuerError, match="none of ours"):
        asyncio.run(CheckedIssuer(provider).revoke(name))
    assert provider.asked == []


def test_what_is_found_and_none_of_ours_is_left_out() -> None:
    assert ask(Provider(found=["postgres", "lh_one", "lhx_two", "LH_three", ""]), "find") == {"lh_one"}
