"""What revoking needs is kept with the lease, sealed: under AES-256-GCM, bound to the lease's id (DESIGN 6)."""

from __future__ import annotations

import secrets

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from leasehold.core.errors import LedgerError
from leasehold.core.secret import Secret

_FORMAT = 1
_NONCE_BYTES = 12


class Recipes:
    """Seals and opens recipes with a key of :func:`leasehold.broker.vault.keys.ledger_key`."""

    def __init__(self, key: Secret) -> None:
        self._cipher = AESGCM(key.reveal())

    def seal(self, entry_id: str, recipe: Secret) -> bytes:
        """What may be stored: the nonce, then what is sealed."""
        nonce = secrets.token_bytes(_NONCE_BYTES)
        return nonce + self._cipher.encrypt(nonce, recipe.reveal(), _associated(entry_id))

    def open(self, entry_id: str, sealed: bytes) -> Secret:
        """What was sealed for this lease; ``LedgerError`` when it was changed, or sealed for another or otherwise."""
        try:
            nonce, rest = sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:]
            return Secret(self._cipher.decrypt(nonce, rest, _associated(entry_id)))
        except (InvalidTag, ValueError):
            pass
        # Raised here, where no exception is left to carry anything.
        raise LedgerError(
            f"the recipe of lease {entry_id} does not open: it was changed, or the vault's key is another one",
            hint="restore the vault's key; until then this lease can only be taken back at the provider by hand",
        )


def _associated(entry_id: str) -> bytes:
    return f"leasehold lease {_FORMAT} {entry_id}".encode()
