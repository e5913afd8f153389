"""The promise of DESIGN 6, searched: every state that a small world can reach, by the rules of ``machine``.

One lease, one provider, two brokers that each may crash once. Requests and replies get lost, a clock jumps, and steps
interleave in every order. In no state may the provider have a credential that the ledger does not know as open, from
every state a sweep must come to the end of it, and what has begun to end never is anything else again. What the brokers
do besides ``machine`` is in :class:`Rules`; each rule is left out once, to see that the search would notice.

The world's one assumption: what was sent to the provider arrives within ``FLIGHT`` ticks or never.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from typing import NamedTuple

import pytest

from leasehold.broker.lease.machine import (
    ATTEMPTS_BEFORE_QUARANTINE,
    OPEN,
    Entry,
    Revocability,
    State,
    activated,
    ending,
    failed,
    gone,
    renewed,
)

FLIGHT, UNSURE, TTL, CLAIM, HORIZON, JUMP = 1, 2, 3, 2, 4, 9
NEVER = -100
FRESH = (State.INTENDED, State.ACTIVE)
AGE = {
    State.INTENDED: 0,
    State.ACTIVE: 1,
    State.REVOKING: 2,
    State.QUARANTINED: 2,
    State.REVOKED: 3,
    State.EXPIRED: 3,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """What a broker keeps to. Each is true; one that is false is a mistake that somebody has made."""

    intent_first: bool = True
    """The intent is stored before the provider is asked."""
    epochs: bool = True
    """A change is refused to who has an old copy."""
    read_back: bool = True
    """A lease is closed when the provider was seen not to have it."""
    patient: bool = True
    """An intent is not taken back before its create can no more arrive, also not by who lost the reply."""
    own_clock: bool = True
    """Who takes back an intent has waited for that himself: what others have written may come from a wrong clock."""
    gives_up: bool = True
    """A create is not sent late, as after a machine was suspended."""


class Step(NamedTuple):
    """Where a broker is in its work, with its copy of the entry, and since when (true time)."""

    at: str
    copy: Entry | None = None
    since: int = 0


IDLE, DONE = Step("idle"), Step("done")


class World(NamedTuple):
    """``offsets``: how wrong each broker's clock is. ``flight``: when a create was sent that is still under way."""

    now: int = 0
    offsets: tuple[int, int] = (0, 0)
    entry: Entry | None = None
    claimed: int = NEVER
    alive: bool = False
    flight: int = NEVER
    issue: Step = IDLE
    sweeps: tuple[Step, Step] = (IDLE, IDLE)
    may_crash: tuple[bool, bool] = (True, True)
    jumps: int = 1
    losses: int = 2
    renewals: int = 0

    def wall(self, broker: int) -> int:
        return self.now + self.offsets[broker]

    def with_sweep(self, broker: int, step: Step) -> World:
        pair = (step, self.sweeps[1]) if broker == 0 else (self.sweeps[0], step)
        return self._replace(sweeps=pair)

    def is_open(self) -> bool:
        return self.entry is not None and self.entry.state in OPEN

    def is_over(self) -> bool:
        """Nothing can happen any more."""
        nobody = self.issue == DONE and self.sweeps == (IDLE, IDLE) and self.flight == NEVER
        return nobody and not self.is_open()

    def keeps_the_promise(self) -> bool:
        return self.is_open() or not self.alive

    def leads_to(self, after: World) -> bool:
        """Whether the entry goes forward, if it goes."""
        return self.entry is None or (after.entry is not None and AGE[self.entry.state] <= AGE[after.entry.state])


Next = Iterator[tuple[str, World]]


@cache
def intent(wall: int) -> Entry:
    return Entry(
        id="1",
        key="1",
        owner="0",
        task="t",
        credential="c",
        issuer="i",
        name="lh_1",
        revocability=Revocability.NOW,
        recipe=b"",
        state=State.INTENDED,
        epoch=0,
        created=wall,
        expires=wall + TTL,
        due=wall + UNSURE,
    )


def changed(world: World, before: Entry, after: Entry, rules: Rules) -> World | None:
    """The ledger's compare-and-set; ``None`` when the copy is stale."""
    if rules.epochs and (world.entry is None or world.entry.epoch != before.epoch):
        return None
    keeps_claim = before.state in FRESH and after.state is State.REVOKING
    return world._replace(entry=after, claimed=world.claimed if keeps_claim else NEVER)


def successors(world: World, rules: Rules) -> Next:
    if world.is_over():
        return
    yield from around(world)
    yield from provider(world)
    yield from issuing(world, rules)
    for broker in (0, 1):
        yield from sweeping(world, broker, rules)


def around(world: World) -> Next:
    """Time, clocks and crashes."""
    overdue = world.flight != NEVER and world.now - world.flight >= FLIGHT
    if world.now < HORIZON and not overdue and world.issue.at != "idle":  # the story begins with the intent
        yield "tick", world._replace(now=world.now + 1)
    for broker in (0, 1):
        if world.jumps:
            for jump in (JUMP, -JUMP):
                pair = (jump, 0) if broker == 0 else (0, jump)
                yield f"clock of {broker} jumps by {jump}", world._replace(offsets=pair, jumps=0)
        works = world.sweeps[broker] != IDLE or (broker == 0 and world.issue not in (IDLE, DONE))
        if world.may_crash[broker] and works:
            dead = world.with_sweep(broker, IDLE)
            may = (False, world.may_crash[1]) if broker == 0 else (world.may_crash[0], False)
            yield f"{broker} is killed", dead._replace(may_crash=may, issue=world.issue if broker else DONE)
    # The second takes the first for dead: rightly, or because its own clock is ahead.
    entry, wall = world.entry, world.wall(1)
    suspects = not world.may_crash[0] or world.offsets[1] > world.offsets[0]
    if suspects and entry is not None and entry.state is State.ACTIVE and entry.due > wall:
        yield "0 is taken for dead", world._replace(entry=replace(entry, due=wall, epoch=entry.epoch + 1))


def provider(world: World) -> Next:
    """A create arrives or gets lost, and so does its reply."""
    if world.flight != NEVER:
        there = world._replace(alive=True, flight=NEVER)
        waits = world.issue.at == "sent"
        if waits:
            yield "create arrives, reply too", there._replace(issue=world.issue._replace(at="replied"))
        if world.losses or not waits:
            fewer = max(0, world.losses - waits)
            lost = world.issue._replace(at="lost") if waits else world.issue
            yield "create arrives, its reply does not", there._replace(issue=lost, losses=fewer)
            yield "create gets lost", world._replace(flight=NEVER, issue=lost, losses=fewer)


def issuing(world: World, rules: Rules) -> Next:
    """The first broker's way from intent to the end of the task."""
    step, wall = world.issue, world.wall(0)
    match step.at:
        case "idle" if rules.intent_first:
            entry = intent(wall)
            yield "intends", world._replace(entry=entry, issue=Step("intended", entry, world.now))
        case "idle":
            yield "sends create", world._replace(flight=world.now, issue=Step("sent", intent(wall)))
        case "intended" if world.now > step.since and rules.gives_up:
            yield "gives up", world._replace(issue=DONE)
        case "intended":
            yield "sends create", world._replace(flight=world.now, issue=Step("sent", step.copy))
        case "sent":
            yield "waits no longer", world._replace(issue=step._replace(at="lost"))
        case "lost" if not rules.patient and step.copy:
            after = changed(world, step.copy, ending(step.copy, wall), rules)
            yield "takes back at once", (after or world)._replace(issue=DONE)
        case "lost":
            yield "leaves it to a sweep", world._replace(issue=DONE)
        case "replied" if step.copy:
            stored = world if rules.intent_first else world._replace(entry=step.copy)
            active = activated(step.copy, step.copy.expires)
            after = changed(stored, step.copy, active, rules)
            yield "has issued", after._replace(issue=Step("holds", active)) if after else world._replace(issue=DONE)
        case "holds" if step.copy:
            after = changed(world, step.copy, ending(step.copy, wall), rules)
            yield "task ends", (after or world)._replace(issue=DONE)
            if world.renewals:
                longer = renewed(step.copy, wall + TTL)
                after = changed(world, step.copy, longer, rules)
                done = after._replace(issue=Step("holds", longer)) if after else world._replace(issue=DONE)
                yield "renews", done._replace(renewals=0)


def sweeping(world: World, broker: int, rules: Rules) -> Next:
    """Claim what is due, take it back, read back, close."""
    step, wall = world.sweeps[broker], world.wall(broker)
    copy = step.copy
    if copy is None:
        if world.is_open() and world.entry and may_claim(world, world.entry, wall, rules):
            claimed = world._replace(claimed=wall + CLAIM)
            since = world.now if world.entry.state is State.INTENDED else 0
            yield f"{broker} claims", claimed.with_sweep(broker, Step("claimed", world.entry, since))
        return
    match step.at:
        case "claimed" if copy.state in FRESH:
            waited = world.now - step.since >= UNSURE or not (rules.own_clock and rules.patient)
            if copy.state is State.ACTIVE or waited:
                after = ending(copy, wall)
                yield f"{broker} begins to take back", written(world, broker, after, Step("revoking", after), rules)
        case "claimed" | "revoking":
            absent = world._replace(alive=False)
            yield f"{broker} revokes", absent.with_sweep(broker, Step("revoked", copy))
            if world.losses:
                fewer = world._replace(losses=world.losses - 1)
                yield f"{broker} cannot revoke", fewer.with_sweep(broker, Step("failed", copy))
                yield (
                    f"{broker} revokes, reply lost",
                    fewer._replace(alive=False).with_sweep(broker, Step("failed", copy)),
                )
                if not rules.read_back:
                    yield f"{broker} asked to revoke", fewer.with_sweep(broker, Step("revoked", copy))
        case "revoked":
            yield f"{broker} closes", written(world, broker, gone(copy, wall), IDLE, rules)
        case "failed":
            yield f"{broker} will try again", written(world, broker, failed(copy, wall, "no"), IDLE, rules)


def may_claim(world: World, entry: Entry, wall: int, rules: Rules) -> bool:
    young = entry.state is State.INTENDED and not rules.patient
    return (entry.due <= wall or young) and world.claimed <= wall


def written(world: World, broker: int, after: Entry, step: Step, rules: Rules) -> World:
    before = world.sweeps[broker].copy
    assert before is not None
    new = changed(world, before, after, rules)
    return new.with_sweep(broker, step) if new else world.with_sweep(broker, IDLE)


@cache
def comes_to_an_end(entry: Entry | None, alive: bool) -> bool:
    """One broker alone, restarted, with its clock right and a provider that is down for a while, sweeps to the end."""
    if entry is None:
        return not alive
    now = max(float(HORIZON + JUMP + CLAIM), entry.due)
    if entry.state in FRESH:
        entry = ending(entry, now)
    for _ in range(ATTEMPTS_BEFORE_QUARANTINE + 1):
        if entry.state in OPEN:
            now = max(now, entry.due)
            entry = failed(entry, now, "down")
    if entry.state in OPEN:
        entry, alive = gone(entry, entry.due), False
    return entry.state in (State.REVOKED, State.EXPIRED) and not alive


class Found(NamedTuple):
    """The number of states, those of the ledger's entry among them, and the shortest way to a broken promise."""

    visited: int
    states: frozenset[State]
    broken: tuple[str, ...] = ()


def search(rules: Rules, start: World | None = None) -> Found:
    """Visit everything that can be reached, nearest first."""
    first = start or World()
    came: dict[World, tuple[World, str] | None] = {first: None}
    waiting, states = deque([first]), set[State]()
    while waiting:
        world = waiting.popleft()
        if world.entry is not None:
            states.add(world.entry.state)
        # What is under way arrives when everybody is dead, or never; then somebody sweeps.
        ends = [world.alive] if world.flight == NEVER else [world.alive, True]
        if not world.keeps_the_promise() or not all(comes_to_an_end(world.entry, alive) for alive in ends):
            return Found(len(came), frozenset(states), way_to(world, came))
        for name, after in successors(world, rules):
            if not world.leads_to(after):
                return Found(len(came), frozenset(states), (*way_to(world, came), name))
            if after not in came:
                came[after] = (world, name)
                waiting.append(after)
    return Found(len(came), frozenset(states))


def way_to(world: World, came: dict[World, tuple[World, str] | None]) -> tuple[str, ...]:
    names: list[str] = []
    while (step := came[world]) is not None:
        world = step[0]
        names.append(step[1])
    return tuple(reversed(names))


ACTIVE = activated(intent(0), TTL)
STARTS = {
    "nothing yet": World(),
    "a lease that is renewed": World(entry=ACTIVE, alive=True, issue=Step("holds", ACTIVE), renewals=1, losses=1),
}


@pytest.mark.parametrize("start", STARTS.values(), ids=STARTS)
def test_no_state_that_can_be_reached_breaks_the_promise(start: World) -> None:
    """Longer stories (six ticks, a renewal more; nine million states) hold as well, and take minutes."""
    found = search(Rules(), start)
    assert found.broken == ()
    assert found.states >= {State.ACTIVE, State.REVOKING, State.REVOKED}
    assert (State.INTENDED in found.states) == (start.entry is None)
    assert found.visited > 10_000


MISTAKES = {
    "the intent is written behind the create": (Rules(intent_first=False), "sends create"),
    "closed without being read back": (Rules(read_back=False), "closes"),
    "a young intent is swept": (Rules(patient=False), "closes"),
    "a young intent is swept, and no epoch looked at": (Rules(patient=False, epochs=False), "has issued"),
    "an intent's age is believed": (Rules(own_clock=False), "closes"),
    "a create is sent late": (Rules(gives_up=False), "closes"),
    "no epoch is looked at": (Rules(epochs=False), "has issued"),
}


@pytest.mark.parametrize(("rules", "last"), MISTAKES.values(), ids=MISTAKES)
def test_the_search_finds_each_mistake(rules: Rules, last: str) -> None:
    found = search(rules)
    assert found.broken and found.broken[-1].endswith(last), found
