"""``leasehold completion``: made from the parsers, so it is never behind."""

from __future__ import annotations

import argparse

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

SHELLS = ("bash", "zsh", "fish")

# After `--` it is the command's turn: an empty answer makes the shell complete files. The names keep away from those
# that mean something to zsh.
_BASH = """_leasehold() {{
  local _lh_words="" _lh_seen="" _lh_word _lh_at
  COMPREPLY=()
  for ((_lh_at = 1; _lh_at < COMP_CWORD; _lh_at++)); do
    _lh_word="${{COMP_WORDS[_lh_at]}}"
    [ "$_lh_word" = "--" ] && return 0
    case "$_lh_word" in -*) ;; *) _lh_seen="$_lh_seen $_lh_word" ;; esac
  done
  case "${{COMP_WORDS[COMP_CWORD-1]}}" in
{values}
  esac
  if [ -z "$_lh_words" ]; then
    case "$_lh_seen" in
{cases}
    esac
  fi
  COMPREPLY=($(compgen -W "$_lh_words" -- "${{COMP_WORDS[COMP_CWORD]}}"))
}}
complete -o default -F _leasehold leasehold"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("shell", metavar="SHELL", choices=SHELLS, help=", ".join(SHELLS))


def run(args: argparse.Namespace) -> int:
    """0."""
    from leasehold.cli.main import COMMANDS, build_parser

    parsers = {name: build_parser(name) for name, _ in COMMANDS}
    print("\n".join(_fish(parsers) if args.shell == "fish" else _bash(parsers, zsh=args.shell == "zsh")))
    return 0


def _bash(parsers: Mapping[str, argparse.ArgumentParser], *, zsh: bool) -> list[str]:
    cases = [f'      "") _lh_words="{" ".join(parsers)} --help --version" ;;']
    values: dict[str, str] = {}
    for name, parser in parsers.items():
        for path, at in _walk(name, parser):
            follow = [*_actions(at), *_options(at), *_choices(at)]
            cases.append(f'      " {path}"*) _lh_words="{" ".join(follow)}" ;;')
            values |= _values(at)
    # What is longer is more exact, and has to be looked at first.
    cases.sort(key=lambda case: -case.count(" ", 0, case.index(")")))
    shown = "\n".join(f'    {option}) _lh_words="{words}" ;;' for option, words in values.items())
    begin = ["autoload -U +X bashcompinit && bashcompinit"] if zsh else []
    return [*begin, _BASH.format(cases="\n".join(cases), values=shown)]


def _fish(parsers: Mapping[str, argparse.ArgumentParser]) -> list[str]:
    lines = [f"complete -c leasehold -n __fish_use_subcommand -f -a '{' '.join(parsers)}'"]
    for name, parser in parsers.items():
        for path, at in _walk(name, parser):
            seen = " ".join(f"; and __fish_seen_subcommand_from {word}" for word in path.split())[6:]
            words = [*_actions(at), *_choices(at)]
            if words:
                lines.append(f"complete -c leasehold -n '{seen}' -f -a '{' '.join(words)}'")
            values = _values(at)
            for option in _options(at):
                follow = f" -x -a '{values[option]}'" if option in values else ""
                lines.append(f"complete -c leasehold -n '{seen}' -l {option.removeprefix('--')}{follow}")
    return lines


def _walk(path: str, parser: argparse.ArgumentParser) -> Iterator[tuple[str, argparse.ArgumentParser]]:
    """The parser and those of its actions, with the words that lead there."""
    yield path, parser
    for name, inner in _actions(parser).items():
        yield from _walk(f"{path} {name}", inner)


def _actions(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    found: dict[str, argparse.ArgumentParser] = {}
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            found |= action.choices
    return found


def _options(parser: argparse.ArgumentParser) -> list[str]:
    return [option for action in parser._actions for option in action.option_strings if option.startswith("--")]


def _choices(parser: argparse.ArgumentParser) -> list[str]:
    """The words that a positional argument may be."""
    plain = [a for a in parser._actions if not a.option_strings and not isinstance(a, argparse._SubParsersAction)]
    return [str(word) for action in plain for word in action.choices or ()]


def _values(parser: argparse.ArgumentParser) -> dict[str, str]:
    """The options whose values are known, and those."""
    with_choices = [action for action in parser._actions if action.choices]
    return {option: " ".join(map(str, a.choices or ())) for a in with_choices for option in a.option_strings}
