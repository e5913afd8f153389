"""Issuers that are kept for a moment: by whom they are shared, and when they are let go."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping

import pytest

from leasehold.broker.issuers.checked import CheckedIssuer
from leasehold.broker.issuers.ports import Issued, Order
from leasehold.broker.lease.machine import Revocability
from leasehold.broker.lease.providers import Providers
from leasehold.core.secret import Secret

ADMIN = Secret(b"administrator")


class Connected:
    """An issuer that says whether it has been closed."""

    kind = "fake"
    revocability = Revocability.NOW
    scope = frozenset({"read"})

    def __init__(self) -> None:
        self.closed = 0

    async def check(self) -> None:
        return

    async def issue(self, order: Order) -> Issued:
        return Issued(material={}, expires=order.expires, scope=order.scope)

    async def revoke(self, name: str, kept: Secret | None = None) -> bool:
        return bool(name) and kept is None

    async def find(self) -> Collection[str]:
        return ()

    async def close(self) -> None:
        self.closed += 1


class Desk:
    """Providers with a clock in the test's hand; ``made``: each issuer, and what it was made from."""

    def __init__(self) -> None:
        self.now = 100.0
        self.made: list[Connected] = []
        self.of: list[tuple[str, Mapping[str, object], Secret]] = []
        self.providers = Providers(self.make, lambda: self.now)

    def make(self, kind: str, parameters: Mapping[str, object], secret: Secret) -> CheckedIssuer:
        self.made.append(Connected())
        self.of.append((kind, parameters, secret))
        return CheckedIssuer(self.made[-1])

    async def use(self, kind: str = "fake", server: str = "here", admin: Secret = ADMIN) -> CheckedIssuer:
        async with self.providers.issuer(kind, {"server": server}, admin) as issuer:
            return issuer

    def closed(self) -> list[int]:
        return [each.closed for each in self.made]


@pytest.fixture
def desk() -> Desk:
    return Desk()


def test_the_next_uses_the_same(desk: Desk) -> None:
    async def story() -> None:
        assert await desk.use() is await desk.use()
        assert desk.closed() == [0]

    asyncio.run(story())


def test_another_secret_parameter_or_kind_is_another(desk: Desk) -> None:
    async def story() -> None:
        await desk.use()
        await desk.use(admin=Secret(b"administrator-2"))
        await desk.use(server="there")
        await desk.use(kind="other")
        assert desk.of == [
            ("fake", {"server": "here"}, ADMIN),
            ("fake", {"server": "here"}, Secret(b"administrator-2")),
            ("fake", {"server": "there"}, ADMIN),
            ("other", {"server": "here"}, ADMIN),
        ]

    asyncio.run(story())


def test_none_is_used_for_longer_than_half_a_minute_however_busy_it_is(desk: Desk) -> None:
    async def story() -> None:
        first = await desk.use()
        desk.now += 29
        assert await desk.use() is first
        desk.now += 1
        assert await desk.use() is not first
        assert desk.closed() == [1, 0]

    asyncio.run(story())


def test_who_rests_lets_go_of_what_is_old_enough(desk: Desk) -> None:
    async def story() -> None:
        await desk.use()
        desk.now += 20
        await desk.use(server="there")
        desk.now += 10
        await desk.providers.rest()
        assert desk.closed() == [1, 0]

    asyncio.run(story())


@pytest.mark.parametrize("error", [RuntimeError, asyncio.CancelledError])
def test_a_failed_call_leaves_it_to_the_others(desk: Desk, error: type[BaseException]) -> None:
    async def story() -> None:
        first = await desk.use()
        with pytest.raises(error):
            async with desk.providers.issuer("fake", {"server": "here"}, ADMIN):
                raise error
        assert await desk.use() is first
        desk.now += 30
        with pytest.raises(error):
            async with desk.providers.issuer("fake", {"server": "here"}, ADMIN):
                await desk.providers.close()
                raise error
        assert desk.closed() == [1, 1]

    asyncio.run(story())


def test_one_in_use_is_closed_by_the_last_who_uses_it(desk: Desk) -> None:
    async def story() -> None:
        async with desk.providers.issuer("fake", {"server": "here"}, ADMIN):
            async with desk.providers.issuer("fake", {"server": "here"}, ADMIN):
                desk.now += 30
                await desk.use()
                assert desk.closed() == [0, 0]
            assert desk.closed() == [0, 0]
        assert desk.closed() == [1, 0]

    asyncio.run(story())


def test_at_the_end_all_are_let_go_once(desk: Desk) -> None:
    async def story() -> None:
        await desk.use()
        await desk.use(server="there")
        async with desk.providers.issuer("fake", {"server": "here"}, ADMIN):
            await desk.providers.close()
            assert desk.closed() == [0, 1]
        await desk.providers.close()
        assert desk.closed() == [1, 1]

    asyncio.run(story())
