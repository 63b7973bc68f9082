"""`cupola run`: one command with the variables of `cupola env`, nothing set in the shell."""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer

from cupola.cli.options import ProjectOption, StateDir
from cupola.cli.state_dir import chosen_state_dir
from cupola.cli.variables import become, variables_of


def run(
    command: Annotated[list[str], typer.Argument(metavar="COMMAND...", help="What to run, after `--`.")],
    project: ProjectOption = None,
    state_dir: StateDir = None,
) -> None:
    """Run a command with the variables of `cupola env`: `cupola run -- python client.py`."""
    sys.exit(become(command, os.environ | variables_of(chosen_state_dir(state_dir), project)))
