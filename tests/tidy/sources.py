"""The files of the project, as the tests of its style see them."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
_MADE = {".git", ".venv", ".venv-peers", "build", "node_modules", "__pycache__"}
_SHOWN_MAX = 40
_CACHES = ("_cache", ".hypothesis", ".egg-info")
TEXTS = {".py", ".md", ".toml", ".lua", ".java", ".mjs", ".json", ".in", ".lock", ".sh", ".cfg", ".ini", ".txt", ""}


@cache
def files() -> tuple[Path, ...]:
    """Every file that belongs to the project: not what set-up, tests and builds make."""
    return tuple(sorted(_walk(ROOT)))


def _walk(folder: Path) -> Iterator[Path]:
    for path in folder.iterdir():
        if path.name in _MADE or path.name.endswith(_CACHES) or path.is_symlink():
            continue
        if path.is_dir():
            yield from _walk(path)
        elif path.suffix in TEXTS and not path.name.startswith(".coverage"):
            yield path


def python(*folders: str) -> list[Path]:
    """The Python files below these folders of the project; of all when none is given."""
    return [path for path in files() if path.suffix == ".py" and (not folders or _below(path, folders))]


def _below(path: Path, folders: tuple[str, ...]) -> bool:
    return any(path.is_relative_to(ROOT / folder) for folder in folders)


@cache
def text(path: Path) -> str:
    return path.read_text(encoding="utf-8")


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(text(path), str(path))


def name(path: Path) -> str:
    """The path as people write it."""
    return path.relative_to(ROOT).as_posix()


def lines(path: Path) -> Iterator[tuple[str, str]]:
    """Each line with its place, as ``file:number``."""
    for number, line in enumerate(text(path).splitlines(), 1):
        yield f"{name(path)}:{number}", line


def assert_none(found: Iterable[object]) -> None:
    """Fail with what was found, one a line."""
    listed = [str(item) for item in found]
    if len(listed) > _SHOWN_MAX:
        listed[_SHOWN_MAX:] = [f"and {len(listed) - _SHOWN_MAX} more"]
    assert not listed, "\n".join(["", *listed])
