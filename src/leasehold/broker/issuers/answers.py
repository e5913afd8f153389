"""What a provider's API has answered: JSON (RFC 8259), a status, and the time there; its words stay here."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from email.utils import parsedate_to_datetime
from typing import Any

from leasehold.core.errors import IssuerError

BYTES_MAX = 1 << 20
"""Of one answer."""
UNREACHABLE = "the server cannot be reached, or its certificate does not verify"
_NONSENSE = "the server answered with what is no answer to that"


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """``fields``: the object in the body, empty when there is none; ``items``: what a list there holds, ``None`` when
    there is none. ``date``: the provider's clock, in Unix seconds.

    What is to last until a certain time is reckoned by the clock that will end it, which may differ from ours.
    """

    status: int
    fields: Mapping[str, Any]
    date: float
    items: Sequence[Any] | None = None

    def get(self, *keys: str) -> Any:
        """What stands at the end of that path of objects; ``None`` when there is nothing."""
        found: Any = self.fields
        for key in keys:
            found = found.get(key) if isinstance(found, dict) else None
        return found

    def text(self, *keys: str) -> str:
        """The text there; ``IssuerError`` when there is none."""
        found = self.get(*keys)
        if not isinstance(found, str):
            raise nonsense()
        return found

    def listed(self) -> Sequence[Mapping[str, Any]]:
        """The objects of the list; ``IssuerError`` when there is none."""
        if self.items is None or not all(isinstance(item, dict) for item in self.items):
            raise nonsense()
        return self.items

    def instant(self, *keys: str) -> float:
        """The time there, of RFC 3339, in Unix seconds; ``IssuerError`` when there is none."""
        text, found = self.text(*keys), None
        with suppress(ValueError):
            found = datetime.fromisoformat(text)
        if found is None or found.tzinfo is None:
            raise nonsense()
        return found.timestamp()


def read(status: int, data: bytes, date: str) -> Answer:
    """The answer with that body; ``IssuerError`` when it is no JSON, or has no ``Date``."""
    with suppress(ValueError, RecursionError):
        found = json.loads(data) if data.strip() else {}
        at = parsedate_to_datetime(date).timestamp()
        if len(data) <= BYTES_MAX:
            items = found if isinstance(found, list) else None
            return Answer(status=status, fields=found if isinstance(found, dict) else {}, date=at, items=items)
    raise nonsense()


def nonsense() -> IssuerError:
    """For an answer that lacks what such an answer has."""
    return IssuerError(_NONSENSE, hint="does the address in the parameters name the API, and not a page for people?")
