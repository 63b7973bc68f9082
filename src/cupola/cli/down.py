"""`cupola down`: asks the platform to stop, and waits until it has."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from cupola.cli.options import Output, OutputOption, StateDir
from cupola.cli.output import say, say_json
from cupola.cli.state_dir import chosen_state_dir
from cupola.errors import CupolaError
from cupola.installation import lock_holder

_LOOK_EVERY = 0.02
_EXIT_PATIENCE = 5.0  # seconds: the lock is let go last, what follows is the end of the interpreter


def down(
    timeout: Annotated[float, typer.Option(min=0, help="Seconds to wait for the end.")] = 90,
    state_dir: StateDir = None,
    output: OutputOption = Output.TEXT,
) -> None:
    """Stop the platform and its sandboxes; homes, agents and sessions stay."""
    directory = chosen_state_dir(state_dir)
    pid = lock_holder(directory)
    began = time.monotonic()
    if pid is not None:
        stop(directory, pid, timeout)
    seconds = round(time.monotonic() - began, 2)
    if output is Output.JSON:
        say_json({"stopped": pid is not None, "pid": pid, "seconds": seconds, "state_dir": str(directory)})
    elif pid is None:
        say(f"No platform runs with state directory {directory}.")
    else:
        say(f"Stopped (pid {pid}, {seconds:.1f} s).")


def stop(state_dir: Path, pid: int, timeout: float) -> None:
    """SIGTERM, then waits until the process has let go of the directory and has ended."""
    try:
        os.kill(pid, signal.SIGTERM)
    except ProcessLookupError:
        return
    except PermissionError as error:
        raise CupolaError(f"The platform (pid {pid}) belongs to somebody else: ask its owner to stop it.") from error
    if not _wait(lambda: lock_holder(state_dir) != pid, timeout):
        raise CupolaError(
            f"The platform (pid {pid}) still stops after {timeout:g} s: its sandboxes may need their grace period. "
            f"Wait with `cupola down --timeout`, or end it with `kill -9 {pid}`; the next `cupola up` tidies up."
        )
    _wait(lambda: _gone(pid), _EXIT_PATIENCE)


def _wait(condition: Callable[[], bool], timeout: float) -> bool:
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(_LOOK_EVERY)
    return True


def _gone(pid: int) -> bool:
    """Whether it has ended; a zombie that nobody waits for (a container without an init) has."""
    import psutil

    try:
        return bool(psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return True
