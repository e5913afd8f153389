"""Packages that are installed for a test: what importlib.metadata finds of them, made from their ``pyproject.toml``."""

from __future__ import annotations

import sys
import tomllib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def installed(
    folder: Path, name: str, version: str, entry_points: Mapping[str, Mapping[str, str]], code: Path | None = None
) -> Iterator[None]:
    """Such a package is there, its metadata in ``folder``; its modules are in ``code``, or in ``folder`` too."""
    metadata = folder / f"{name.replace('-', '_')}-{version}.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    lines = [
        line
        for group, points in entry_points.items()
        for line in (f"[{group}]", *(f"{point} = {value}" for point, value in points.items()))
    ]
    (metadata / "entry_points.txt").write_text("\n".join(lines))
    places = [str(folder), *([str(code)] if code else [])]
    sys.path[:0] = places
    try:
        yield
    finally:
        for place in places:
            sys.path.remove(place)


@contextmanager
def installed_from(folder: Path, source: Path) -> Iterator[None]:
    """The package whose ``pyproject.toml``, and modules, are in ``source``."""
    project = tomllib.loads((source / "pyproject.toml").read_text())["project"]
    with installed(folder, project["name"], project["version"], project["entry-points"], source):
        yield
