"""Which state directory a command means, and how to say so in a command that we show."""

from __future__ import annotations

import os
import shlex
from pathlib import Path

import platformdirs

from cupola.installation import NotRunning, Running, read_running


def chosen_state_dir(option: Path | None) -> Path:
    """The directory meant, with the same default as `settings.state_dir` but without the cost of reading settings."""
    return (option or platformdirs.user_data_path("cupola")).expanduser().absolute()


def shown_arguments(state_dir: Path) -> str:
    """What to add to a command that we show so that it means this directory; empty when it does already."""
    variable = os.environ.get("CUPOLA_STATE_DIR")
    meant = chosen_state_dir(Path(variable) if variable else None)
    return "" if meant == state_dir else f" --state-dir {shlex.quote(str(state_dir))}"


def running_in(state_dir: Path) -> Running:
    """The platform that runs with this directory. Raises NotRunning with the command that starts one."""
    running = read_running(state_dir)
    if running is None:
        raise NotRunning(
            f"No platform runs with state directory {state_dir}: "
            f"start one with `cupola up{shown_arguments(state_dir)}`."
        )
    return running
