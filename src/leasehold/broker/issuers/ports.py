"""The one interface between leases and providers. Every issuer runs the same contract tests (``tests/contract``)."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Protocol

from leasehold.broker.lease.machine import Revocability
from leasehold.core.secret import Secret

NAME_PREFIX = "lh_"
"""What every credential's name at a provider begins with: a sweep takes nothing else for ours."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What is to be created. Fixed and durable before the provider is asked, so that it can be created or adopted.

    ``name``: at the provider; ``[a-z0-9_]``, at most 32 bytes, begins with ``NAME_PREFIX``. ``secret``: the password or
    key, where the provider lets us choose it; 32 bytes of ``[A-Za-z0-9]``. ``expires``: Unix seconds; the provider must
    not let it last longer. ``scope``: what it may do, each a text of the issuer's own language. ``ordered``: Unix
    seconds, for an issuer that has to say since when it holds; 0 where that is not known. ``exposed``: whether any
    client may come with it, and not only what stands between a compartment and the provider.
    """

    name: str
    secret: Secret
    task: str
    expires: float
    scope: frozenset[str]
    ordered: float = 0.0
    exposed: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Issued:
    """What was created, as the provider says: read back, not repeated from the order.

    ``material``: what a client needs, by field (``username``, ``password``, ``token`` …); all of it as secrets.
    ``expires``: where the provider ends nothing by itself, the order's: the ledger's sweep is what ends it then.
    ``kept``: what taking it back needs besides its name (a token that revokes itself, a serial number); sealed in the
    ledger until then.
    """

    material: Mapping[str, Secret]
    expires: float
    scope: frozenset[str]
    kept: Secret | None = None


class Issuer(Protocol):
    """Creates and takes back credentials at one provider. Holds the administrative credential, and no state.

    Each method raises ``IssuerError`` when the provider refuses or cannot be reached, and may be called again with the
    same arguments after a crash at any point.

    One that can take back what it gave may have ``outlasts_s`` besides: by how many seconds that may outlast an order,
    at a provider that lets nothing end as soon as is ordered. The ledger takes it back when the order's time is over.
    """

    kind: str
    revocability: Revocability
    scope: frozenset[str]
    """All that its configuration grants: no order may have more."""

    async def check(self) -> None:
        """The provider can be reached, and the administrative credential may do what is needed and no more."""

    async def issue(self, order: Order) -> Issued:
        """Create it, rights last; adopt what an earlier attempt has left under the same name."""

    async def revoke(self, name: str, kept: Secret | None = None) -> bool:
        """Take it back, cut what it has open, and read back that it is gone; also when it was not there.

        False when all that could be done is done, and what may be left of it ends only when its time is over.
        ``kept``: what :class:`Issued` said; ``None`` also after a crash between the creation and its record.
        """

    async def find(self) -> Collection[str]:
        """The names of ours that the provider has, by ``NAME_PREFIX``; none where it cannot list.

        One that has ``lists`` set lists all of them: what is not among them is not there.
        """

    async def close(self) -> None:
        """Close connections; idempotent."""
