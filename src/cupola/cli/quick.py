"""The plain forms of `cupola env` and `cupola run`, read without Typer.

Typer builds a pydantic validator for every option, which takes longer than all the rest. These two commands stand in
shell start files and in front of every client, so what is unmistakable is done here; everything else (help, a wrong
option, a missing value) is left to Typer, which knows the same options (`env.py`, `run.py`).
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from cupola.cli.output import say
from cupola.cli.state_dir import chosen_state_dir
from cupola.cli.variables import Format, become, variables_of, written

_OPTIONS = {
    "env": {"--format": "format", "-f": "format", "--project": "project", "--state-dir": "state_dir"},
    "run": {"--project": "project", "--state-dir": "state_dir"},
}


def took(arguments: Sequence[str]) -> bool:
    """Whether this was a plain `env` or `run`, which is then done."""
    name, *rest = arguments or [""]
    if name not in _OPTIONS:
        return False
    read = _read(rest, _OPTIONS[name])
    if read is None:
        return False
    options, command = read
    if (name == "run") != bool(command) or options.get("format", "sh") not in list(Format):
        return False
    state_dir = options.get("state_dir") or os.environ.get("CUPOLA_STATE_DIR")
    variables = variables_of(
        chosen_state_dir(Path(state_dir) if state_dir else None),
        options.get("project") or os.environ.get("CUPOLA_PROJECT") or None,
    )
    if name == "run":
        sys.exit(become(command, os.environ | variables))
    say(written(variables, Format(options.get("format", "sh"))))
    return True


def _read(arguments: Sequence[str], known: dict[str, str]) -> tuple[dict[str, str], list[str]] | None:
    """Options by name, and the rest behind them; None when anything is out of the ordinary."""
    options: dict[str, str] = {}
    rest = list(arguments)
    while rest and rest[0].startswith("-"):
        argument = rest.pop(0)
        if argument == "--":
            return options, rest
        name, equals, value = argument.partition("=")
        if name not in known or (equals and not name.startswith("--")):
            return None
        if not equals:
            if not rest or rest[0].startswith("-"):
                return None
            value = rest.pop(0)
        options[known[name]] = value
    return options, rest
