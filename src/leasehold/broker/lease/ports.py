"""What the lease service needs from others."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Protocol

from leasehold.broker.lease.machine import Entry, State


class StaleEntry(Exception):
    """Another worker has changed the entry since it was read; nothing was written."""


class Ledger(Protocol):
    """The durable record of leases. A method that writes returns when the storage has it.

    ``LedgerError`` when it cannot be read or written: then nothing is issued.
    """

    def intend(self, entry: Entry) -> Entry:
        """Store a new entry; the stored one instead when its ``key`` is there already (and open)."""

    def change(self, before: Entry, after: Entry) -> None:
        """Replace ``before`` by ``after``; ``StaleEntry`` unless it still has the epoch of ``before``."""

    def claim(self, now: float, limit: int, worker: str, until: float) -> Sequence[Entry]:
        """Open entries that are due at ``now``, soonest first, which nobody gets again before ``until``.

        A change ends the claim, except that from intended or active to revoking: the one who makes it goes on.
        """

    def entry(self, entry_id: str) -> Entry | None:
        """One entry."""

    def entries(
        self, *, task: str = "", states: Collection[State] = (), after: str = "", limit: int = 100
    ) -> Sequence[Entry]:
        """Entries in the order of their ids, from the one behind ``after`` on; all states unless some are named."""

    def open_names(self, issuer: str) -> Collection[str]:
        """The names of all open entries of an issuer, for an inventory."""

    def counts(self) -> dict[State, int]:
        """How many entries there are in each state."""

    def next_due(self) -> float | None:
        """When the next open entry is due, and its claim over if it has one: when ``claim`` next finds something."""

    def beat(self, owner: str, now: float) -> None:
        """This broker process is alive at ``now``."""

    def orphaned(self, now: float, dead_since: float, *, keep: Collection[str] = ()) -> int:
        """Make active entries due whose owner has not been alive since ``dead_since`` (or ever); how many.

        Owners in ``keep`` are alive. Intents keep their due time: the provider may still be at work on them.
        """

    def close(self) -> None:
        """Let go of the storage; idempotent."""
