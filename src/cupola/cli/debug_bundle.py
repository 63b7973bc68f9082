"""`cupola debug-bundle [AGENT] SESSION`: one archive with all that is known of a session."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Annotated

import typer

from cupola.cli.agent_sessions import Named, Platform
from cupola.cli.options import Output, OutputOption, ProjectOption, StateDir
from cupola.cli.output import say, say_json
from cupola.errors import SetupError


def debug_bundle(
    session: Named,
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
    of_agent, found = Platform(state_dir, project).named(session)
    path = out or Path(f"{of_agent.name}-{found[:16]}.zip")
    size = _written(path, of_agent.client.pieces(of_agent.one(found, "/bundle")))
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
