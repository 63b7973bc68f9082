"""What the commands about sessions share: whose sessions, which one is meant, and how it is shown."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import quote, urlencode

import typer

from cupola.cli.options import Output
from cupola.cli.output import say, say_json, spoken_age
from cupola.cli.state_dir import chosen_state_dir, running_in
from cupola.errors import BadRequest, NotFound

if TYPE_CHECKING:
    from cupola.client import Client

PATIENCE = 3600.0
"""Seconds that a command waits for its answer: a home may be large, and an agent may take its grace to stop."""

_MADE_UP = re.compile(r"[0-9a-f]{63}\Z")
_SHORT = 12

Agent = Annotated[str, typer.Argument(metavar="AGENT", help="Name of the agent.", show_default=False)]
Which = Annotated[
    str, typer.Argument(metavar="SESSION", help="Id of the session, or how only its id begins.", show_default=False)
]
Named = Annotated[
    list[str],
    typer.Argument(
        metavar="[AGENT] SESSION",
        help="The session, after its agent; alone it will do where only one agent has such a session.",
        show_default=False,
    ),
]
Force = Annotated[bool, typer.Option("--force", help="Break off what is open in it.")]


class Platform:
    """The running platform, and the project that is meant in it."""

    def __init__(self, state_dir: Path | None, project: str | None) -> None:
        from cupola.client import Client

        directory = chosen_state_dir(state_dir)
        running_in(directory)
        self.client: Client = Client.of(directory, timeout=PATIENCE)
        self.project = project or self.client.project

    def agent(self, name: str) -> AgentSessions:
        return AgentSessions(self.client, self.project, name)

    def named(self, names: Sequence[str]) -> tuple[AgentSessions, str]:
        """The agent and session of two names, or the only agent that has the session of one.

        Raises NotFound, or BadRequest where several agents have it.
        """
        if len(names) > 2:
            raise typer.BadParameter("name AGENT and SESSION, or SESSION alone.")
        if len(names) == 2:
            return self.agent(names[0]).meaning(names[1])
        (first,) = names
        agents = pages(self.client, f"/api/projects/{quote(self.project, safe='')}/agents")
        having = [agent for agent in (self.agent(each["name"]) for each in agents) if agent.has(first)]
        if not having:
            raise NotFound(f"No agent of project '{self.project}' has a session '{first}'.")
        if len(having) > 1:
            names = ", ".join(agent.name for agent in having)
            raise BadRequest(f"Agents {names} have a session '{first}': name the agent before it.")
        return having[0], first

    @property
    def own(self) -> str:
        """Where the project has what Cupola offers beside the wire."""
        return f"/cupola/projects/{quote(self.project, safe='')}"


class AgentSessions:
    """The sessions of one agent."""

    def __init__(self, client: Client, project: str, agent: str) -> None:
        self.client = client
        self.name = agent
        self.wire = f"{client.wire(agent, project)}/endpoint/sessions"
        self.own = f"{client.own(agent, project)}/sessions"

    def each(self) -> Iterator[Mapping[str, Any]]:
        """All sessions, newest first."""
        return pages(self.client, self.wire)

    def has(self, session_id: str) -> bool:
        """Whether there is a session of that very id."""
        try:
            self.client.get(f"{self.wire}/{quote(session_id, safe='')}")
        except NotFound:
            return False
        return True

    def find(self, wanted: str) -> str:
        """The id that is `wanted`, or the only one that begins so. Raises NotFound, or BadRequest when several do."""
        try:
            return str(self.client.get(f"{self.wire}/{quote(wanted, safe='')}")["agent_session_id"])
        except NotFound as error:
            found = [session["agent_session_id"] for session in self.each()]  # which names a missing agent itself
            meant = [id for id in found if id.startswith(wanted)]
            if len(meant) > 1:
                raise BadRequest(
                    f"{len(meant)} sessions of agent '{self.name}' begin with '{wanted}': write more of the id."
                ) from error
            if not meant:
                raise
            return str(meant[0])

    def meaning(self, wanted: str) -> tuple[AgentSessions, str]:
        """This agent, and the id of the session that is meant: see `find`."""
        return self, self.find(wanted)

    def find_or_gone(self, wanted: str) -> str:
        """As `find`; an id that no session has (any more) is taken as it is, as snapshots may outlive sessions."""
        try:
            return self.find(wanted)
        except NotFound:
            return wanted

    def one(self, session_id: str, action: str = "") -> str:
        """The address of a session beside the wire, or of something that can be done with it."""
        return f"{self.own}/{quote(session_id, safe='')}{action}"


def pages(client: Client, path: str) -> Iterator[Mapping[str, Any]]:
    """Every item of a list, page after page."""
    query: dict[str, Any] = {"limit": 100}
    while True:
        page = client.get(f"{path}?{urlencode(query)}")
        yield from page["data"]
        if page["last_id"] is None:
            return
        query["after"] = page["last_id"]


def tell(output: Output, value: Any, sentence: str) -> None:
    """What a command has done: for programs the value, for people the sentence."""
    if output is Output.JSON:
        say_json(value)
    else:
        say(sentence)


def short(session_id: str) -> str:
    """As much of an id as people need: what the platform has made up is longer than a line wants."""
    return session_id[:_SHORT] if _MADE_UP.match(session_id) else session_id


def ago(moment: float | None) -> str:
    return "-" if moment is None else spoken_age(time.time() - moment)
