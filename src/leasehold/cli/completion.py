"""``leasehold completion bash|zsh|fish``: made from the parser, so it is never behind."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse

_BASH = """_leasehold() {{
  local words
  case "${{COMP_WORDS[1]}}" in
{cases}
    *) words="{commands}" ;;
  esac
  [ "$COMP_CWORD" -eq 1 ] && words="{commands}"
  COMPREPLY=($(compgen -W "$words" -- "${{COMP_WORDS[COMP_CWORD]}}"))
}}
complete -o default -F _leasehold leasehold
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("shell", choices=("bash", "zsh", "fish"))


def run(args: argparse.Namespace) -> int:
    words = _words()
    if args.shell == "fish":
        print(f"complete -c leasehold -n __fish_use_subcommand -f -a '{' '.join(words)}'")
        for name, options in words.items():
            print(f"complete -c leasehold -n '__fish_seen_subcommand_from {name}' -a '{' '.join(options)}'")
        return 0
    if args.shell == "zsh":
        print("autoload -U +X bashcompinit && bashcompinit")
    cases = "\n".join(f'    {name}) words="{" ".join(options)}" ;;' for name, options in words.items())
    print(_BASH.format(cases=cases, commands=" ".join(words)), end="")
    return 0


def _words() -> dict[str, list[str]]:
    """Subcommand to what may follow it."""
    import argparse

    from leasehold.cli.main import build_parser

    found: dict[str, list[str]] = {}
    for action in build_parser()._actions:
        if isinstance(action, argparse._SubParsersAction):
            for name, parser in action.choices.items():
                options = [o for a in parser._actions for o in a.option_strings if o.startswith("--")]
                nested = [c for a in parser._actions if isinstance(a, argparse._SubParsersAction) for c in a.choices]
                found[name] = [*nested, *options]
    return found
