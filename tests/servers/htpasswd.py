"""A password file that nginx and pypiserver read."""

from __future__ import annotations

import base64
import hashlib
from pathlib import Path


def write(path: Path, user: str, password: str) -> Path:
    """Write ``path`` with one user, in the {SHA} form."""
    digest = hashlib.sha1(password.encode(), usedforsecurity=False).digest()
    path.write_text(f"{user}:{{SHA}}{base64.b64encode(digest).decode()}\n")
    return path
