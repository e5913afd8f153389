"""What the contract suite needs from the tests of one issuer: a way to look at the provider past the issuer."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Protocol

from leasehold.broker.issuers.ports import Issuer
from leasehold.core.secret import Secret

Material = Mapping[str, Secret]


class Refused(Exception):
    """The provider did not let a client in, or not do what it tried. Everything else that fails is an error."""


class Session(Protocol):
    """A connection that a client has open."""

    def alive(self) -> bool:
        """Whether the provider still answers on it."""

    def close(self) -> None:
        """Let go of it; idempotent."""


class Subject(Protocol):
    """An issuer with its real provider. Nothing here goes through the issuer but :meth:`issuer`.

    ``secret``: the administrative one. ``scope``: all that is configured, and what an order asks for; ``within``: what
    can be done with it, ``beyond``: what cannot. ``less``: a part of the scope, with which ``beyond_less``, which is
    within the whole, is refused. ``outside``: well-formed, and not configured. ``hostile``: changes to the parameters,
    each of which has to be refused as configuration. ``ends_by_itself``: whether the provider can end an account at a
    given time; where it cannot, the ledger's sweep is all that does.
    """

    secret: Secret
    scope: frozenset[str]
    within: Sequence[str]
    beyond: Sequence[str]
    less: frozenset[str]
    beyond_less: str
    outside: frozenset[str]
    hostile: Sequence[Mapping[str, object]]
    ends_by_itself: bool

    def parameters(self, address: tuple[str, int] | None = None) -> Mapping[str, object]:
        """The issuer's parameters, for the provider itself or for something else that listens at ``address``."""

    def issuer(self, parameters: Mapping[str, object], secret: Secret) -> Issuer:
        """The issuer as the product makes it; ``ConfigError`` when the parameters are wrong."""

    def attempt(self, material: Material, operation: str) -> None:
        """Do it with a real client; ``Refused`` when the provider does not let it."""

    def open(self, material: Material) -> Session:
        """Open a connection and leave it open; ``Refused`` likewise."""

    def accounts(self) -> Collection[str]:
        """The names of all accounts, ours or not."""

    def plant(self, name: str) -> None:
        """Create an account without rights, as a crash half-way would leave it, or as somebody else has it."""

    def remove(self, name: str) -> None:
        """Remove a planted account; nothing when it is not there."""

    def expires(self, name: str) -> float | None:
        """When the provider ends the account by itself, in Unix seconds; ``None`` when it does not."""

    def sessions(self, name: str) -> int:
        """How many connections the account has open."""
