"""`cupola logs`: what an agent's sandboxes wrote, and what became of them, also of those that are gone.

The platform chooses by session, version, time and phase. The pattern of `--grep` is matched here: an expression can
take for ever, and that must be nobody's time but the asker's.
"""

from __future__ import annotations

import json
import re
import sys
import urllib.parse
import zlib
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any

import typer

from cupola.cli.options import Output, OutputOption, ProjectOption, StateDir
from cupola.cli.output import colored
from cupola.cli.state_dir import chosen_state_dir, running_in
from cupola.errors import BadRequest, NotFound

_SHORT = 8
_LONGEST_NAME = 16
_COLORS = ("36", "32", "35", "34", "33", "96", "92", "95")
_SIGNS = {"stdout": ("|", "2"), "stderr": ("!", "31"), "status": ("*", "1")}
_COLOR = r"\x1b\[[0-9;]*m"
_SEQUENCE = r"\x1b\[[0-?]*[ -/]*[@-~]|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)?"  # of a terminal: CSI and OSC (ECMA-48)
_CONTROL = r"[\x00-\x08\x0b-\x1f\x7f-\x9f]"
_TO_CLEAN = re.compile(f"{_COLOR}|({_SEQUENCE}|{_CONTROL})")
_TIMEOUT = 60.0
"""Seconds of silence after which the platform is gone: it says something every 15 s."""


class Phase(StrEnum):
    """Before a sandbox was ready, or since."""

    START = "start"
    SERVE = "serve"


def logs(
    agent: Annotated[str, typer.Argument(help="The agent.", show_default=False)],
    session: Annotated[
        str | None,
        typer.Option("--session", "-s", metavar="ID", help="Only this session; the beginning of its id will do."),
    ] = None,
    last: Annotated[bool, typer.Option("--last", help="Only the session that was made last.")] = False,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on with what comes, until Ctrl-C.")] = False,
    since: Annotated[
        str | None,
        typer.Option("--since", metavar="WHEN", help="Only since then: 90s, 10m, 2h, 1d, or a time in ISO form."),
    ] = None,
    grep: Annotated[
        str | None, typer.Option("--grep", metavar="REGEX", help="Only lines in which this expression is found.")
    ] = None,
    phase: Annotated[
        Phase | None, typer.Option("--phase", help="Only before sandboxes were ready (start), or since (serve).")
    ] = None,
    version: Annotated[
        str | None, typer.Option("--version", metavar="V", help="Only sandboxes of this version.")
    ] = None,
    tail: Annotated[
        int | None, typer.Option("--tail", "-n", metavar="N", min=1, help="Of what was, only the last lines.")
    ] = None,
    project: ProjectOption = None,
    state_dir: StateDir = None,
    output: OutputOption = Output.TEXT,
) -> None:
    """Show what an agent's sandboxes wrote, over all its sessions, and why they ended.

    Failed versions and sandboxes that no session ever had are among them. Output that is kept outlives its sandbox.
    With `--output json` each line is one object.
    """
    from cupola.client import Client

    if session is not None and last:
        raise BadRequest("--session and --last name one session each: give one of them.")
    pattern = _compiled(grep)
    directory = chosen_state_dir(state_dir)
    running_in(directory)
    client = Client.of(directory, timeout=_TIMEOUT)
    if last:
        session = _last_session(client, agent, project)
    query = {
        "session": session,
        "version": version,
        "since": since,
        "phase": phase,
        "tail": None if pattern is not None else tail,
        "follow": "true" if follow else None,
    }
    given = urllib.parse.urlencode({name: value for name, value in query.items() if value is not None})
    rows = _chosen(client.lines(f"{client.own(agent, project)}/logs?{given}"), pattern, tail)
    if not _print(rows, output, one_session=session is not None, at_once=follow):
        print(f"No lines: nothing that is kept of agent '{agent}' matches.", file=sys.stderr)
    if follow:
        print("That is all: the platform stops.", file=sys.stderr)


def _chosen(
    rows: Iterable[Mapping[str, Any] | None], pattern: re.Pattern[str] | None, tail: int | None
) -> Iterator[Mapping[str, Any]]:
    """The rows that match; of those before the first sign of life, which ends what was, the last ones only."""
    if pattern is None:
        yield from (row for row in rows if row is not None)
        return
    rows = iter(rows)
    before = (row for row in iter(lambda: next(rows, None), None) if pattern.search(row["text"]))
    yield from before if tail is None else deque(before, maxlen=tail)
    yield from (row for row in rows if row is not None and pattern.search(row["text"]))


def _compiled(expression: str | None) -> re.Pattern[str] | None:
    try:
        return None if expression is None else re.compile(expression)
    except re.error as error:
        raise BadRequest(f"--grep is {expression!r}, which is no regular expression: {error}.") from error


def _last_session(client: Any, agent: str, project: str | None) -> str:
    path = client.wire(agent, project)
    found = client.get(f"{path}/endpoint/sessions?api-version=v1&limit=1&order=desc")["data"]
    if not found:
        raise NotFound(f"Agent '{agent}' has no session.")
    return str(found[0]["agent_session_id"])


def _print(rows: Iterable[Mapping[str, Any]], output: Output, *, one_session: bool, at_once: bool) -> bool:
    """Prints the rows as they come; whether there was one."""
    width, some = 0, False
    for row in rows:
        name = "" if one_session else _name(row)
        width = max(width, len(name))
        line = json.dumps(row, ensure_ascii=False) if output is Output.JSON else _line(row, name, width)
        print(line, flush=at_once)
        some = True
    return some


def _line(row: Mapping[str, Any], name: str, width: int) -> str:
    whose = f"{colored(name, _color(row))}{' ' * (width - len(name))} " if width else ""
    return f"{colored(_time(row['time']), '2')} {whose}{colored(*_SIGNS[row['stream']])} {_text(row)}"


def _name(row: Mapping[str, Any]) -> str:
    """The short form of the session's id, or what sandbox it is that has none."""
    session = row["session"]
    if session is None:
        return f"v{row['version']} {row['start_type']}"
    return str(session if len(session) <= _LONGEST_NAME else session[:_SHORT])


def _color(row: Mapping[str, Any]) -> str:
    """The same session has the same colour in every call."""
    return _COLORS[zlib.crc32(str(row["session"] or row["sandbox"]).encode()) % len(_COLORS)]


def _time(text: str) -> str:
    """In the time zone of whoever looks."""
    return datetime.fromisoformat(text).astimezone().strftime("%Y-%m-%d %H:%M:%S")


def _text(row: Mapping[str, Any]) -> str:
    """A terminal gets the agent's colours, and nothing else that would move its cursor or change its title."""
    text = str(row["text"])
    if not sys.stdout.isatty():
        return text
    clean = _TO_CLEAN.sub(lambda found: "" if found[1] else found[0], text)
    if row["event"] is not None:
        return colored(clean, "1")
    return f"{clean}\x1b[0m" if "\x1b" in clean else clean
