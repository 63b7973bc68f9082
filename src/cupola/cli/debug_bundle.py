"""`cupola debug-bundle AGENT SESSION`: one archive with all that is known of a session."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Annotated
from urllib.parse import quote

import typer

from cupola.cli.options import Output, OutputOption, ProjectOption, StateDir
from cupola.cli.output import say, say_json
from cupola.cli.state_dir import chosen_state_dir, running_in
from cupola.errors import SetupError


def debug_bundle(
    agent: Annotated[str, typer.Argument(help="Name of the agent.")],
    session: Annotated[str, typer.Argument(help="Id of the session.")],
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="FILE", help="Where to write it.", show_default="AGENT-SESSION.zip"),
    ] = None,
    project: ProjectOption = None,
    state_dir: StateDir = None,
    output: OutputOption = Output.TEXT,
) -> None:
    """Write one archive: definition, environment, logs, file list, conversation, timings. Secrets are masked.

    Look through it before you give it away: what agent and caller said to each other is in it.
    """
    from cupola.client import Client

    directory = chosen_state_dir(state_dir)
    running_in(directory)
    client = Client.of(directory)
    path = out or Path(f"{agent}-{session[:16]}.zip")
    size = _written(path, client.pieces(f"{client.own(agent, project)}/sessions/{quote(session, safe='')}/bundle"))
    if output is Output.JSON:
        say_json({"path": str(path), "bytes": size})
        return
    say(f"Wrote {path} ({size / 1024:.0f} KiB). Run it again with `cupola replay {path}`.")


def _written(path: Path, pieces: Iterator[bytes]) -> int:
    """Writes a file that is there whole or not at all; how many bytes it has."""
    part = path.with_name(f".{path.name}.part")
    try:
        with part.open("wb") as sink:
            size = sum(sink.write(piece) for piece in pieces)
        part.replace(path)
    except OSError as error:
        raise SetupError(f"{path} cannot be written: {error.strerror or error}.") from error
    finally:
        with suppress(OSError):
            part.unlink(missing_ok=True)
    return size
