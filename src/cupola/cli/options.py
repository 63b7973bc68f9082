"""Options that many commands share."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer


class Output(StrEnum):
    TEXT = "text"
    JSON = "json"


StateDir = Annotated[
    Path | None,
    typer.Option(
        "--state-dir", envvar="CUPOLA_STATE_DIR", help="Directory of the platform's state.", show_default="user data"
    ),
]

OutputOption = Annotated[Output, typer.Option("--output", "-o", help="How data is printed.")]

ProjectOption = Annotated[
    str | None, typer.Option("--project", envvar="CUPOLA_PROJECT", help="Project in the endpoint.")
]
