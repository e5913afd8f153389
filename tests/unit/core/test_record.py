"""The cheap records behave as frozen dataclasses do."""

from __future__ import annotations

import pytest

from leasehold.core.record import record


@record
class Point:
    """A point."""

    x: int
    y: int = 2

    def sum(self) -> int:
        return self.x + self.y


def test_fields_and_defaults() -> None:
    assert (Point(x=1).x, Point(x=1).y, Point(x=1, y=5).sum()) == (1, 2, 6)
    assert Point.__doc__ == "A point."


def test_missing_and_unknown_fields_are_refused() -> None:
    with pytest.raises(TypeError, match="missing or unknown: x"):
        Point()  # type: ignore[call-arg]  # what is under test
    with pytest.raises(TypeError, match="missing or unknown: z"):
        Point(x=1, z=2)  # type: ignore[call-arg]  # what is under test


def test_frozen_and_slotted() -> None:
    point = Point(x=1)
    with pytest.raises(AttributeError, match="Point is frozen: x"):
        point.x = 2  # type: ignore[misc]  # what is under test
    with pytest.raises(AttributeError, match="frozen"):
        del point.y
    assert not hasattr(point, "__dict__")


def test_equality_hash_and_text() -> None:
    assert Point(x=1) == Point(x=1, y=2) != Point(x=2)
    other: object = (1, 2)
    assert Point(x=1) != other
    assert hash(Point(x=1)) == hash(Point(x=1))
    assert repr(Point(x=1)) == "Point(x=1, y=2)"
