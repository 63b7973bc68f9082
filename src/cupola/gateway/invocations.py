"""The invocations protocol: any body, any reply, one session per `agent_session_id` in the query.

Every invocation gets its id from the platform. Which session serves it and who made it is kept, so that polling needs
nothing but the id, and nobody polls or cancels what another caller began: in the store while it goes on after its
reply's head, else among the latest in memory (control-plane.md §2.8, container-contract.md §3.3).
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable
from functools import partial
from urllib.parse import quote

from starlette.types import Message, Receive, Scope, Send

from cupola.errors import NotFound
from cupola.gateway.headers import Header, find
from cupola.gateway.passage import Passage, named_session
from cupola.gateway.timekeeper import Timekeeper
from cupola.ids import new_invocation_id
from cupola.sandboxes.live import LiveSandbox
from cupola.secrecy import brief
from cupola.sessions import LIFETIME, Desired, Invocation
from cupola.store import Store
from cupola.store import invocations as rows
from cupola.store import sessions as session_rows
from cupola.timings import Stopwatch

KEPT_SECONDS = LIFETIME
"""How long an invocation can be polled by its id alone: as long as a session lives that nobody uses."""

ACCEPTED = 202
"""The status of an asynchronous invocation."""

_BETWEEN_SWEEPS = 3600.0
_REMEMBERED = 10_000
_PROTOCOL = "invocations"
_InvocationKey = tuple[str, str, str]
"""Project, agent, invocation id."""


class Invocations:
    """ASGI endpoints of `/agents/{agent}/endpoint/protocols/invocations…`. `clock` gives unix seconds."""

    def __init__(
        self, store: Store, passage: Passage, timekeeper: Timekeeper, clock: Callable[[], float] = time.time
    ) -> None:
        self._store = store
        self._timekeeper = timekeeper
        self._passage = passage
        self._clock = clock
        self._recent: OrderedDict[_InvocationKey, Invocation] = OrderedDict()
        self._swept = 0.0

    async def create(self, scope: Scope, receive: Receive, send: Send) -> None:
        """`POST invocations`."""
        invocation_id = new_invocation_id()
        began: Invocation | None = None
        watch: Stopwatch = scope["cupola.stopwatch"]
        watch.asks(*_agent_of(scope), _PROTOCOL)
        watch.subject = invocation_id

        def begin(live: LiveSandbox) -> None:
            nonlocal began
            began = self._remember(scope, invocation_id, live)

        async def keeping(message: Message) -> None:
            """Whoever is told the id of what goes on can poll, also after a crash: it is stored before."""
            if began is not None and message["type"] == "http.response.start" and _goes_on(message):
                await self._keep(began)
            await send(message)

        named = _named(invocation_id)
        await self._passage.take(
            scope,
            receive,
            keeping,
            protocol=_PROTOCOL,
            path="/invocations",
            session_id=named_session(scope),
            headers=named,
            reply_headers=named,
            on_live=begin,
        )

    async def poll(self, scope: Scope, receive: Receive, send: Send) -> None:
        """`GET invocations/{id}`."""
        watch, invocation = scope["cupola.stopwatch"], scope["path_params"]["invocation"]
        if await self._known((*_agent_of(scope), invocation)) is not None:
            await self._timekeeper.recall(watch, scope["path_params"]["project"], invocation)
        await self._pass_known(scope, receive, send, "")

    async def cancel(self, scope: Scope, receive: Receive, send: Send) -> None:
        """`POST invocations/{id}/cancel`."""
        await self._pass_known(scope, receive, send, "/cancel")

    async def document(self, scope: Scope, receive: Receive, send: Send) -> None:
        """`GET invocations/docs/{document}`: the agent's own OpenAPI or AsyncAPI document."""
        path = f"/invocations/docs/{quote(scope['path_params']['document'], safe='')}"
        await self._passage.take(scope, receive, send, protocol=_PROTOCOL, path=path, session_id=named_session(scope))

    async def _pass_known(self, scope: Scope, receive: Receive, send: Send, suffix: str) -> None:
        invocation_id = scope["path_params"]["invocation"]
        session_id = await self._session_of(scope, invocation_id)
        named = _named(quote(invocation_id, safe=""))
        path = f"/invocations/{quote(invocation_id, safe='')}{suffix}"
        await self._passage.take(
            scope,
            receive,
            send,
            protocol=_PROTOCOL,
            path=path,
            session_id=session_id,
            headers=named,
            reply_headers=named,
        )

    async def _session_of(self, scope: Scope, invocation_id: str) -> str:
        """The session in which the invocation is looked for. Raises NotFound; no session begins by polling."""
        asked = named_session(scope)
        known = await self._known((*_agent_of(scope), invocation_id))
        if known is None:
            if asked is None:
                raise _unknown(invocation_id)
            await self._check_session(scope, asked)
            return asked
        if known.user != scope["cupola.caller"].user or asked not in (None, known.session):
            raise _unknown(invocation_id)
        scope["cupola.session_id"] = known.session
        await self._check_session(scope, known.session)
        return known.session

    async def _known(self, key: _InvocationKey) -> Invocation | None:
        return self._recent.get(key) or await self._store.read(lambda conn: rows.get_invocation(conn, *key))

    async def _check_session(self, scope: Scope, session_id: str) -> None:
        key = (*_agent_of(scope), session_id)
        session = await self._store.read(lambda conn: session_rows.get_session(conn, *key))
        if session is None or session.desired is Desired.DELETED:
            raise NotFound(
                f"Session {brief(session_id)} of agent {brief(key[1])} does not exist, so it serves no invocation.",
                param="agent_session_id",
            )

    def _remember(self, scope: Scope, invocation_id: str, live: LiveSandbox) -> Invocation:
        project, agent = _agent_of(scope)
        user = scope["cupola.caller"].user
        invocation = Invocation(project, agent, invocation_id, live.row.session_id, user, self._clock())
        self._recent[(project, agent, invocation_id)] = invocation
        if len(self._recent) > _REMEMBERED:
            self._recent.popitem(last=False)
        return invocation

    async def _keep(self, invocation: Invocation) -> None:
        """Stores it, and now and then forgets what is too old."""
        if invocation.created_at - self._swept >= _BETWEEN_SWEEPS:
            self._swept = invocation.created_at
            self._store.write_later(partial(rows.delete_invocations, before=invocation.created_at - KEPT_SECONDS))
        await self._store.write(lambda conn: rows.put_invocation(conn, invocation))


def _goes_on(head: Message) -> bool:
    """Whether something is left to poll or to cancel: the agent has accepted only (202), or is still speaking.

    A whole answer ends its invocation. Storing that as well would double the time of a short call.
    """
    return head["status"] == ACCEPTED or find(head["headers"], b"content-length") is None


def _agent_of(scope: Scope) -> tuple[str, str]:
    return (scope["path_params"]["project"], scope["path_params"]["agent"])


def _named(invocation_id: str) -> tuple[Header, ...]:
    return ((b"x-agent-invocation-id", invocation_id.encode()),)


def _unknown(invocation_id: str) -> NotFound:
    """The same words for what is not there and for what is another caller's."""
    return NotFound(
        f"You have no invocation '{invocation_id}' here; if the agent gave it this id by itself, "
        "name its session in the query: agent_session_id=…",
        param="agent_session_id",
    )
