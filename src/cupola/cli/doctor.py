"""`cupola doctor`: what is wrong with this machine, this shell and this code, and what to write instead."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from cupola.cli.doctor_code import SDK, Finding, findings, python_files
from cupola.cli.doctor_machine import Check, Verdict, clients, installed_versions, machine, shell_python
from cupola.cli.options import Output, OutputOption, StateDir
from cupola.cli.output import Exit, colored, say, say_json
from cupola.cli.state_dir import chosen_state_dir

_COLORS = {Verdict.OK: "32", Verdict.NOTE: "33", Verdict.PROBLEM: "1;31"}


def doctor(
    paths: Annotated[
        list[Path] | None,
        typer.Argument(exists=True, show_default=False, help="Python files or directories (the current one)."),
    ] = None,
    state_dir: StateDir = None,
    output: OutputOption = Output.TEXT,
) -> None:
    """Check this machine, this shell and the Python code of clients. Exits with 1 if there is a problem."""
    directory = chosen_state_dir(state_dir)
    python = shell_python(os.environ)
    versions = installed_versions(python)
    checks = [*machine(directory, os.environ), *clients(directory, os.environ, python, versions)]
    files = python_files(paths or [Path()])
    found = [finding for file in files for finding in findings(file, versions.get(SDK), os.environ)]
    if output is Output.JSON:
        say_json(_as_json(checks, files, found))
    else:
        _print(checks, files, found)
    if found or any(check.verdict is Verdict.PROBLEM for check in checks):
        sys.exit(Exit.FAILED)


def _as_json(checks: Sequence[Check], files: Sequence[Path], found: Sequence[Finding]) -> dict[str, Any]:
    return {
        "checks": [{"name": check.name, "verdict": check.verdict, "text": check.text} for check in checks],
        "files": len(files),
        "findings": [
            {"path": str(each.path), "line": each.line, "what": each.what, "instead": each.instead} for each in found
        ],
    }


def _print(checks: Sequence[Check], files: Sequence[Path], found: Sequence[Finding]) -> None:
    width = max(len(check.name) for check in checks)
    for check in checks:
        verdict = colored(f"{check.verdict:<7}", _COLORS[check.verdict])
        say(f"{verdict}  {check.name:<{width}}  {check.text}")
    say("")
    if not found:
        say(f"{_counted(len(files), 'Python file')} read: nothing to change.")
        return
    for each in found:
        say(f"{colored(f'{each.path}:{each.line}', '1')}  {each.what}")
        say("    write instead:")
        for line in each.instead.splitlines():
            say(f"        {line}")
    say(f"\n{_counted(len(found), 'place')} to change in {_counted(len(files), 'Python file')}.")


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
