"""The A2A protocol of an agent's endpoint, bridged to its responses protocol.

A message becomes a request to the gateway's own Responses handler, in this process: sessions, recording, isolation and
errors are that handler's. A task is a response, with its id; a context is a conversation. Nothing else is stored.
Two kinds of failures: what A2A has a number for is said in A2A; what the platform refuses before an agent is asked
(no token, no such agent, a session that does not start) is Foundry's envelope with its status, as on every other
protocol. A2A 0.3 is the default, as on Azure; 1.0 is spoken to who asks for it, over JSON-RPC. Wire: control-plane.md
§2.8, container-contract.md §3.6, docs/wire-notes.md.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Protocol

import orjson
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from cupola.agents import Agent, AgentVersion, no_agent
from cupola.errors import BadRequest, CupolaError, NotFound
from cupola.gateway.a2a_calls import id_of, known_method, method_of, not_offered, read_call, unspoken, version_of
from cupola.gateway.a2a_card import card_1_0_of, card_of, require_offered
from cupola.gateway.a2a_contexts import Context, Contexts
from cupola.gateway.a2a_exchange import Exchange, Relay
from cupola.gateway.a2a_tasks import TaskEvents, last_of, task_of
from cupola.gateway.a2a_wire import (
    V0_3,
    V1_0,
    A2AError,
    Code,
    HttpJson,
    JsonRpc,
    JsonRpc1,
    Sent,
    TaskQuery,
    read_send,
    read_task_query,
)
from cupola.gateway.passage import named_session
from cupola.store import Store
from cupola.store import agents as agent_rows
from cupola.timings import Stopwatch
from cupola.web.reply import json_reply

_ENDPOINT = "/endpoint/protocols/a2a"


class Responding(Protocol):
    """What this module needs of `responses.Responses`."""

    async def create(self, scope: Scope, receive: Receive, send: Send) -> None: ...

    async def cancel(self, scope: Scope, receive: Receive, send: Send) -> None: ...


_Serve = Callable[[Exchange], Awaitable[None]]


class A2A:
    """ASGI endpoints under `/agents/{agent}/endpoint/protocols/a2a`. `clock` gives unix seconds."""

    def __init__(self, store: Store, responses: Responding, clock: Callable[[], float] = time.time) -> None:
        self._store = store
        self._responses = responses
        self._clock = clock
        self._contexts = Contexts(store, clock)

    async def card(self, request: Request) -> Response:
        """`GET a2a/agentCard/v0.3`, with a token like everything here."""
        return await self._card(request, card_of)

    async def card_1_0(self, request: Request) -> Response:
        """`GET a2a/agentCard/v1.0`."""
        return await self._card(request, card_1_0_of)

    async def _card(
        self, request: Request, make: Callable[[Agent, Mapping[str, Any], str], dict[str, Any]]
    ) -> Response:
        agent, latest = await self._agent(request.scope)
        written = require_offered(agent, latest)
        base, _, _ = str(request.url.replace(query="", fragment="")).partition(_ENDPOINT)
        return json_reply(make(agent, written, base + _ENDPOINT))

    # JSON-RPC

    async def rpc(self, scope: Scope, receive: Receive, send: Send) -> None:
        """`POST a2a`."""
        named_session(scope)
        await self._require_offered(scope)
        exchange = Exchange(scope, receive, send, JsonRpc(None))
        try:
            call = await read_call(scope, receive)
            exchange = Exchange(scope, receive, send, JsonRpc(id_of(call)))
            version = version_of(scope)
            method = method_of(call)
            if version == V1_0:
                exchange = Exchange(scope, receive, send, JsonRpc1(id_of(call)))
            params = call.get("params")
            await self._dispatch(exchange, known_method(method, version), {} if params is None else params)
        except A2AError as error:
            status, body = exchange.transport.failure(error)
            await exchange.reply(body, status)

    async def _dispatch(self, exchange: Exchange, method: str, params: object) -> None:
        if method == "message/send":
            await self._whole(exchange, read_send(params))
        elif method == "message/stream":
            await self._streamed(exchange, params)
        elif method == "tasks/get":
            await self._get(exchange, read_task_query(params))
        elif method == "tasks/cancel":
            await self._cancel(exchange, read_task_query(params))
        else:
            raise not_offered(method)

    # HTTP+JSON

    async def send_message(self, scope: Scope, receive: Receive, send: Send) -> None:
        """`POST a2a/v1/message:send`."""

        async def serve(exchange: Exchange) -> None:
            await self._whole(exchange, read_send(await read_call(scope, receive)))

        await self._http_json(scope, receive, send, serve)

    async def stream_message(self, scope: Scope, receive: Receive, send: Send) -> None:
        """`POST a2a/v1/message:stream`."""

        async def serve(exchange: Exchange) -> None:
            await self._streamed(exchange, await read_call(scope, receive))

        await self._http_json(scope, receive, send, serve)

    async def get_task(self, scope: Scope, receive: Receive, send: Send) -> None:
        """`GET a2a/v1/tasks/{id}`."""

        async def serve(exchange: Exchange) -> None:
            query = {**Request(scope).query_params, "id": scope["path_params"]["task"]}
            await self._get(exchange, read_task_query(query))

        await self._http_json(scope, receive, send, serve)

    async def cancel_task(self, scope: Scope, receive: Receive, send: Send) -> None:
        """`POST a2a/v1/tasks/{id}:cancel`; a body says nothing more."""

        async def serve(exchange: Exchange) -> None:
            await read_call(scope, receive)
            await self._cancel(exchange, TaskQuery(scope["path_params"]["task"], None))

        await self._http_json(scope, receive, send, serve)

    async def _http_json(self, scope: Scope, receive: Receive, send: Send, serve: _Serve) -> None:
        """Serves one request, and puts its failure as this transport does."""
        named_session(scope)
        await self._require_offered(scope)
        exchange = Exchange(scope, receive, send, HttpJson())
        try:
            if version_of(scope) != V0_3:
                raise unspoken(V1_0, "over HTTP+JSON; 0.3 is here, and 1.0 over JSON-RPC")
            await serve(exchange)
        except A2AError as error:
            status, body = exchange.transport.failure(error)
            await exchange.reply(body, status)

    # What both do

    async def _whole(self, exchange: Exchange, sent: Sent) -> None:
        """Asks the agent, and answers with the task when it is done (at once where the caller does not wait)."""
        context = await self._contexts.continued(exchange, sent)
        relay = Relay()
        body = {**_asked(exchange, sent, context), **({"background": True} if sent.background else {})}
        await self._ask(exchange, context, body, relay)
        if relay.status:
            task = self._made(relay, context, sent)
            await exchange.reply(exchange.transport.sent(task))

    async def _streamed(self, exchange: Exchange, params: object) -> None:
        """Asks the agent, and tells the caller what it says while it says it."""
        try:
            sent = read_send(params)
            context = await self._contexts.continued(exchange, sent)
            events = TaskEvents(context.id, last_of([sent.shown], sent.history_length))
            relay = Relay(exchange, events, self._clock)
            await self._ask(exchange, context, {**_asked(exchange, sent, context), "stream": True}, relay)
            if relay.streaming:
                await relay.finish()
            elif relay.status:
                task = self._made(relay, context, sent)
                await exchange.only_event(exchange.transport.event(task))
        except A2AError as error:
            event = exchange.transport.failed_stream(error)
            if event is None:
                raise
            await exchange.only_event(event)

    async def _get(self, exchange: Exchange, query: TaskQuery) -> None:
        known = await self._contexts.known_task(exchange, query.id)
        task = known.task(known.stored.body, query.history_length)
        await exchange.reply(exchange.transport.task(task))

    async def _cancel(self, exchange: Exchange, query: TaskQuery) -> None:
        """Cancels where the agent does: a response in the background (container-contract.md §3.2)."""
        known = await self._contexts.known_task(exchange, query.id)
        if known.stored.is_final:
            raise A2AError(
                Code.TASK_NOT_CANCELABLE, f"Task '{query.id}' is {known.stored.status}; there is nothing to cancel."
            )
        relay = Relay()
        scope, receive = exchange.inner(b"", response=query.id)
        try:
            await self._responses.cancel(scope, receive, relay)
        except (BadRequest, NotFound) as error:
            raise A2AError(Code.TASK_NOT_CANCELABLE, error.message) from error
        if relay.status and relay.status != 200:
            raise A2AError(Code.TASK_NOT_CANCELABLE, relay.complaint)
        if relay.status:
            task = known.task(relay.json() or known.stored.body, None)
            await exchange.reply(exchange.transport.task(task))

    async def _ask(self, exchange: Exchange, context: Context, body: Mapping[str, Any], relay: Relay) -> None:
        """`POST responses` within a context, which is stored first if it is new, and removed if nothing came of it."""
        if context.new:
            await self._contexts.store(exchange, context)
        scope, receive = exchange.inner(orjson.dumps(body))
        watch: Stopwatch = scope["cupola.stopwatch"]
        watch.asks(exchange.project, exchange.agent, "a2a")

        async def told(message: Message) -> None:
            exchange.scope["cupola.session_id"] = scope.get("cupola.session_id")
            await relay(message)

        try:
            await self._responses.create(scope, receive, told)
        except CupolaError as error:
            if context.new and not relay.status:
                await self._contexts.drop(exchange, context)
            if isinstance(error, BadRequest):
                data = {"code": error.code, "param": error.param}
                raise A2AError(Code.INVALID_PARAMS, error.message, data=data) from error
            raise
        finally:
            if "cupola.session_id" in scope:
                exchange.scope["cupola.session_id"] = scope["cupola.session_id"]

    def _made(self, relay: Relay, context: Context, sent: Sent) -> dict[str, Any]:
        """The task of a reply in one piece. Raises A2AError for one that is no response."""
        response = relay.json()
        if relay.status != 200:
            number = Code.INVALID_PARAMS if relay.status < 500 else Code.INTERNAL
            raise A2AError(number, relay.complaint, data={"status": relay.status, **(response or {})})
        if response is None or not isinstance(response.get("id"), str):
            raise A2AError(Code.INVALID_AGENT_RESPONSE, "The agent's answer is not a response.", data=response)
        return task_of(response, context.id, last_of([sent.shown], sent.history_length), self._clock())

    # Agents, contexts, tasks

    async def _agent(self, scope: Scope) -> tuple[Agent, AgentVersion | None]:
        project, name = scope["path_params"]["project"], scope["path_params"]["agent"]

        def question(conn: Any) -> tuple[Agent | None, AgentVersion | None]:
            return agent_rows.get_agent(conn, project, name), agent_rows.latest_version(conn, project, name)

        agent, latest = await self._store.read(question)
        if agent is None:
            raise no_agent(project, name)
        return agent, latest

    async def _require_offered(self, scope: Scope) -> None:
        require_offered(*await self._agent(scope))


def _asked(exchange: Exchange, sent: Sent, context: Context) -> dict[str, Any]:
    """The body of `POST responses` for a message."""
    body = {"input": sent.text, "conversation": context.conversation}
    return body if exchange.session_id is None else {**body, "agent_session_id": exchange.session_id}
