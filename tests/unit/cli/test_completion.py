"""Completion in bash: what may follow, where it may follow."""

from __future__ import annotations

import subprocess

import pytest

from leasehold.cli.main import COMMANDS, main


def script(shell: str, capsys: pytest.CaptureFixture[str]) -> str:
    assert main(["completion", shell]) == 0
    return capsys.readouterr().out


def completed(line: str, capsys: pytest.CaptureFixture[str]) -> set[str]:
    """What bash offers at the end of ``line``."""
    words = line.split(" ")
    setting = f"COMP_WORDS=({' '.join(repr(word) for word in words)}); COMP_CWORD={len(words) - 1}; COMPREPLY=(stale)"
    text = f'{script("bash", capsys)}\n{setting}\n_leasehold; printf "%s\\n" "${{COMPREPLY[@]}}"\n'
    done = subprocess.run(["bash", "-u", "-c", text], capture_output=True, text=True, check=True)
    assert done.stderr == ""
    return set(done.stdout.split())


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("leasehold ", {*(name for name, _ in COMMANDS), "--help", "--version"}),
        ("leasehold se", {"secret"}),
        ("leasehold secret ", {"set", "list", "rm", "--help"}),
        ("leasehold secret list --", {"--json", "--help"}),
        ("leasehold secret set --", {"--help"}),
        ("leasehold run --cl", {"--class"}),
        ("leasehold run --class ", {"local", "ci", "remediation"}),
        ("leasehold run --class c", {"ci"}),
        ("leasehold completion ", {"bash", "zsh", "fish", "--help"}),
        ("leasehold audit query --l", {"--limit"}),
        ("leasehold run -- --", set()),
        ("leasehold run --task x -- make --cl", set()),
        ("leasehold frobnicate ", set()),
    ],
)
def test_what_may_follow_is_offered(line: str, words: set[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert completed(line, capsys) == words


def test_zsh_uses_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    bash = script("bash", capsys)
    assert script("zsh", capsys) == f"autoload -U +X bashcompinit && bashcompinit\n{bash}"


def test_fish_has_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    lines = script("fish", capsys).splitlines()
    assert all(line.startswith("complete -c leasehold -n ") for line in lines)
    assert "complete -c leasehold -n '__fish_seen_subcommand_from secret' -f -a 'set list rm'" in lines
    assert "complete -c leasehold -n '__fish_seen_subcommand_from run' -l class -x -a 'local ci remediation'" in lines
