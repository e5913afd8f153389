"""A small storm: two hundred leases, brokers killed, a provider that fails and one that is down for a while."""

from __future__ import annotations

import pytest

from chaos.storm import MEMBER, TABLES, Plan, Storm
from servers.postgres import PostgresServer


@pytest.mark.parametrize("down", [False, True], ids=["under-fire", "provider-down"])
def test_nothing_is_lost_and_nothing_is_left(postgres_server: PostgresServer, down: bool) -> None:
    plan = Plan(
        leases=100,
        workers=3,
        at_once=4,
        kill_every=80,
        down=down,
        grants=MEMBER if down else TABLES,
        seed="small",
        call_s=0.5,
    )
    result = Storm(plan, postgres_server, lambda _line: None).run()
    assert result.lost() == 0, result
    assert result.entries == result.revoked, result
    # There was something to lose.
    assert result.leases >= plan.leases
    assert result.at_provider >= plan.leases
    assert all(result.faults.values())
    assert result.killed
    assert bool(result.failed_while_down) == down
