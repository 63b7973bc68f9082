"""Whose session a request is about: it exists, and the caller may have it."""

from __future__ import annotations

from starlette.requests import Request

from cupola.agents import Agent, no_agent
from cupola.errors import Forbidden, NotFound
from cupola.identity import Caller, Role
from cupola.secrecy import brief
from cupola.sessions import Desired, Session, check_owner
from cupola.store import Store
from cupola.store import agents as agent_rows
from cupola.store import sessions as rows


def caller_of(request: Request) -> Caller:
    caller: Caller = request.scope["cupola.caller"]
    return caller


async def agent_of(request: Request, store: Store) -> Agent:
    """The agent that the address names. Raises NotFound."""
    project, name = request.path_params["project"], request.path_params["agent"]
    agent = await store.read(lambda conn: agent_rows.get_agent(conn, project, name))
    if agent is None:
        raise no_agent(project, name)
    return agent


async def session_of(request: Request, agent: Agent, store: Store) -> Session:
    """The session that the address names. Raises NotFound, or Forbidden for another's (operators have all)."""
    caller, wanted = caller_of(request), request.path_params["session"]
    session = await store.read(lambda conn: rows.get_session(conn, agent.project, agent.name, wanted))
    if session is None or session.desired is Desired.DELETED:
        raise NotFound(f"Agent '{agent.name}' has no session {brief(wanted)}.", param="agent_session_id")
    if not caller.role.covers(Role.OPERATOR):
        check_owner(session, caller.user)
    return session


def require_enabled(agent: Agent) -> None:
    """A disabled agent gets nothing new; what it has can be seen and ended. Raises Forbidden."""
    if not agent.enabled:
        raise Forbidden(
            f"Agent '{agent.name}' is disabled; its endpoint takes no requests until it is enabled again.",
            code="agent_disabled",
        )
