"""`cupola`, the command: one file per command, and here what becomes of their errors."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from cupola.cli import quick
from cupola.cli.output import Exit, complain, exit_code
from cupola.errors import CupolaError


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs one command and exits with its code. Errors are one sentence; `--debug` adds where they come from."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    try:
        _dispatch(arguments)
    except KeyboardInterrupt:
        sys.exit(Exit.INTERRUPTED)
    except BrokenPipeError:  # the reader of our output has gone, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for what is flushed at the end
        sys.exit(Exit.FAILED)
    except CupolaError as error:
        _raise_if_debugging(arguments)
        complain(error.message)
        sys.exit(exit_code(error))
    except Exception as error:  # the outermost edge: what we did not foresee is a sentence as well
        _raise_if_debugging(arguments)
        complain(f"internal error: {type(error).__name__}: {error}. `cupola --debug …` shows where.")
        sys.exit(1)


def _dispatch(arguments: Sequence[str]) -> None:
    if quick.took(arguments):
        return
    from cupola.cli import commands

    commands.app()(list(arguments))


def _raise_if_debugging(arguments: Sequence[str]) -> None:
    """Raises the error being handled again if `--debug` stands before the command."""
    for argument in arguments:
        if argument == "--debug":
            raise
        if not argument.startswith("-"):
            return
