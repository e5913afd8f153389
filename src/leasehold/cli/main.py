"""The ``leasehold`` command: one table of subcommands, each imported when it is called."""

from __future__ import annotations

import sys

from leasehold.core.errors import LeaseholdError

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

# Name, module below leasehold.cli, one line. The order is the help's.
COMMANDS = (
    ("run", "run", "run a command in a compartment that holds no secret"),
    ("init", "init", "write a commented starter configuration"),
    ("secret", "secret", "set, list or remove secrets in the vault"),
    ("credential", "credential", "list the credentials, or check that their secrets can be had"),
    ("audit", "audit", "read and verify the audit log"),
    ("doctor", "doctor", "say what this machine lacks, and how to get it"),
    ("daemon", "daemon", "show or stop the broker daemon"),
    ("completion", "completion", "print shell completion"),
)
_MODULES = {name: file for name, file, _ in COMMANDS}
_INTERRUPTED = 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run one subcommand; returns the exit code (2: wrong usage, 1: failed; ``run`` passes the command's on)."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    parser = build_parser(arguments[:1])
    args = parser.parse_args(arguments)
    if args.subcommand is None:
        parser.print_help()
        return 2
    from importlib import import_module

    module = import_module(f"leasehold.cli.{_MODULES[args.subcommand]}")
    try:
        code: int = module.run(args)
    except LeaseholdError as error:
        sys.stderr.write(f"error: {error.code}: {error.message}\nhint: {error.hint}\n")
        return 2 if error.code == "usage" else 1
    except KeyboardInterrupt:
        return _INTERRUPTED
    except BrokenPipeError:
        sys.stderr.close()
        return 1
    return code


def build_parser(wanted: Sequence[str] | None = None) -> argparse.ArgumentParser:
    """The parser; with ``wanted`` only that subcommand's options are loaded."""
    import argparse
    from importlib import import_module

    from leasehold import __version__

    parser = argparse.ArgumentParser(
        prog="leasehold",
        description="A coding agent can use a credential without ever being able to have one.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"leasehold {__version__}")
    subparsers = parser.add_subparsers(dest="subcommand", metavar="COMMAND")
    for name, file, text in COMMANDS:
        sub = subparsers.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".", allow_abbrev=False)
        if wanted is None or name in wanted:
            import_module(f"leasehold.cli.{file}").add_arguments(sub)
    return parser
