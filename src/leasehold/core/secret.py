"""The only carrier of a secret value."""

from __future__ import annotations

import hmac
from typing import Final, NoReturn


class Secret:
    """A secret value that cannot be printed, compared in variable time, hashed or pickled by accident.

    The one way out is :meth:`reveal`; every place where a value leaves can be found by searching for it.
    """

    __slots__ = ("_value",)

    def __init__(self, value: bytes) -> None:
        if not isinstance(value, bytes):
            raise TypeError("Secret takes bytes")
        self._value: Final = value

    def reveal(self) -> bytes:
        """Return the value itself, as bytes."""
        return self._value

    def __repr__(self) -> str:
        return "Secret(redacted)"

    __str__ = __repr__

    def __format__(self, spec: str) -> str:
        return repr(self)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and hmac.compare_digest(self._value, other._value)

    __hash__ = None  # type: ignore[assignment]  # a hash of a low-entropy value is a guessing oracle

    def __len__(self) -> int:
        return len(self._value)

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        raise TypeError("a Secret cannot be pickled or copied")
