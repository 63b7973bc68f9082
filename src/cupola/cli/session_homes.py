"""`cupola sessions snapshot`, `snapshots`, `restore`, `fork`, `delete-snapshot`: copies of what a session keeps."""

from __future__ import annotations

from typing import Annotated, Any
from urllib.parse import quote

import typer

from cupola.cli.agent_sessions import Agent, Force, Platform, Which, ago, pages, short, tell
from cupola.cli.options import Output, OutputOption, ProjectOption, StateDir
from cupola.cli.output import say, say_columns, say_json, spoken_size

Snapshot = Annotated[str, typer.Argument(metavar="SNAPSHOT", help="Id of the snapshot.", show_default=False)]


def add_to(app: typer.Typer) -> None:
    """Puts these beside the other commands about sessions."""
    app.command()(snapshot)
    app.command()(snapshots)
    app.command("delete-snapshot")(delete_snapshot)
    app.command()(restore)
    app.command()(fork)


def snapshot(
    agent: Agent,
    session: Which,
    note: Annotated[str | None, typer.Option("--note", help="A sentence to know it by.")] = None,
    stop: Annotated[
        bool, typer.Option("--stop", help="Stop the session first, so that no file is copied half written.")
    ] = False,
    force: Force = False,
    project: ProjectOption = None,
    state_dir: StateDir = None,
    output: OutputOption = Output.TEXT,
) -> None:
    """Keep a copy of a session's files."""
    of_agent = Platform(state_dir, project).agent(agent)
    found = of_agent.find(session)
    wanted: dict[str, Any] = {"stop": stop, "force": force, **({} if note is None else {"note": note})}
    made = of_agent.client.post(of_agent.one(found, "/snapshots"), wanted)
    tell(output, made, f"Made snapshot {made['id']} of session {found} ({spoken_size(made['size'])}).")


def snapshots(
    agent: Agent,
    session: Which,
    project: ProjectOption = None,
    state_dir: StateDir = None,
    output: OutputOption = Output.TEXT,
) -> None:
    """Show the snapshots of a session, newest first; also of one that was deleted without them."""
    of_agent = Platform(state_dir, project).agent(agent)
    session = of_agent.find_or_gone(session)
    found = list(pages(of_agent.client, of_agent.one(session, "/snapshots")))
    if output is Output.JSON:
        say_json(found)
    elif not found:
        say(f"Session {session} has no snapshots.")
    else:
        rows = [
            (
                each["id"],
                each["status"],
                each["agent_version"],
                spoken_size(each["size"]),
                ago(each["created_at"]),
                each["note"] or "",
            )
            for each in found
        ]
        say_columns(("SNAPSHOT", "STATUS", "VERSION", "SIZE", "AGE", "NOTE"), rows)


def delete_snapshot(
    agent: Agent,
    session: Which,
    snapshot: Snapshot,
    project: ProjectOption = None,
    state_dir: StateDir = None,
    output: OutputOption = Output.TEXT,
) -> None:
    """Delete a snapshot; the session stays as it is."""
    of_agent = Platform(state_dir, project).agent(agent)
    session = of_agent.find_or_gone(session)
    of_agent.client.delete(of_agent.one(session, f"/snapshots/{quote(snapshot, safe='')}"))
    deleted = {"id": snapshot, "agent_session_id": session, "deleted": True}
    tell(output, deleted, f"Deleted snapshot {snapshot} of session {session}.")


def restore(
    agent: Agent,
    session: Which,
    snapshot: Snapshot,
    force: Force = False,
    project: ProjectOption = None,
    state_dir: StateDir = None,
    output: OutputOption = Output.TEXT,
) -> None:
    """Give a session the files of a snapshot; those that it has now are gone. What runs is stopped first."""
    of_agent = Platform(state_dir, project).agent(agent)
    found = of_agent.find(session)
    restored = of_agent.client.post(of_agent.one(found, ":restore"), {"snapshot": snapshot, "force": force})
    tell(output, restored, f"Session {found} has the files of snapshot {snapshot} again; what it had since is gone.")


def fork(
    agent: Agent,
    session: Which,
    snapshot: Annotated[
        str | None, typer.Option("--snapshot", metavar="ID", help="Begin with this, not with its files of now.")
    ] = None,
    new_id: Annotated[
        str | None, typer.Option("--id", metavar="NEW", help="Id of the new session; else one is made up.")
    ] = None,
    mine: Annotated[bool, typer.Option("--mine", help="The new session is yours, not its owner's.")] = False,
    project: ProjectOption = None,
    state_dir: StateDir = None,
    output: OutputOption = Output.TEXT,
) -> None:
    """Begin a new session with a copy of another's files."""
    of_agent = Platform(state_dir, project).agent(agent)
    found = of_agent.find(session) if snapshot is None else of_agent.find_or_gone(session)
    given = {"snapshot": snapshot, "agent_session_id": new_id, "owner": "me" if mine else None}
    wanted = {name: value for name, value in given.items() if value is not None}
    made = of_agent.client.post(of_agent.one(found, ":fork"), wanted)
    files = f"snapshot {snapshot}" if snapshot is not None else f"session {short(found)}"
    tell(output, made, f"Session {made['agent_session_id']} begins with the files of {files}.")
