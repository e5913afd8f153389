"""The audit log's closed list of events, each with the fields that it may carry. ``docs/audit.md`` says it in words."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import msgspec

Value = str | int | list[str] | None


class Outcome(enum.StrEnum):
    """How it ended. Never a default: whoever appends has to say it."""

    ALLOWED = "allowed"
    DENIED = "denied"
    DONE = "done"
    FAILED = "failed"


class Kind(enum.Enum):
    """What a field holds; each is cleaned in its own way (:mod:`leasehold.broker.audit.rules`)."""

    TEXT = "text"
    TEXTS = "list of texts"
    HOST = "host"
    TARGET = "target"
    COUNT = "count"
    INTEGER = "integer or null"
    TIME = "time"


class Event(enum.StrEnum):
    """Everything that is recorded."""

    AUDIT_RECOVERED = "audit:recovered"
    CANARY_SEEN = "canary:seen"
    CLOCK_SET_BACK = "clock:set-back"
    CONNECTION_DENIED = "connection:denied"
    CREDENTIAL_EXPIRED = "credential:expired"
    CREDENTIAL_EXPOSED = "credential:exposed"
    CREDENTIAL_FIRST_USE = "credential:first-use"
    CREDENTIAL_RENEWED = "credential:renewed"
    CREDENTIAL_USED = "credential:used"
    DAEMON_STARTED = "daemon:started"
    DAEMON_STOPPED = "daemon:stopped"
    ENVOY_RESTARTED = "envoy:restarted"
    HANDBACK_FOUND = "handback:found"
    HOST_USED = "host:used"
    LEASE_EXPIRED = "lease:expired"
    LEASE_GHOST = "lease:ghost"
    LEASE_ISSUED = "lease:issued"
    LEASE_ORPHAN = "lease:orphan"
    LEASE_REVOKED = "lease:revoked"
    LEASE_REVOKE_ASKED = "lease:revoke-asked"
    LEASE_STUCK = "lease:stuck"
    NAME_DENIED = "name:denied"
    REQUEST_DENIED = "request:denied"
    SECRET_REMOVED = "secret:removed"  # noqa: S105  an event, no password
    SECRET_SET = "secret:set"  # noqa: S105  an event, no password
    TASK_CLOSED = "task:closed"
    TASK_OPENED = "task:opened"
    USAGE_MISMATCH = "usage:mismatch"


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """What a record of one event looks like. ``of_task``: it belongs to a task, else it never does."""

    of_task: bool
    fields: Mapping[str, Kind]


_USE = {
    "host": Kind.HOST,
    "method": Kind.TEXT,
    "target": Kind.TARGET,
    "status": Kind.COUNT,
    "count": Kind.COUNT,
    "first": Kind.TIME,
    "last": Kind.TIME,
    "received": Kind.COUNT,
    "sent": Kind.COUNT,
}
_DECISION = {
    "credential": Kind.TEXT,
    "role": Kind.TEXT,
    "environment": Kind.TEXT,
    "policy": Kind.TEXT,
    "reason": Kind.TEXT,
}
_LEASE = {
    "lease": Kind.TEXT,
    "credential": Kind.TEXT,
    "issuer": Kind.TEXT,
    "name": Kind.TEXT,
    "revocability": Kind.TEXT,
    "attempts": Kind.COUNT,
}


def _task(**fields: Kind) -> Shape:
    return Shape(of_task=True, fields=MappingProxyType(fields))


def _host(**fields: Kind) -> Shape:
    return Shape(of_task=False, fields=MappingProxyType(fields))


SHAPES: Mapping[Event, Shape] = MappingProxyType(
    {
        Event.AUDIT_RECOVERED: _host(ahead=Kind.COUNT, torn_bytes=Kind.COUNT, kept=Kind.TEXTS),
        Event.CANARY_SEEN: _task(name=Kind.TEXT, place=Kind.TEXT, host=Kind.HOST, count=Kind.COUNT),
        Event.CLOCK_SET_BACK: _host(seconds=Kind.COUNT),
        Event.CONNECTION_DENIED: _task(reason=Kind.TEXT, **_USE),
        Event.CREDENTIAL_EXPIRED: _task(credential=Kind.TEXT),
        Event.CREDENTIAL_EXPOSED: _task(**_DECISION),
        Event.CREDENTIAL_FIRST_USE: _task(**_DECISION),
        Event.CREDENTIAL_RENEWED: _task(**_DECISION),
        Event.CREDENTIAL_USED: _task(credential=Kind.TEXT, **_USE),
        Event.DAEMON_STARTED: _host(pid=Kind.COUNT),
        Event.DAEMON_STOPPED: _host(pid=Kind.COUNT),
        Event.ENVOY_RESTARTED: _host(status=Kind.INTEGER),
        Event.HANDBACK_FOUND: _task(found=Kind.TEXTS),
        Event.HOST_USED: _task(**_USE),
        Event.LEASE_EXPIRED: _task(**_LEASE),
        Event.LEASE_GHOST: _task(**_LEASE),
        Event.LEASE_ISSUED: _task(**_LEASE),
        Event.LEASE_ORPHAN: _host(issuer=Kind.TEXT, name=Kind.TEXT),
        Event.LEASE_REVOKED: _task(**_LEASE),
        Event.LEASE_REVOKE_ASKED: _task(credential=Kind.TEXT, uid=Kind.COUNT),
        Event.LEASE_STUCK: _task(**_LEASE),
        Event.NAME_DENIED: _task(host=Kind.HOST, count=Kind.COUNT),
        Event.REQUEST_DENIED: _task(reason=Kind.TEXT, **_USE),
        Event.SECRET_REMOVED: _host(name=Kind.TEXT),
        Event.SECRET_SET: _host(name=Kind.TEXT),
        Event.TASK_CLOSED: _task(reason=Kind.TEXT, exit_code=Kind.INTEGER, requests=Kind.COUNT, denied=Kind.COUNT),
        Event.TASK_OPENED: _task(
            agent_class=Kind.TEXT,
            uid=Kind.COUNT,
            purpose=Kind.TEXT,
            profile=Kind.TEXT,
            workspace=Kind.TEXT,
            ttl_s=Kind.COUNT,
            credentials=Kind.TEXTS,
        ),
        Event.USAGE_MISMATCH: _task(counted=Kind.INTEGER, recorded=Kind.COUNT),
    }
)


class Record(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One line of the log, as it is stored.

    ``time``: RFC 3339 in UTC with microseconds. ``previous``, ``hash``: SHA-256 in hex, see
    :mod:`leasehold.broker.audit.chain`. ``event`` and ``outcome`` are plain text here, so that a log of another
    version can still be verified.
    """

    seq: int
    time: str
    event: str
    outcome: str
    task: str | None
    fields: dict[str, Value]
    previous: str
    hash: str
    mac: str

    def as_dict(self) -> dict[str, Any]:
        """The form that the API and ``--json`` return."""
        return {name: getattr(self, name) for name in self.__struct_fields__}
