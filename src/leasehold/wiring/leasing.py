"""The operator's view of leases: what there is, and the kill switch (DESIGN 6).

No reply holds a secret or a recipe: a lease is shown by what the ledger has in clear.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from leasehold.broker.audit.log import AuditLog
from leasehold.broker.audit.model import Event, Outcome
from leasehold.broker.audit.query import Filter
from leasehold.broker.lease.inventory import Inventory, Report
from leasehold.broker.lease.issuing import Issuing, Place
from leasehold.broker.lease.machine import OPEN, Entry, State
from leasehold.broker.lease.model import Lease
from leasehold.broker.lease.service import Leases
from leasehold.core.config import read_operator
from leasehold.core.errors import LeaseholdError, LedgerError, UsageError
from leasehold.core.model import Credential
from leasehold.core.secret import Secret
from leasehold.wiring.connection import Connection
from leasehold.wiring.tasks import Tasks

Row = dict[str, Any]
Operation = Callable[[dict[str, Any]], Awaitable[Row]]
Pair = tuple[str, str]
"""A task and a credential."""

ENDED = "ended"
"""The state of a static lease that is over: its secret is injected no more, and as good as before at its provider."""
_STATES = (*map(str, State), ENDED)
_PAGE_MAX = 500
_REVOKE_S = 10.0
_AT_ONCE = 8
_TRIES = 5
_SHOWN_MAX = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class _Which:
    """Leases that are meant; empty texts mean any."""

    task: str = ""
    credential: str = ""

    def takes(self, task: str, credential: str) -> bool:
        return self.task in ("", task) and self.credential in ("", credential)


class Leasing:
    """Answers the operations ``lease.*``. ``has_ledger``: whether there is one, which is not made for a question.

    ``resolve``: a reference to a secret, of no task's.
    """

    def __init__(
        self,
        tasks: Tasks,
        leases: Leases,
        issuing: Issuing,
        audit: AuditLog,
        has_ledger: Callable[[], bool],
        resolve: Callable[[str], Awaitable[Secret]],
    ) -> None:
        self._tasks = tasks
        self._leases = leases
        self._issuing = issuing
        self._audit = audit
        self._has_ledger = has_ledger
        self._resolve = resolve
        self._ending: set[asyncio.Task[Entry]] = set()
        self._stock_taken = False

    def operations(self, uid: int) -> dict[str, Operation]:
        """By name; ``uid`` asks."""
        return {
            "lease.list": self._list,
            "lease.show": self._show,
            "lease.audit": self._inventory,
            "lease.revoke": lambda message: self._revoke(message, uid),
        }

    async def watch(self, connection: Connection, message: dict[str, Any]) -> None:
        """The open leases, then each that has changed, until the reader leaves.

        A slow reader gets fewer messages, never an old one; the last of a lease is the one that says how it ended.
        """
        task = str(message.get("task") or "")
        changed = asyncio.Event()
        leaving = asyncio.create_task(connection.receive())
        shown: dict[str, Row] | None = None
        try:
            with self._issuing.watched(changed.set):
                while not leaving.done():
                    changed.clear()
                    rows = {row["id"]: row for row in await self._live(task)}
                    before = shown or {}
                    news = [row for name, row in rows.items() if before.get(name) != row]
                    news += [await self._last(row) for name, row in before.items() if name not in rows]
                    if news or shown is None:
                        await connection.send({"leases": news})
                    shown = rows
                    change = asyncio.create_task(changed.wait())
                    await asyncio.wait({change, leaving}, return_when=asyncio.FIRST_COMPLETED)
                    change.cancel()
        finally:
            leaving.cancel()

    async def _live(self, task: str) -> list[Row]:
        static = [row for row in self._static() if row["state"] != ENDED and task in ("", row["task"])]
        return static + [self._row(entry) for entry in await self._open(task)]

    async def _last(self, row: Row) -> Row:
        """How it ended."""
        entry = None if row["issuer"] == "static" else await self._issuing.entry(row["id"])
        return {**row, "state": ENDED} if entry is None else self._row(entry)

    async def _list(self, message: dict[str, Any]) -> Row:
        """One page: of the ledger in the order of ids, the static ones before the first."""
        task, after = str(message.get("task") or ""), str(message.get("after") or "")
        wanted = [str(state) for state in message.get("states") or map(str, OPEN)]
        unknown = sorted(set(wanted) - set(_STATES))
        if unknown:
            raise UsageError(f"there is no state {unknown[0]!a}", hint=f"states are {', '.join(_STATES)}")
        limit = max(1, min(_PAGE_MAX, int(message.get("limit") or _PAGE_MAX)))
        rows = [] if after else [row for row in self._static() if task in ("", row["task"]) and row["state"] in wanted]
        states = [State(state) for state in wanted if state != ENDED]
        entries = await self._page(task=task, states=states, after=after, limit=limit) if states else []
        last = entries[-1].id if len(entries) == limit else None
        return {"leases": rows + [self._row(entry) for entry in entries], "after": last}

    async def take_stock(self, credentials: Sequence[Credential]) -> None:
        """Before the first lease: a ledger that lacks one of which the audit log speaks is an old copy (DESIGN 6).

        Then what providers have is compared with it, and what the log says was ours is taken back. ``LedgerError`` when
        a provider cannot be looked at: nothing is issued over what nobody knows.
        """
        if self._stock_taken:
            return
        newest = await asyncio.to_thread(self._audit.query, Filter(event=Event.LEASE_ISSUED, limit=1))
        if newest.records and await self._issuing.entry(str(newest.records[-1].fields["lease"])) is None:
            places, problems = await self._places(credentials)
            ours = await asyncio.to_thread(self._ever_issued)
            report = await Inventory(self._issuing, self._audit).take(places, repair=ours.__contains__)
            for kind, message in problems + report.problems:
                raise LedgerError(
                    f"the ledger is older than the audit log, and {kind} cannot be looked at: {message}",
                    hint="`leasehold lease audit` tries it again; nothing is issued until then",
                )
        self._stock_taken = True

    def _ever_issued(self) -> frozenset[str]:
        names: set[str] = set()
        wanted = Filter(event=Event.LEASE_ISSUED)
        while (page := self._audit.query(wanted)).records:
            names |= {str(record.fields["name"]) for record in page.records}
            wanted = replace(wanted, before=page.records[0].seq)
        return frozenset(names)

    async def _inventory(self, message: dict[str, Any]) -> Row:
        """Both ways, at every provider that the ledger or the operator's configuration names."""
        places, problems = await self._places(read_operator(Path(str(message["config"]))).credentials)
        report = Report()
        if places or self._has_ledger():
            every = bool(message.get("repair"))
            report = await Inventory(self._issuing, self._audit).take(places, repair=lambda _: every)
        return {
            "looked_at": report.looked_at,
            "orphans": [{"issuer": kind, "name": name, "taken_back": gone} for kind, name, gone in report.orphans],
            "ghosts": [self._row(entry) for entry in report.ghosts],
            "problems": [{"issuer": kind, "message": text} for kind, text in problems + report.problems],
            "unlisted": sorted(set(report.unlisted)),
        }

    async def _places(self, credentials: Iterable[Credential]) -> tuple[list[Place], list[tuple[str, str]]]:
        """Where to look, and where that is not possible."""
        places, problems = [], []
        for credential in credentials:
            if credential.issuer == "static":
                continue
            try:
                admin = await self._resolve(credential.secret)
            except LeaseholdError as e:
                problems.append((credential.issuer, f"{credential.name}: {e.message}"))
            else:
                place = Place(kind=credential.issuer, parameters=dict(credential.parameters), admin=admin)
                places.append(place)
        return places, problems

    async def _show(self, message: dict[str, Any]) -> Row:
        return {"lease": await self._one(str(message["id"]), State)}

    async def _revoke(self, message: dict[str, Any], uid: int) -> Row:
        """Cut, record, ask the providers, in this order; what is in memory waits for no ledger."""
        which = await self._meant(message)
        local = [pair for pair in self._granted() if which.takes(*pair)]
        for task, credential in local:
            self._tasks.revoke(task, credential)
        self._asked(local, uid)
        try:
            entries = [entry for entry in await self._open(which.task) if which.takes(entry.task, entry.credential)]
        except LedgerError as e:
            problem, hint = e.message, e.hint
        else:
            self._asked({(entry.task, entry.credential) for entry in entries} - set(local), uid)
            rows = await self._end(entries)
            there = {(row["task"], row["credential"]) for row in rows}
            static = {(row["task"], row["credential"]): row for row in self._static()}
            for task, credential in local:
                if (task, credential) in static:
                    rows.append({**static[(task, credential)], "outcome": ENDED})
                elif (task, credential) not in there:
                    rows.append({"id": f"{task}/{credential}", "task": task, "credential": credential, **_WITHHELD})
            return {"leases": rows}
        closed = f"the routes of {len(local)} credentials in open tasks are closed; what is at providers is unknown"
        raise LedgerError(f"{problem}; {closed}", hint=hint)

    async def _meant(self, message: dict[str, Any]) -> _Which:
        given = [name for name in ("id", "task", "credential", "all") if message.get(name)]
        if len(given) != 1:
            raise UsageError("expected one of ID, --task, --credential and --all", hint="leasehold lease revoke --help")
        if given == ["id"]:
            wanted = str(message["id"])
            if wanted in {f"{task}/{credential}" for task, credential in self._granted()}:
                task, _, credential = wanted.partition("/")
                return _Which(task=task, credential=credential)
            row = await self._one(wanted, OPEN)
            return _Which(task=row["task"], credential=row["credential"])
        return _Which(task=str(message.get("task") or ""), credential=str(message.get("credential") or ""))

    def _asked(self, pairs: Iterable[Pair], uid: int) -> None:
        rows = [
            {
                "event": Event.LEASE_REVOKE_ASKED,
                "outcome": Outcome.DONE,
                "task": task,
                "credential": credential,
                "uid": uid,
            }
            for task, credential in sorted(pairs)
        ]
        if rows:
            self._audit.append_many(rows)

    async def _end(self, entries: Sequence[Entry]) -> list[Row]:
        """Have the providers take them back; how far that is after some seconds at most. The rest goes on.

        An intent stays one: the provider may be at work on it still. A sweep takes it back when that can no more be.
        """
        turns = asyncio.Semaphore(_AT_ONCE)

        async def end(entry: Entry) -> Entry:
            async with turns:
                for _ in range(_TRIES):
                    entry = await self._issuing.end(entry)
                    if entry.state is not State.ACTIVE:
                        break  # else somebody has changed it: a start that makes due what a dead broker left
                return entry

        ending = {e.id: asyncio.create_task(end(e)) for e in entries if e.state is not State.INTENDED}
        for each in ending.values():
            self._ending.add(each)
            each.add_done_callback(self._ending.discard)
        if ending:
            await asyncio.wait(ending.values(), timeout=_REVOKE_S)
        return [self._far(entry, ending.get(entry.id)) for entry in entries]

    def _far(self, entry: Entry, ending: asyncio.Task[Entry] | None) -> Row:
        if ending is None or not ending.done():
            return {**self._row(entry), "outcome": "trying"}
        failure = ending.exception()
        if isinstance(failure, LeaseholdError):
            return {**self._row(entry), "outcome": "trying", "error": failure.message}
        after = ending.result()
        return {**self._row(after), "outcome": _outcome(after)}

    async def _one(self, wanted: str, states: Iterable[State]) -> Row:
        """The lease that is meant by an id, ``TASK/CREDENTIAL``, or the beginning of either."""
        found = await self._issuing.entry(wanted) if wanted and self._has_ledger() else None
        if found is not None:
            return self._row(found)
        rows = self._static() + [self._row(entry) for entry in await self._all(states=list(states))]
        named: dict[str, Row] = {}
        for row in sorted(rows, key=lambda row: (row["state"] in OPEN, row["created"])):
            pair = f"{row['task']}/{row['credential']}"
            if wanted == pair:
                named = {name: each for name, each in named.items() if name == pair} | {pair: row}
            elif wanted and wanted not in named and (pair if "/" in wanted else row["id"]).startswith(wanted):
                named[pair if "/" in wanted else row["id"]] = row
        if len(named) == 1:
            return next(iter(named.values()))
        if not named:
            raise UsageError(f"there is no lease {wanted!a}", hint="`leasehold lease list` shows which there are")
        shown = ", ".join(sorted(named)[:_SHOWN_MAX])
        raise UsageError(f"{wanted!a} begins {len(named)} leases", hint=f"write more of it: {shown}")

    async def _open(self, task: str = "") -> list[Entry]:
        return await self._all(task=task, states=sorted(OPEN))

    async def _all(self, *, states: Sequence[State], task: str = "") -> list[Entry]:
        found: list[Entry] = []
        after: str | None = ""
        while after is not None:
            page = await self._page(task=task, states=states, after=after, limit=_PAGE_MAX)
            found += page
            after = page[-1].id if len(page) == _PAGE_MAX else None
        return found

    async def _page(self, *, task: str, states: Sequence[State], after: str, limit: int) -> Sequence[Entry]:
        if not self._has_ledger():
            return []
        return await self._issuing.entries(task=task, states=states, after=after, limit=limit)

    def _granted(self) -> list[Pair]:
        """What open tasks may ask for, asked for or not."""
        return [(task.id, c.name) for task in self._tasks.open_tasks.values() for c in task.plan.credentials]

    def _static(self) -> list[Row]:
        return [_static(lease, over=over) for lease, over in self._leases.held() if lease.entry is None]

    def _row(self, entry: Entry) -> Row:
        return {
            "id": entry.id,
            "task": entry.task,
            "credential": entry.credential,
            "issuer": entry.issuer,
            "name": entry.name,
            "state": entry.state.value,
            "revocability": entry.revocability.value,
            "created": entry.created,
            "expires": entry.expires,
            "due": entry.due,
            "closed": entry.closed,
            "attempts": entry.attempts,
            "error": entry.error,
            "this_broker": entry.owner == self._issuing.owner,
        }


_WITHHELD: Row = {"issuer": "", "state": "", "revocability": "", "expires": None, "outcome": "withheld"}
"""Nothing had been issued to the task, and nothing will be."""


def _static(lease: Lease, *, over: bool) -> Row:
    return {
        "id": f"{lease.task}/{lease.credential}",
        "task": lease.task,
        "credential": lease.credential,
        "issuer": "static",
        "name": "",
        "state": ENDED if over else State.ACTIVE.value,
        "revocability": lease.revocability.value,
        "created": lease.issued,
        "expires": lease.expires,
        "due": lease.expires,
        "closed": None,
        "attempts": 0,
        "error": "",
        "this_broker": True,
    }


def _outcome(entry: Entry) -> str:
    """How far taking it back came: ``revoked``, ``expired``, ``expires`` (it can only do that) or ``trying``."""
    if entry.closed is not None:
        return entry.state.value
    waits = entry.state is State.REVOKING and not entry.error and entry.due == entry.expires
    return "expires" if waits else "trying"
