"""References to secrets: read exactly, and never repeated when they are none."""

from __future__ import annotations

import pytest

from leasehold.core.references import Reference, check_secret_name, parse_reference


@pytest.mark.parametrize(
    ("text", "kind", "rest"),
    [
        ("vault:forge-token", "vault", "forge-token"),
        ("vault:0.a_b", "vault", "0.a_b"),
        ("env:FORGE_TOKEN", "env", "FORGE_TOKEN"),
        ("file:/run/secrets/forge", "file", "/run/secrets/forge"),
        ("file:~/.config/forge:token", "file", "~/.config/forge:token"),
        ("command:op read op://vault/item", "command", "op read op://vault/item"),
        ("command:/opt/bin/pass show 'a b'", "command", "/opt/bin/pass show 'a b'"),
        ("command:~/bin/pass", "command", "~/bin/pass"),
    ],
)
def test_references_are_read(text: str, kind: str, rest: str) -> None:
    assert parse_reference(text) == Reference(kind=kind, rest=rest)


def test_a_commands_words_are_those_of_a_shell_that_expands_nothing() -> None:
    assert parse_reference("command:pass show 'a b' $HOME `x` *").words() == [
        "pass",
        "show",
        "a b",
        "$HOME",
        "`x`",
        "*",
    ]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("ghp_hidden", "expected a reference"),
        ("hidden:hidden", "expected a reference"),
        ("", "expected a reference"),
        (":x", "expected a reference"),
        ("VAULT:x", "expected a reference"),
        ("vault:", "'' is no name for a secret"),
        ("vault:Forge", "'Forge' is no name for a secret"),
        ("vault:../x", "is no name for a secret"),
        ("vault:" + "a" * 64, "is no name for a secret"),
        ("env:", "'' is no name of a variable"),
        ("env:A-B", "'A-B' is no name of a variable"),
        ("env:A=B", "is no name of a variable"),
        ("file:token", "expected an absolute path"),
        ("file:./token", "expected an absolute path"),
        ("file:~other/token", "expected an absolute path"),
        ("file:/a\0b", "expected an absolute path"),
        ("command:", "no command line: expected a program"),
        ("command:  ", "no command line: expected a program"),
        ("command:bin/pass", "no command line: expected a program"),
        ("command:./pass", "no command line: expected a program"),
        ("command:pass 'x", "no command line: No closing quotation"),
        ("command:pass a\0b", "no command line: expected a program"),
    ],
)
def test_what_is_no_reference_is_refused_and_not_repeated(text: str, said: str) -> None:
    with pytest.raises(ValueError, match=said) as caught:
        parse_reference(text)
    assert "hidden" not in str(caught.value)
    assert caught.value.__context__ is None


def test_a_name_of_a_secret() -> None:
    assert check_secret_name("forge-token") == "forge-token"
