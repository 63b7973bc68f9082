"""`cupola sessions`: see, stop, end and move the sessions of agents. Their files have a file of their own."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Annotated, Any

import typer

from cupola.cli import session_homes
from cupola.cli.agent_sessions import Agent, Force, Named, Platform, Which, ago, short, tell
from cupola.cli.options import Output, OutputOption, ProjectOption, StateDir
from cupola.cli.output import Exit, complain, say, say_columns, say_json, say_table

_HELP = "See, stop, end, move, copy and restore the sessions of agents."


def app() -> typer.Typer:
    app = typer.Typer(help=_HELP, no_args_is_help=True)
    app.command("list")(list_sessions)
    for command in (show, stop, kill, delete, move):
        app.command()(command)
    session_homes.add_to(app)
    return app


def list_sessions(
    agent: Agent,
    full: Annotated[bool, typer.Option("--full", help="Show ids that the platform has made up whole.")] = False,
    project: ProjectOption = None,
    state_dir: StateDir = None,
    output: OutputOption = Output.TEXT,
) -> None:
    """Show the sessions of an agent, newest first."""
    found = list(Platform(state_dir, project).agent(agent).each())
    if output is Output.JSON:
        say_json(found)
    elif not found:
        say(f"Agent '{agent}' has no sessions.")
    else:
        say_columns(("SESSION", "STATUS", "VERSION", "LAST USED", "AGE"), [_row(session, full) for session in found])


def _row(session: Mapping[str, Any], full: bool) -> tuple[str, ...]:
    id = session["agent_session_id"]
    return (
        id if full else short(id),
        session["status"],
        _version(session),
        f"{ago(session['last_accessed_at'])} ago",
        ago(session["created_at"]),
    )


def _version(session: Mapping[str, Any]) -> str:
    return str(session["version_indicator"]["agent_version"])


def show(
    agent: Agent,
    session: Which,
    project: ProjectOption = None,
    state_dir: StateDir = None,
    output: OutputOption = Output.TEXT,
) -> None:
    """Show one session; of one that failed, why."""
    of_agent = Platform(state_dir, project).agent(agent)
    found = of_agent.client.get(f"{of_agent.wire}/{of_agent.find(session)}")
    if output is Output.JSON:
        say_json(found)
        return
    moments = {
        "created": "created_at",
        "last used": "last_accessed_at",
        "stopped": "stopped_at",
        "expires": "expires_at",
    }
    say_table(
        [
            ("session", found["agent_session_id"]),
            ("agent", agent),
            ("version", _version(found)),
            ("status", found["status"]),
            *((name, _moment(found[field])) for name, field in moments.items() if found[field] is not None),
        ]
    )
    if found["error"] is not None:
        _say_failure(found["error"])


def _moment(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def _say_failure(failure: Mapping[str, Any]) -> None:
    say(f"\nIts last start failed in phase {failure['phase']}: {failure['message']}")
    for line in failure["log"]:
        say(f"  | {line}")


def stop(
    agent: Annotated[str | None, typer.Argument(metavar="AGENT", help="Name of the agent.")] = None,
    session: Annotated[str | None, typer.Argument(metavar="SESSION", help="Id of the session.")] = None,
    every: Annotated[bool, typer.Option("--all", help="All sessions: of the agent, or of the project.")] = False,
    project: ProjectOption = None,
    state_dir: StateDir = None,
    output: OutputOption = Output.TEXT,
) -> None:
    """Stop what runs for a session, or for all; files stay, and the next request resumes it."""
    if every == (session is not None) or (agent is None and not every):
        raise typer.BadParameter("name AGENT and SESSION, or say --all, with an AGENT or without.")
    platform = Platform(state_dir, project)
    if agent is None or session is None:
        _stop_all(platform, agent, output)
        return
    of_agent = platform.agent(agent)
    found = of_agent.find(session)
    of_agent.client.post(f"{of_agent.wire}/{found}:stop", None)
    tell(output, {"agent_session_id": found, "stopped": True}, f"Stopped session {found}; its files stay.")


def _stop_all(platform: Platform, agent: str | None, output: Output) -> None:
    answer = platform.client.post(f"{platform.own}/sessions:stop", {"agent": agent})
    if output is Output.JSON:
        say_json(answer)
    else:
        where = f"agent '{agent}'" if agent is not None else f"project '{platform.project}'"
        stopped = len(answer["stopped"])
        say(f"Stopped {stopped} session{'' if stopped == 1 else 's'} of {where}.")
        for failure in answer["failed"]:
            complain(f"session {failure['session']} was not stopped: {failure['message']}")
    if answer["failed"]:
        raise typer.Exit(Exit.FAILED)


def kill(
    session: Named,
    project: ProjectOption = None,
    state_dir: StateDir = None,
    output: OutputOption = Output.TEXT,
) -> None:
    """End a session's sandbox at once, whatever it does and whether or not it answers; files stay."""
    of_agent, found = Platform(state_dir, project).named(session)
    of_agent.client.post(of_agent.one(found, ":kill"), None)
    tell(output, {"agent_session_id": found, "killed": True}, f"Killed the sandbox of session {found}; its files stay.")


def delete(
    agent: Agent,
    session: Which,
    keep_snapshots: Annotated[bool, typer.Option("--keep-snapshots", help="Keep the copies of its files.")] = False,
    project: ProjectOption = None,
    state_dir: StateDir = None,
    output: OutputOption = Output.TEXT,
) -> None:
    """Delete a session with its files and snapshots."""
    of_agent = Platform(state_dir, project).agent(agent)
    found = of_agent.find(session)
    of_agent.client.delete(f"{of_agent.wire}/{found}?keep_snapshots={str(keep_snapshots).lower()}")
    with_it = "its files; its snapshots stay" if keep_snapshots else "its files and snapshots"
    tell(output, {"agent_session_id": found, "deleted": True}, f"Deleted session {found} with {with_it}.")


def move(
    agent: Agent,
    to: Annotated[str, typer.Option("--to", metavar="VERSION", help="Where they go.", show_default=False)],
    session: Annotated[
        str | None, typer.Argument(metavar="SESSION", help="Id of the session; without one, all of the agent.")
    ] = None,
    origin: Annotated[
        str | None, typer.Option("--from", metavar="VERSION", help="Of all, only those on this version.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would happen, and do nothing.")] = False,
    force: Force = False,
    project: ProjectOption = None,
    state_dir: StateDir = None,
    output: OutputOption = Output.TEXT,
) -> None:
    """Move a session, or all, to another version of the agent; files go along, and moving back is the same."""
    if session is not None and origin is not None:
        raise typer.BadParameter("--from chooses among all sessions; leave it out where SESSION names one.")
    of_agent = Platform(state_dir, project).agent(agent)
    if session is not None:
        wanted = {"agent_version": to, "dry_run": dry_run, "force": force}
        moved = of_agent.client.post(of_agent.one(of_agent.find(session), ":move"), wanted)
        tell(output, moved, _sentence(moved))
        return
    wanted = {"to": to, "dry_run": dry_run, "force": force, **({} if origin is None else {"from": origin})}
    moves = of_agent.client.post(f"{of_agent.own}:move", wanted)["data"]
    if output is Output.JSON:
        say_json(moves)
    else:
        _say_moves(moves, to)
    if not dry_run and any(each["outcome"] == "refused" for each in moves):
        raise typer.Exit(Exit.REFUSED)


_OUTCOMES = {
    "moved": "was moved",
    "would_move": "would be moved",
    "unchanged": "stays",
    "refused": "would not be moved",
}


def _sentence(move: Mapping[str, Any]) -> str:
    outcome, path = _OUTCOMES[move["outcome"]], f" from version {move['from']} to {move['to']}"
    return (
        f"Session {move['agent_session_id']} {outcome}{'' if move['outcome'] == 'unchanged' else path}. "
        f"{move['message']}"
    )


def _say_moves(moves: list[Mapping[str, Any]], to: str) -> None:
    if not moves:
        say(f"No session has to move to version {to}.")
        return
    rows = [
        (short(move["agent_session_id"]), move["from"], move["to"], move["outcome"].replace("_", " "), move["message"])
        for move in moves
    ]
    say_columns(("SESSION", "FROM", "TO", "OUTCOME", "WHY"), rows)
