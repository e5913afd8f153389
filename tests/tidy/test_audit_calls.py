"""Every place that appends to the audit log gives the fields of its event, so that none fails when it counts."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from typing import TypeGuard

from leasehold.broker.audit.model import SHAPES, Event, Outcome
from tidy.sources import assert_none, name, python, tree


def calls() -> Iterator[tuple[str, Event, dict[str, ast.expr]]]:
    """Each ``append(Event.X, …)`` of the code: its place, its event and its keywords."""
    for path in python("src"):
        for node in ast.walk(tree(path)):
            if not isinstance(node, ast.Call) or not node.args:
                continue
            first = node.args[0]
            if isinstance(first, ast.Attribute) and isinstance(first.value, ast.Name) and first.value.id == "Event":
                keywords = {keyword.arg: keyword.value for keyword in node.keywords if keyword.arg}
                yield f"{name(path)}:{node.lineno}", Event[first.attr], keywords


def test_calls_are_found() -> None:
    assert len(list(calls())) > 5


def test_every_call_gives_the_fields_of_its_event() -> None:
    wrong = []
    for at, event, keywords in calls():
        expected = {*SHAPES[event].fields, "outcome", *(["task"] if SHAPES[event].of_task else [])}
        if keywords.keys() != expected:
            wrong.append(f"{at} {event}: {sorted(keywords.keys() ^ expected)}")
    assert_none(wrong)


def test_every_call_names_its_outcome() -> None:
    named = {f"Outcome.{outcome.name}" for outcome in Outcome}
    for at, _, keywords in calls():
        outcome = keywords["outcome"]
        sides = [outcome.body, outcome.orelse] if isinstance(outcome, ast.IfExp) else [outcome]
        assert all(ast.unparse(side) in named or isinstance(side, ast.Name) for side in sides), at


def test_every_event_is_recorded_somewhere() -> None:
    users = [path for path in python("src") if name(path) != "src/leasehold/broker/audit/model.py"]
    spoken = {node.attr for path in users for node in ast.walk(tree(path)) if _of_events(node)}
    assert_none(event for event in Event if event.name not in spoken)


def _of_events(node: ast.AST) -> TypeGuard[ast.Attribute]:
    return isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "Event"
