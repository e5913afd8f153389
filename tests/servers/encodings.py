"""The forms in which a credential may come back, and how to look for all of them."""

from __future__ import annotations

import base64
import ctypes
import ctypes.util
import gzip
import zlib
from collections.abc import Callable


def percent(data: bytes) -> bytes:
    """Every octet percent-encoded (RFC 3986), also the unreserved ones."""
    return b"".join(b"%%%02X" % byte for byte in data)


def percent_reserved(data: bytes) -> bytes:
    """Only what is not unreserved percent-encoded, as clients do."""
    keep = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~"
    return b"".join(bytes([byte]) if byte in keep else b"%%%02X" % byte for byte in data)


ENCODINGS: dict[str, Callable[[bytes], bytes]] = {
    "raw": lambda data: data,
    "base64": base64.b64encode,
    "base64url": base64.urlsafe_b64encode,
    "hex": lambda data: data.hex().encode(),
    "hex-upper": lambda data: data.hex().upper().encode(),
    "percent": percent,
    "percent-lower": lambda data: percent(data).lower(),
    "percent-reserved": percent_reserved,
    "reversed": lambda data: data[::-1],
}


def forms(secret: bytes) -> dict[str, bytes]:
    """What to look for: each encoding, and base64 at the three places where it may start in a longer text."""
    found = {name: encode(secret) for name, encode in ENCODINGS.items()}
    for name, encode in (("base64", base64.b64encode), ("base64url", base64.urlsafe_b64encode)):
        found[name] = encode(secret[: len(secret) // 3 * 3])
        for shift in (1, 2):
            whole = (len(secret) + shift) // 3 * 3 - shift
            found[f"{name}+{shift}"] = encode(bytes(shift) + secret[:whole])[4:]
    return found


def find(secret: str | bytes, text: str | bytes) -> list[str]:
    """The names of the encodings in which ``secret`` stands in ``text``; empty is good."""
    needle = secret.encode() if isinstance(secret, str) else secret
    hay = text.encode("utf-8", "surrogateescape") if isinstance(text, str) else text
    return [name for name, form in forms(needle).items() if form in hay]


def deflate(data: bytes) -> bytes:
    return zlib.compress(data)


def brotli(data: bytes) -> bytes:
    """Brotli (RFC 7932) by the system's library, which curl needs as well."""
    library = _library("brotlienc")
    size = ctypes.c_size_t(len(data) + 1024)
    out = ctypes.create_string_buffer(size.value)
    done = library.BrotliEncoderCompress(5, 22, 0, ctypes.c_size_t(len(data)), data, ctypes.byref(size), out)
    if not done:
        raise OSError("brotli failed")
    return out.raw[: size.value]


def zstd(data: bytes) -> bytes:
    """Zstandard (RFC 8878) by the system's library, which curl needs as well."""
    library = _library("zstd")
    library.ZSTD_compress.restype = ctypes.c_size_t
    room = len(data) + 1024
    out = ctypes.create_string_buffer(room)
    size = library.ZSTD_compress(out, ctypes.c_size_t(room), data, ctypes.c_size_t(len(data)), 3)
    if size > room:
        raise OSError("zstd failed")
    return out.raw[:size]


COMPRESSIONS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "deflate": deflate,
    "br": brotli,
    "zstd": zstd,
}


def _library(name: str) -> ctypes.CDLL:
    return ctypes.CDLL({"brotlienc": "libbrotlienc.so.1", "zstd": "libzstd.so.1"}[name])
