"""`cupola env`: the variables that clients need, for a shell or a file."""

from __future__ import annotations

from typing import Annotated

import typer

from cupola.cli.options import ProjectOption, StateDir
from cupola.cli.output import say
from cupola.cli.state_dir import chosen_state_dir
from cupola.cli.variables import Format, variables_of, written


def env(
    format: Annotated[Format, typer.Option("--format", "-f", help="For which reader.")] = Format.SH,
    project: ProjectOption = None,
    state_dir: StateDir = None,
) -> None:
    """Print the variables that clients need: `eval "$(cupola env)"`."""
    say(written(variables_of(chosen_state_dir(state_dir), project), format))
