"""`cupola up`: the platform, in the foreground or in the background."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Coroutine, Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cupola.cli.options import Output, OutputOption, StateDir
from cupola.cli.output import complain, say, say_json, say_table
from cupola.cli.state_dir import shown_arguments
from cupola.errors import CupolaError
from cupola.installation import Layout, Running, lock_holder, make_state_dir, read_running, told_as_setup_error

if TYPE_CHECKING:
    from cupola.settings import Settings

Serve = Callable[["Settings", Callable[[Running], None]], Coroutine[Any, Any, None]]
"""Runs the platform until it is told to stop; calls its second argument once it serves."""

_START_TIMEOUT = 60.0
_LOOK_EVERY = 0.05
_LOG_KEPT = 10 * 1024 * 1024
_COMPLAINT = "cupola: "


class DriverName(StrEnum):
    AUTO = "auto"
    DOCKER = "docker"
    PROCESS = "process"


def up(
    port: Annotated[int | None, typer.Option(help="Port of the https listener (8443).", show_default=False)] = None,
    host: Annotated[
        str | None, typer.Option(help="Address that clients connect to (127.0.0.1).", show_default=False)
    ] = None,
    state_dir: StateDir = None,
    driver: Annotated[DriverName | None, typer.Option(help="Where sandboxes run (auto).", show_default=False)] = None,
    idle_timeout: Annotated[
        float | None, typer.Option(help="Seconds until an idle sandbox stops (900).", show_default=False)
    ] = None,
    ready_timeout: Annotated[
        float | None, typer.Option(help="Seconds a started sandbox has to become ready (60).", show_default=False)
    ] = None,
    azure_limits: Annotated[
        bool | None,
        typer.Option(
            "--azure-limits/--no-azure-limits", help="Refuse what Azure would refuse (no).", show_default=False
        ),
    ] = None,
    detach: Annotated[bool, typer.Option("--detach", "-d", help="Run in the background.")] = False,
    output: OutputOption = Output.TEXT,
) -> None:
    """Run the platform. Every option is also a setting: a `CUPOLA_` variable, a line in `cupola.toml`."""
    from cupola import settings as settings_module

    given = {
        "port": port,
        "host": host,
        "driver": None if driver is None else driver.value,
        "idle_timeout": idle_timeout,
        "ready_timeout": ready_timeout,
        "azure_limits": azure_limits,
    }
    settings = settings_module.load(state_dir=state_dir, **given)
    if detach:
        running = launch(command(given, settings.state_dir), settings.state_dir)
        announce(running, settings.state_dir, output)
        return
    from cupola.app import serve

    in_foreground(settings, serve, output)


def in_foreground(settings: Settings, serve: Serve, output: Output) -> None:
    """Serves until SIGINT or SIGTERM, and says when it begins and when it has ended."""
    import uvloop

    from cupola import logs

    logs.configure(settings.log_level, settings.log_format)
    uvloop.run(serve(settings, lambda running: announce(running, settings.state_dir, output)))
    if output is Output.TEXT:
        say("Stopped.")


def announce(running: Running, state_dir: Path, output: Output) -> None:
    """The endpoint, why this driver, and the next command."""
    if output is Output.JSON:
        say_json(running.to_json() | {"state_dir": str(state_dir)})
        return
    say(f"Cupola serves on {running.base_url} (pid {running.pid}).")
    say_table(
        [
            ("endpoint", running.endpoint),
            ("driver", f"{running.driver} ({running.driver_reason})"),
            ("state", str(state_dir)),
        ]
    )
    say(f'Next: eval "$(cupola env{shown_arguments(state_dir)})"')


def command(given: dict[str, Any], state_dir: Path) -> list[str]:
    """The command line of a platform with these arguments, in the foreground of its own process."""
    options = [_option(name.replace("_", "-"), value) for name, value in given.items() if value is not None]
    return [sys.executable, "-m", "cupola", "up", f"--state-dir={state_dir}", *options]


def _option(name: str, value: Any) -> str:
    if isinstance(value, bool):
        return f"--{name}" if value else f"--no-{name}"
    return f"--{name}={value}"


def launch(command: Sequence[str], state_dir: Path, timeout: float = _START_TIMEOUT) -> Running:
    """Starts the platform in a process and session of its own; returns once it answers.

    If it ends before that, its own sentence is said and its exit code is ours.
    """
    make_state_dir(state_dir)
    log = Layout(state_dir).log
    said_before = _prepare_log(log, state_dir)
    with log.open("ab") as output:
        child = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
        )
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        if child.poll() is not None:
            complain(_last_words(log, said_before))
            sys.exit(child.returncode if child.returncode > 0 else 1)
        running = _answering(state_dir, child.pid)
        if running is not None:
            child.returncode = 0  # it stays: we are not going to wait for it
            return running
        time.sleep(_LOOK_EVERY)
    child.terminate()
    child.wait()
    raise CupolaError(f"The platform did not answer within {timeout:g} s and was stopped; its log is {log}.")


def _answering(state_dir: Path, pid: int) -> Running | None:
    from cupola.client import Client

    running = read_running(state_dir)
    if running is None or running.pid != pid:
        return None
    try:
        Client.of(state_dir).health()
    except CupolaError:
        return None
    return running


def _prepare_log(log: Path, state_dir: Path) -> int:
    """The length of the log so far; a long one is put aside, unless somebody still writes it."""
    with told_as_setup_error(state_dir):
        length = log.stat().st_size if log.exists() else 0
        if length > _LOG_KEPT and lock_holder(state_dir) is None:
            log.replace(log.with_suffix(".log.1"))
            length = 0
        log.touch(mode=0o600)
    return length


def _last_words(log: Path, since: int) -> str:
    """What the child complained about, or the end of what it wrote."""
    with log.open("rb") as file:
        file.seek(since)
        lines = [line for line in file.read().decode(errors="replace").splitlines() if line.strip()]
    complaints = [line.removeprefix(_COMPLAINT) for line in lines if line.startswith(_COMPLAINT)]
    if complaints:
        return complaints[-1]
    return "\n".join([f"The platform ended before it served; its log ({log}) ends with:", *lines[-20:]])
