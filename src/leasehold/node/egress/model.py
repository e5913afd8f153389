"""Records of the data plane: where a compartment's requests may go, and in which state each way is."""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from leasehold.core.model import STREAM_PORTS, Inject, Rule
from leasehold.core.secret import Secret

BROKER_CLUSTER = "leasehold-broker"
"""Envoy's name for the socket that serves its configuration, decisions and access log."""


class State(enum.Enum):
    """``PENDING`` asks the broker at the next request, ``LIVE`` passes, ``CLOSED`` denies."""

    PENDING = "pending"
    LIVE = "live"
    CLOSED = "closed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Destination:
    """The one name and port that is checked, dialled and verified."""

    scheme: str
    host: str
    port: int

    @property
    def is_stream(self) -> bool:
        """Whether connections to it are no HTTP."""
        return self.scheme in STREAM_PORTS

    @property
    def authority(self) -> str:
        """The Host header that the upstream gets: the port only when it is not the scheme's own."""
        standard = {"https": 443, "http": 80}[self.scheme]
        return self.host if self.port == standard else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Upstream:
    """One cluster: one credential (or none) at one destination. ``rules`` share it; ``websocket`` has its own."""

    name: str
    destination: Destination
    credential: str | None
    inject: Inject | None
    websocket: bool
    rules: tuple[Rule, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Listen:
    """Where Envoy listens for a compartment: inside its network namespace, or on unix sockets for the relay.

    What is no HTTP has a listener for each host: at its address of ``addresses``, or on its socket of ``streams``.
    """

    netns: str | None = None
    sockets: Mapping[int, str] = field(default_factory=dict)
    addresses: Mapping[str, str] = field(default_factory=dict)
    streams: Mapping[tuple[str, int], str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Leaf:
    """A certificate chain (PEM) and its key for one name."""

    chain: bytes
    key: Secret


@dataclass(frozen=True, slots=True, kw_only=True)
class Released:
    """The broker's yes: the addresses to dial, and the whole header value to inject (``None``: no credential).

    For what is no HTTP ``username`` and ``secret`` are what is logged in with.
    """

    addresses: Sequence[str]
    secret: Secret | None
    username: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Denied:
    """The broker's no, as the agent reads it. ``status``: the HTTP status."""

    code: str
    message: str
    hint: str
    status: int = 403


def upstreams(task: str, rules: Sequence[tuple[str | None, Rule]]) -> tuple[Upstream, ...]:
    """Group ``(credential, rule)`` pairs into upstreams: never two credentials, or two ways of injecting, in one."""
    groups: dict[tuple[str | None, Destination, Inject | None, bool], list[Rule]] = {}
    for credential, rule in rules:
        destination = Destination(scheme=rule.scheme, host=rule.host, port=rule.port)
        groups.setdefault((credential, destination, rule.inject, rule.websocket), []).append(rule)
    return tuple(
        Upstream(
            name=f"{task}/{number}/{credential or '-'}/{destination.host}:{destination.port}",
            destination=destination,
            credential=credential,
            inject=inject,
            websocket=websocket,
            rules=tuple(members),
        )
        for number, ((credential, destination, inject, websocket), members) in enumerate(groups.items())
    )
