"""`cupola warm`: how many sandboxes of an agent wait for new sessions, and how many shall."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any
from urllib.parse import quote

import typer

from cupola.cli.options import Output, OutputOption, ProjectOption, StateDir
from cupola.cli.output import say, say_json, say_table
from cupola.cli.state_dir import chosen_state_dir, running_in
from cupola.errors import BadRequest, NotFound

LARGEST = 100


def warm(
    agent: Annotated[str, typer.Argument(metavar="AGENT", help="The agent's name.")],
    size: Annotated[
        int | None,
        typer.Argument(metavar="[SIZE]", min=0, max=LARGEST, help="How many shall wait; without it they are shown."),
    ] = None,
    version: Annotated[
        str | None, typer.Option("--version", help="The version meant.", show_default="the one that gets traffic")
    ] = None,
    default: Annotated[
        bool, typer.Option("--default", help="Go by the version's metadata, or else by the setting, again.")
    ] = False,
    project: ProjectOption = None,
    state_dir: StateDir = None,
    output: OutputOption = Output.TEXT,
) -> None:
    """Show or change how many sandboxes of an agent wait for new sessions; it takes effect at once."""
    from cupola.client import Client

    if default and size is not None:
        raise BadRequest("Give either a size or --default.")
    directory = chosen_state_dir(state_dir)
    running_in(directory)
    client = Client.of(directory)
    own = client.own(agent, project)
    pools = client.get(f"{own}/warm")["data"]
    if default or size is not None:
        meant = version or only_version(agent, pools)
        pools = [client.post(f"{own}/versions/{quote(meant, safe='')}:warm", {"warm_pool": size})]
    elif version is not None:
        pools = [pool for pool in pools if pool["version"] == version]
    if output is Output.JSON:
        say_json({"data": pools})
    elif pools:
        say_table((f"{pool['agent']}:{pool['version']}", spoken(pool)) for pool in pools)
    else:
        say("Nothing waits.")


def spoken(pool: Mapping[str, Any]) -> str:
    """A pool in a line: `3 of 5 ready, 2 starting; for any session`."""
    parts = [f"{pool['ready']} of {pool['wanted']} ready"]
    if pool["starting"]:
        parts.append(f"{pool['starting']} starting")
    if pool["wanted"] != pool["warm_pool"]:
        parts.append(f"{pool['warm_pool']} wanted once it gets traffic")
    if pool["waits_for_room"]:
        parts.append("no room for more (CUPOLA_MAX_SANDBOXES)")
    line = ", ".join(parts)
    if pool["binds_late"] is not None:
        line += "; for any session" if pool["binds_late"] else "; for sessions without an id of their own"
    if pool["trouble"] is not None:
        line += f"; the last start failed: {pool['trouble']['reason']}"
    return line


def only_version(agent: str, pools: Sequence[Mapping[str, Any]]) -> str:
    """The version that gets traffic, if it is one. Raises BadRequest or NotFound."""
    with_traffic = [pool["version"] for pool in pools if pool["gets_traffic"]]
    if not with_traffic:
        raise NotFound(f"No version of agent '{agent}' gets traffic now; name one with --version.")
    if len(with_traffic) > 1:
        raise BadRequest(f"Versions {', '.join(with_traffic)} of agent '{agent}' get traffic; name one with --version.")
    return str(with_traffic[0])
