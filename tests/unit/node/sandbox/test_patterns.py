"""The patterns of hide and read_only."""

from __future__ import annotations

import pytest

from leasehold.core.errors import ConfigError
from leasehold.node.sandbox.patterns import any_match, compile_pattern


@pytest.mark.parametrize(
    ("pattern", "path", "matches"),
    [
        ("secret.txt", "secret.txt", True),
        ("secret.txt", "a/b/secret.txt", True),
        ("secret.txt", "a/secret.txt/b", False),
        ("*.sqlite", "a/b.sqlite", True),
        ("*.sqlite", "a/b.sqlite3", False),
        ("deploy/prod", "deploy/prod", True),
        ("deploy/prod", "a/deploy/prod", False),
        ("deploy/*", "deploy/prod", True),
        ("deploy/*", "deploy/prod/x", False),
        ("deploy/**", "deploy", True),
        ("**/fixtures", "fixtures", True),
        ("**/fixtures", "a/b/fixtures", True),
        ("a/**/z", "a/z", True),
        ("a/**/z", "a/b/c/z", True),
        ("a/**/z", "b/a/z", False),
        ("fil?", "file", True),
        ("fil?", "fil", False),
        ("[id].ts", "[id].ts", True),
        ("[id].ts", "i.ts", False),
        ("a.b", "axb", False),
    ],
)
def test_matching(pattern: str, path: str, matches: bool) -> None:
    assert any_match([compile_pattern(pattern)], path, is_folder=False) is matches


def test_a_slash_at_the_end_means_folders_only() -> None:
    pattern = compile_pattern("data/")
    assert any_match([pattern], "x/data", is_folder=True) and not any_match([pattern], "x/data", is_folder=False)


def test_only_paths_without_wildcards_can_be_made_up() -> None:
    assert compile_pattern("deploy/prod").literal == "deploy/prod"
    assert compile_pattern("data/").literal == "data" and compile_pattern("**/data").literal is None
    assert compile_pattern("a/**").literal is None and compile_pattern("x?").literal is None


@pytest.mark.parametrize("text", ["", "/", "/etc", "a//b", "../x", "a/./b", "!x", "**", "a\0b", "."])
def test_what_can_never_apply_is_an_error(text: str) -> None:
    with pytest.raises(ConfigError, match="pattern"):
        compile_pattern(text)
