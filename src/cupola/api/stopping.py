"""The red button: ending one session at once, or all of a project or an agent side by side. Not on the official wire.

Nothing here asks a container for anything, so it works when none answers. Commands: `cupola sessions kill|stop --all`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Annotated, Any

import structlog
from pydantic import BaseModel, ConfigDict, Field
from starlette.requests import Request
from starlette.responses import Response

from cupola.api.owned import agent_of, caller_of, session_of
from cupola.errors import CupolaError
from cupola.identity import Caller, Role
from cupola.sandboxes.ready import Sandboxes
from cupola.sessions import Session
from cupola.store import Store
from cupola.store import sessions as rows
from cupola.web.body import read_model, read_object
from cupola.web.reply import json_reply, no_content

log = structlog.get_logger()

LONGEST_GRACE = 3600.0
"""Seconds; more is a slip of the keyboard."""


class StopAll(BaseModel):
    """The body of a stop of many. Without `agent` it is for the whole project; `grace` is in seconds."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    agent: str | None = None
    grace: Annotated[float, Field(ge=0, le=LONGEST_GRACE)] | None = None


class Stopping:
    """Handlers of `/cupola/projects/{project}/…`."""

    def __init__(self, store: Store, sandboxes: Sandboxes) -> None:
        self._store = store
        self._sandboxes = sandboxes

    async def kill(self, request: Request) -> Response:
        """`POST …/sessions/{session}:kill`: SIGKILL, now; done already is done."""
        agent = await agent_of(request, self._store)
        await self._sandboxes.kill_session(await session_of(request, agent, self._store))
        return no_content()

    async def stop_all(self, request: Request) -> Response:
        """`POST …/sessions:stop`: all that run, start or stop already, of those that the caller may stop."""
        wanted = read_model(StopAll, await read_object(request))
        found = await self._running(request.path_params["project"], wanted.agent, caller_of(request))
        results = await asyncio.gather(*(self._stop(session, wanted.grace) for session in found))
        failed = [failure for failure in results if failure is not None]
        stopped = [session.id for session, failure in zip(found, results, strict=True) if failure is None]
        return json_reply({"object": "sessions.stopped", "stopped": stopped, "failed": failed})

    async def _running(self, project: str, agent: str | None, caller: Caller) -> Sequence[Session]:
        keys = [key for key in self._sandboxes.keys_with_sandbox() if key[0] == project and agent in (None, key[1])]
        known = await self._store.read(lambda conn: [rows.get_session(conn, *key) for key in keys])
        everybody = caller.role.covers(Role.OPERATOR)
        return [session for session in known if session is not None and (everybody or session.caller == caller.user)]

    async def _stop(self, session: Session, grace: float | None) -> dict[str, Any] | None:
        """None when it is stopped, else which one was not and why."""
        try:
            await self._sandboxes.stop_session(session, grace=grace)
        except CupolaError as error:
            log.warning("session not stopped", agent=session.agent, session=session.id, reason=error.message)
            return {"session": session.id, "agent": session.agent, "message": error.message}
        return None
