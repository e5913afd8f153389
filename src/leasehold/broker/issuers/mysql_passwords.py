"""What MySQL and MariaDB keep of a password. With it made here, no statement that could be logged has the password.

``mysql_native_password``: SHA-1 of SHA-1. ``caching_sha2_password``: SHA-crypt with SHA-256 and 5000 rounds (U.
Drepper, "Unix crypt using SHA-256 and SHA-512", 0.6), its salt 20 bytes long.
"""

from __future__ import annotations

import hashlib

_ROUNDS = 5000
_LETTERS = "./0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
SALT_BYTES = 20


def native(password: bytes) -> str:
    """For ``mysql_native_password``. Good for passwords made by chance only: it has no salt and takes no time."""
    once = hashlib.sha1(password).digest()  # noqa: S324  what the server computes
    return f"*{hashlib.sha1(once).hexdigest().upper()}"  # noqa: S324


def caching_sha2(password: bytes, salt: str) -> str:
    """For ``caching_sha2_password``. ``salt``: ``SALT_BYTES`` of letters and digits."""
    return f"$A$005${salt}{sha_crypt(password, salt.encode())}"


def sha_crypt(password: bytes, salt: bytes) -> str:
    """The last part of ``$5$…``; the steps of the description are said by their numbers."""
    alternate = _sha256(password, salt, password)  # 4 to 8
    first = [password, salt, _filled(alternate, len(password))]  # 1 to 3, 9, 10
    bits = len(password)
    while bits:  # 11
        first.append(alternate if bits & 1 else password)
        bits >>= 1
    digest = _sha256(*first)  # 12
    p = _filled(_sha256(password * len(password)), len(password))  # 13 to 16
    s = _filled(_sha256(salt * (16 + digest[0])), len(salt))  # 17 to 20
    for round_ in range(_ROUNDS):  # 21
        parts = (
            p if round_ & 1 else digest,
            s if round_ % 3 else b"",
            p if round_ % 7 else b"",
            digest if round_ & 1 else p,
        )
        digest = _sha256(*parts)
    return _encoded(digest)  # 22


def _sha256(*parts: bytes) -> bytes:
    return hashlib.sha256(b"".join(parts)).digest()


def _filled(block: bytes, length: int) -> bytes:
    return (block * (length // len(block) + 1))[:length]


def _encoded(digest: bytes) -> str:
    """Three bytes, which go round by thirds, make four letters; the last two make three."""
    text = []
    a, b, c = 0, 10, 20
    for _ in range(10):
        text += _letters(digest[a] << 16 | digest[b] << 8 | digest[c], 4)
        a, b, c = c + 1, a + 1, b + 1
    return "".join((*text, *_letters(digest[31] << 8 | digest[30], 3)))


def _letters(value: int, count: int) -> list[str]:
    return [_LETTERS[value >> 6 * at & 63] for at in range(count)]
