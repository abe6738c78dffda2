"""How every command line of the project begins and ends: lazy groups, exit codes, one clear sentence.

``run`` starts a click command and turns whatever ends it into an exit code and, where something went wrong,
one sentence on standard error; a traceback is shown with --debug only. ``LazyGroup`` lists subcommands
without importing them, so `sdwan --help` needs neither root nor numpy nor BCC.
"""

from __future__ import annotations

import importlib
import os
import sys
import traceback
from collections.abc import Mapping

import click

from sdwan.errors import SdwanError, redact

EXIT_OK = 0
EXIT_ERROR = 1
"""Something was refused or failed; the sentence on standard error says what."""
EXIT_USAGE = 2
"""The command line itself is wrong."""
EXIT_NOT_RUNNING = 3
"""The command needs a running edge and there is none."""
EXIT_INTERRUPTED = 130
"""128 + SIGINT, as shells count it."""

EXIT_CODES_HELP = "Exit codes: 0 done, 1 refused or failed, 2 wrong usage, 3 no running edge."


class NotRunningError(SdwanError):
    """A command needs the running edge, and there is none."""


class LazyGroup(click.Group):
    """A group whose commands are imported when they are called.

    ``lazy`` maps a command's name to ("module:attribute", one line of help).
    """

    def __init__(self, *args: object, lazy: Mapping[str, tuple[str, str]], **kwargs: object) -> None:
        super().__init__(*args, **kwargs)  # type: ignore[arg-type]
        self._lazy = lazy

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names in the order they were given."""
        return list(self._lazy)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import and return one command."""
        if cmd_name not in self._lazy:
            return None
        module_name, _, attribute = self._lazy[cmd_name][0].partition(":")
        command = getattr(importlib.import_module(module_name), attribute)
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list of commands from the table, importing nothing."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, line) in self._lazy.items()])


def run(command: click.Command, name: str, args: list[str] | None = None) -> int:
    """Run a command line; return its exit code. ``--debug`` anywhere shows tracebacks."""
    arguments = list(sys.argv[1:] if args is None else args)
    debug = "--debug" in arguments
    try:
        result = command.main(args=arguments, prog_name=name, standalone_mode=False)
        return result if isinstance(result, int) else EXIT_OK
    except click.exceptions.Exit as end:
        return end.exit_code
    except click.Abort:
        return EXIT_INTERRUPTED
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except BrokenPipeError:
        # The reader of our output went away (`| head`); keep Python from trying to write again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_OK
    except SdwanError as error:
        return _fail(
            name, str(error), EXIT_NOT_RUNNING if isinstance(error, NotRunningError) else EXIT_ERROR, debug
        )
    except PermissionError as error:
        return _fail(name, f"{error}; this needs root", EXIT_ERROR, debug)
    except Exception as error:
        told = f"internal error, please report it with the output of --debug: {type(error).__name__}: {error}"
        return _fail(name, told, EXIT_ERROR, debug)


def _fail(name: str, sentence: str, code: int, debug: bool) -> int:
    if debug:
        traceback.print_exc()
    click.echo(f"{name}: {redact(sentence)}", err=True)
    return code
