"""Which state directory a command means, and how to say so in a command that we show."""

from __future__ import annotations

import shlex
from pathlib import Path

import platformdirs


def chosen_state_dir(option: Path | None) -> Path:
    """The directory meant, with the same default as `settings.state_dir` but without the cost of reading settings."""
    return (option or platformdirs.user_data_path("cupola")).expanduser().absolute()


def state_dir_arguments(state_dir: Path, environment_value: str | None) -> str:
    """What to add to a command that we show so that it means this directory; empty when it does already."""
    meant = chosen_state_dir(Path(environment_value) if environment_value else None)
    return "" if meant == state_dir else f" --state-dir {shlex.quote(str(state_dir))}"
