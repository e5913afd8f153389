"""The ``leasehold`` command: one table of subcommands, each imported when it is called."""

from __future__ import annotations

import argparse
import os
import sys
from contextlib import suppress
from importlib import import_module

from leasehold import __version__
from leasehold.core.errors import LeaseholdError, UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import NoReturn

# Name and module below leasehold.cli, and what it does. The order is the help's.
COMMANDS = (
    ("run", "run a command in a compartment that holds no secret"),
    ("init", "write a commented starter configuration"),
    ("secret", "set, list or remove secrets in the vault"),
    ("credential", "list the credentials, or check that their secrets can be had"),
    ("lease", "list leases, and take them back at once"),
    ("audit", "read and verify the audit log"),
    ("doctor", "say what this machine lacks, and how to get it"),
    ("daemon", "show or stop the broker daemon"),
    ("completion", "print a shell's completion"),
    ("version", "print the version"),
)
_DESCRIPTION = "A coding agent can use a credential without ever being able to have one."
_FAILED, _USAGE, _RUN_FAILED, _INTERRUPTED = 1, 2, 125, 130
_WIDTH = 80


class Parser(argparse.ArgumentParser):
    """A parser whose complaints look like all others, and that does not guess what an abbreviation means."""

    def __init__(self, **options: object) -> None:
        super().__init__(**{"allow_abbrev": False, "formatter_class": Formatter, **options})  # type: ignore[arg-type]  # passed on

    def error(self, message: str) -> NoReturn:
        raise UsageError(message, hint=f"{self.prog} --help")

    def parse_args(self, args: Sequence[str], namespace: None = None) -> argparse.Namespace:  # type: ignore[override]  # as it is used here
        """What is too much is not repeated: it may be a secret that somebody put there."""
        found, rest = self.parse_known_args(args, namespace)
        options = [word.partition("=")[0] for word in rest if word.startswith("-")]
        if rest:
            self.error(f"there is no option {', '.join(options)}" if options else "too many arguments")
        return found

    def _check_value(self, action: argparse.Action, value: object) -> None:
        if action.choices is not None and value not in action.choices:
            raise argparse.ArgumentError(action, f"{value!a} is none of {', '.join(map(str, action.choices))}")


class Formatter(argparse.HelpFormatter):
    """Asks for the terminal's width itself: argparse would import modules for it, even when no help is shown."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, width=_width() - 2)


def command() -> NoReturn:
    """The console script. All is taken down when ``main`` returns: Python would take three milliseconds for itself."""
    code = main()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError):
            stream.flush()
    os._exit(code)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one subcommand. Returns the exit code: 2 for wrong usage, 1 when it failed; ``run`` passes the command's on,
    and all that is Leasehold's own is 125 there, because a command may end with 1 and 2 as well."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    name, args = arguments[0] if arguments else "", None
    try:
        parser = _parser(name)
        args = parser.parse_args(arguments[1:] if name in dict(COMMANDS) else arguments)
        code = _perform(name, args, parser)
        sys.stdout.flush()
    except LeaseholdError as error:
        from leasehold.cli import output

        output.error(error, as_json=bool(getattr(args, "json", False)))
        return _RUN_FAILED if name == "run" else _USAGE if error.code == UsageError.code else _FAILED
    except KeyboardInterrupt:
        return _INTERRUPTED
    except BrokenPipeError:
        # Whoever read has enough; at its end Python would complain about what it cannot flush.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return _FAILED
    except Exception:
        if name != "run":
            raise
        import traceback

        traceback.print_exc()
        return _RUN_FAILED
    return code


def build_parser(name: str) -> Parser:
    """The parser of one subcommand."""
    text = dict(COMMANDS)[name]
    parser = Parser(prog=f"leasehold {name}", description=f"{text[0].upper()}{text[1:]}.")
    if name != "version":
        import_module(f"leasehold.cli.{name}").add_arguments(parser)
    return parser


def build_overview() -> Parser:
    """The parser of what is no subcommand: it shows which there are."""
    width = max(len(name) for name, _ in COMMANDS)
    commands = "\n".join(f"  {name:{width}}  {text}" for name, text in COMMANDS)
    parser = Parser(
        prog="leasehold",
        usage="leasehold [-h] [--version] COMMAND ...",
        description=f"{_DESCRIPTION}\n\ncommands:\n{commands}",
        epilog="`leasehold COMMAND --help` says more about each.",
        formatter_class=lambda prog: argparse.RawDescriptionHelpFormatter(prog, width=_width() - 2),
    )
    parser.add_argument("--version", action="version", version=f"leasehold {__version__}")
    return parser


def _parser(name: str) -> Parser:
    """The parser for a command line that begins with this word."""
    if name in dict(COMMANDS):
        return build_parser(name)
    if not name or name.startswith("-"):
        return build_overview()
    from difflib import get_close_matches

    near = get_close_matches(name, dict(COMMANDS), 1)
    hint = f"did you mean `leasehold {near[0]}`?" if near else "leasehold --help"
    raise UsageError(f"there is no command {name!a}", hint=hint)


def _perform(name: str, args: argparse.Namespace, parser: Parser) -> int:
    if name == "version":
        print(f"leasehold {__version__}")
        return 0
    if name in dict(COMMANDS):
        code: int = import_module(f"leasehold.cli.{name}").run(args)
        return code
    parser.print_help()
    return _USAGE


def _width() -> int:
    """Columns of the terminal, or of what ``COLUMNS`` says."""
    given = os.environ.get("COLUMNS", "")
    if given.isdigit() and int(given) > 0:
        return int(given)
    try:
        return os.get_terminal_size().columns or _WIDTH
    except OSError:
        return _WIDTH
