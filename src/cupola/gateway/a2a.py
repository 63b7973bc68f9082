"""The A2A protocol of an agent's endpoint, bridged to its responses protocol.

A message becomes a request to the gateway's own Responses handler, in this process: sessions, recording, isolation and
errors are that handler's. A task is a response, with its id; a context is a conversation. Nothing else is stored.
Two kinds of failures: what A2A has a number for is said in A2A; what the platform refuses before an agent is asked
(no token, no such agent, a session that does not start) is Foundry's envelope with its status, as on every other
protocol. A2A 0.3 is the default, as on Azure; 1.0 is spoken to who asks for it, over JSON-RPC. Wire: control-plane.md
§2.8, container-contract.md §3.6, docs/wire-notes.md.
"""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import orjson
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from cupola.agents import Agent, AgentVersion, no_agent
from cupola.conversations import Conversation, StoredResponse
from cupola.errors import BadRequest, CupolaError, NotFound
from cupola.gateway.a2a_card import card_1_0_of, card_of, require_offered
from cupola.gateway.a2a_tasks import EventReader, TaskEvents, history_of, last_of, task_of
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
    Transport,
    brief,
    read_send,
    read_task_query,
)
from cupola.gateway.headers import Header, find
from cupola.gateway.passage import named_session
from cupola.gateway.proxy import KEEP_ALIVE
from cupola.identity import Caller
from cupola.ids import is_response_id, new_conversation_id
from cupola.store import Store
from cupola.store import agents as agent_rows
from cupola.store import conversations as conversation_rows
from cupola.store import responses as response_rows
from cupola.timings import Stopwatch
from cupola.web.body import read_object
from cupola.web.reply import json_reply

_ENDPOINT = "/endpoint/protocols/a2a"
_NAMED = "a2a_context_id"
"""Where a conversation's metadata keeps the name that a caller gave the context."""
_CONVERSATION_ID = re.compile(r"conv_[A-Za-z0-9]{50}\Z")
_VERSION = re.compile(r"(0\.3|1\.0)(?:\.\d+)?\Z")
_ABOUT_BODY = (b"content-", b"accept", b"transfer-encoding")
"""Beginnings of headers that speak of the caller's own body and of the reply to it."""


class Responding(Protocol):
    """What this module needs of `responses.Responses`."""

    async def create(self, scope: Scope, receive: Receive, send: Send) -> None: ...

    async def cancel(self, scope: Scope, receive: Receive, send: Send) -> None: ...


@dataclass(frozen=True, slots=True)
class _Exchange:
    """One request of a caller, by either transport."""

    scope: Scope
    receive: Receive
    send: Send
    transport: Transport

    @property
    def project(self) -> str:
        return str(self.scope["path_params"]["project"])

    @property
    def agent(self) -> str:
        return str(self.scope["path_params"]["agent"])

    @property
    def user(self) -> str:
        caller: Caller = self.scope["cupola.caller"]
        return caller.user

    @property
    def session_id(self) -> str | None:
        """The session that the caller asks for; only the query may name one (§2.8)."""
        return Request(self.scope).query_params.get("agent_session_id") or None

    def inner(self, body: bytes, **parameters: str) -> tuple[Scope, Receive]:
        """The same request for the Responses handler, with another body; the caller's leaving passes through."""
        headers = [header for header in self.scope["headers"] if not header[0].startswith(_ABOUT_BODY)]
        scope = {
            **self.scope,
            "method": "POST",
            "query_string": b"",
            "headers": [*headers, (b"content-type", b"application/json")],
            "path_params": {"project": self.project, "agent": self.agent, **parameters},
        }
        messages: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

        async def receive() -> Message:
            return messages.pop() if messages else await self.receive()

        return scope, receive

    async def start(self, status: int, headers: Sequence[Header]) -> None:
        await self.send({"type": "http.response.start", "status": status, "headers": list(headers)})

    async def start_events(self) -> None:
        await self.start(200, [(b"content-type", b"text/event-stream"), (b"cache-control", b"no-cache")])

    async def reply(self, body: bytes, status: int = 200) -> None:
        """One JSON object."""
        headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
        await self.start(status, headers)
        await self.send({"type": "http.response.body", "body": body, "more_body": False})

    async def only_event(self, body: bytes) -> None:
        """A stream of one event."""
        await self.start_events()
        await self.send({"type": "http.response.body", "body": _event(body), "more_body": False})


_Serve = Callable[[_Exchange], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class _Context:
    """A context: the conversation that carries it, and how the caller knows it. `new` ones are not stored yet."""

    id: str
    conversation: str
    new: bool


@dataclass(frozen=True, slots=True)
class _Known:
    """A stored response as a task: with the id of its context and the items that it answers."""

    stored: StoredResponse
    context_id: str
    items: Sequence[Mapping[str, Any]]

    def task(self, body: Mapping[str, Any], length: int | None) -> dict[str, Any]:
        history = history_of(self.items, length)
        return task_of({**body, "id": self.stored.id}, self.context_id, history, self.stored.created_at)


class A2A:
    """ASGI endpoints under `/agents/{agent}/endpoint/protocols/a2a`. `clock` gives unix seconds."""

    def __init__(self, store: Store, responses: Responding, clock: Callable[[], float] = time.time) -> None:
        self._store = store
        self._responses = responses
        self._clock = clock

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
        exchange = _Exchange(scope, receive, send, JsonRpc(None))
        try:
            call = await _read_call(scope, receive)
            exchange = _Exchange(scope, receive, send, JsonRpc(_id_of(call)))
            version = _version_of(scope)
            method = _method_of(call)
            if version == V1_0:
                exchange = _Exchange(scope, receive, send, JsonRpc1(_id_of(call)))
            params = call.get("params")
            await self._dispatch(exchange, _known_method(method, version), {} if params is None else params)
        except A2AError as error:
            status, body = exchange.transport.failure(error)
            await exchange.reply(body, status)

    async def _dispatch(self, exchange: _Exchange, method: str, params: object) -> None:
        if method == "message/send":
            await self._whole(exchange, read_send(params))
        elif method == "message/stream":
            await self._streamed(exchange, params)
        elif method == "tasks/get":
            await self._get(exchange, read_task_query(params))
        elif method == "tasks/cancel":
            await self._cancel(exchange, read_task_query(params))
        else:
            raise _not_offered(method)

    # HTTP+JSON

    async def send_message(self, scope: Scope, receive: Receive, send: Send) -> None:
        """`POST a2a/v1/message:send`."""

        async def serve(exchange: _Exchange) -> None:
            await self._whole(exchange, read_send(await _read_call(scope, receive)))

        await self._http_json(scope, receive, send, serve)

    async def stream_message(self, scope: Scope, receive: Receive, send: Send) -> None:
        """`POST a2a/v1/message:stream`."""

        async def serve(exchange: _Exchange) -> None:
            await self._streamed(exchange, await _read_call(scope, receive))

        await self._http_json(scope, receive, send, serve)

    async def get_task(self, scope: Scope, receive: Receive, send: Send) -> None:
        """`GET a2a/v1/tasks/{id}`."""

        async def serve(exchange: _Exchange) -> None:
            query = {**Request(scope).query_params, "id": scope["path_params"]["task"]}
            await self._get(exchange, read_task_query(query))

        await self._http_json(scope, receive, send, serve)

    async def cancel_task(self, scope: Scope, receive: Receive, send: Send) -> None:
        """`POST a2a/v1/tasks/{id}:cancel`; a body says nothing more."""

        async def serve(exchange: _Exchange) -> None:
            await _read_call(scope, receive)
            await self._cancel(exchange, TaskQuery(scope["path_params"]["task"], None))

        await self._http_json(scope, receive, send, serve)

    async def _http_json(self, scope: Scope, receive: Receive, send: Send, serve: _Serve) -> None:
        """Serves one request, and puts its failure as this transport does."""
        named_session(scope)
        await self._require_offered(scope)
        exchange = _Exchange(scope, receive, send, HttpJson())
        try:
            if _version_of(scope) != V0_3:
                raise _unspoken(V1_0, "over HTTP+JSON; 0.3 is here, and 1.0 over JSON-RPC")
            await serve(exchange)
        except A2AError as error:
            status, body = exchange.transport.failure(error)
            await exchange.reply(body, status)

    # What both do

    async def _whole(self, exchange: _Exchange, sent: Sent) -> None:
        """Asks the agent, and answers with the task when it is done (at once where the caller does not wait)."""
        context = await self._continued(exchange, sent)
        relay = _Relay()
        body = {**_asked(exchange, sent, context), **({"background": True} if sent.background else {})}
        await self._ask(exchange, context, body, relay)
        if relay.status:
            task = self._made(relay, context, sent)
            await exchange.reply(exchange.transport.sent(task))

    async def _streamed(self, exchange: _Exchange, params: object) -> None:
        """Asks the agent, and tells the caller what it says while it says it."""
        try:
            sent = read_send(params)
            context = await self._continued(exchange, sent)
            events = TaskEvents(context.id, last_of([sent.shown], sent.history_length))
            relay = _Relay(exchange, events, self._clock)
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

    async def _get(self, exchange: _Exchange, query: TaskQuery) -> None:
        known = await self._known(exchange, query.id)
        task = known.task(known.stored.body, query.history_length)
        await exchange.reply(exchange.transport.task(task))

    async def _cancel(self, exchange: _Exchange, query: TaskQuery) -> None:
        """Cancels where the agent does: a response in the background (container-contract.md §3.2)."""
        known = await self._known(exchange, query.id)
        if known.stored.is_final:
            raise A2AError(
                Code.TASK_NOT_CANCELABLE, f"Task '{query.id}' is {known.stored.status}; there is nothing to cancel."
            )
        relay = _Relay()
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

    async def _ask(self, exchange: _Exchange, context: _Context, body: Mapping[str, Any], relay: _Relay) -> None:
        """`POST responses` within a context, which is stored first if it is new, and removed if nothing came of it."""
        if context.new:
            await self._store_context(exchange, context)
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
                await self._drop_context(exchange, context)
            if isinstance(error, BadRequest):
                data = {"code": error.code, "param": error.param}
                raise A2AError(Code.INVALID_PARAMS, error.message, data=data) from error
            raise
        finally:
            if "cupola.session_id" in scope:
                exchange.scope["cupola.session_id"] = scope["cupola.session_id"]

    def _made(self, relay: _Relay, context: _Context, sent: Sent) -> dict[str, Any]:
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

    async def _continued(self, exchange: _Exchange, sent: Sent) -> _Context:
        """The context that a message belongs to: the one that it names, else its session's own, else a new one.

        A caller may name a context as he likes; the platform's own names must be those of his conversations.
        """
        if sent.task_id is not None:
            await self._refuse_to_add(exchange, sent.task_id)
        named = sent.context_id
        if named is None and exchange.session_id is None:
            made = new_conversation_id()
            return _Context(made, made, new=True)
        if named is not None and (_CONVERSATION_ID.match(named) or is_response_id(named)):
            if not await self._has_conversation(exchange, named):
                raise A2AError(
                    Code.INVALID_PARAMS,
                    f"Context {brief(named)} does not exist; leave 'message.contextId' out to begin a new one.",
                )
            return _Context(named, named, new=False)
        derived = _derived(exchange, "session" if named is None else "context", named or str(exchange.session_id))
        return _Context(named or derived, derived, new=not await self._has_conversation(exchange, derived))

    async def _refuse_to_add(self, exchange: _Exchange, task_id: str) -> None:
        """A response takes no further message: its context does."""
        known = await self._known(exchange, task_id)
        if known.stored.is_final:
            raise A2AError(
                Code.UNSUPPORTED_OPERATION,
                f"Task '{task_id}' is {known.stored.status}; to go on, send 'contextId': '{known.context_id}' "
                "without 'taskId'.",
            )
        raise A2AError(Code.UNSUPPORTED_OPERATION, f"Task '{task_id}' is still working and takes no further message.")

    async def _has_conversation(self, exchange: _Exchange, wanted: str) -> bool:
        project = exchange.project
        found = await self._store.read(lambda conn: conversation_rows.get_conversation(conn, project, wanted))
        return found is not None and found.user == exchange.user

    async def _store_context(self, exchange: _Exchange, context: _Context) -> None:
        conversation = Conversation(
            project=exchange.project,
            id=context.conversation,
            user=exchange.user,
            created_at=self._clock(),
            metadata={} if context.id == context.conversation else {_NAMED: context.id},
        )
        await self._store.write(lambda conn: conversation_rows.put_conversation(conn, conversation))

    async def _drop_context(self, exchange: _Exchange, context: _Context) -> None:
        """Removes a context that was begun for nothing, unless somebody has said something in it meanwhile."""
        project, conversation = exchange.project, context.conversation

        def change(conn: Any) -> None:
            if not conversation_rows.history(conn, project, conversation):
                conversation_rows.delete_conversation(conn, project, conversation)

        await self._store.write(change)

    async def _known(self, exchange: _Exchange, task_id: str) -> _Known:
        """The caller's own task of this agent. Raises A2AError for any other, as if there were none."""
        project = exchange.project

        def question(conn: Any) -> tuple[StoredResponse | None, Conversation | None, Sequence[Any]]:
            stored = response_rows.get_response(conn, project, task_id)
            if stored is None or stored.user != exchange.user or stored.agent != exchange.agent:
                return None, None, ()
            context = stored.conversation
            talk = None if context is None else conversation_rows.get_conversation(conn, project, context)
            return stored, talk, response_rows.get_items(conn, project, stored.input_item_ids, stored.user)

        stored, talk, items = await self._store.read(question)
        if stored is None:
            raise A2AError(Code.TASK_NOT_FOUND, f"Task {brief(task_id)} does not exist.")
        exchange.scope["cupola.session_id"] = stored.session
        named = None if talk is None else talk.metadata.get(_NAMED)
        context_id = str(named or stored.conversation or stored.id)
        return _Known(stored, context_id, [item for item in items if item is not None])


class _Relay:
    """Takes what the Responses handler sends: gathers a reply in one piece, translates a stream as it comes."""

    def __init__(
        self,
        exchange: _Exchange | None = None,
        events: TaskEvents | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._exchange = exchange
        self._events = events
        self._clock = clock
        self._reader = EventReader()
        self._body = bytearray()
        self.status = 0
        self.streaming = False

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            await self._start(message["status"], message["headers"])
        elif not self.streaming:
            self._body += message.get("body", b"")
        else:
            await self._translate(message.get("body", b""))

    async def finish(self) -> None:
        """Ends a stream; one without a last word of its own gets one."""
        assert self._exchange is not None
        assert self._events is not None
        reason = "The agent's answer broke off: its stream ended without a last event."
        if self._events.task_id is None:
            error = A2AError(Code.INVALID_AGENT_RESPONSE, "The agent's stream began no response.")
            event = self._exchange.transport.failed_stream(error)
            rest = [] if event is None else [event]
        else:
            last = () if self._events.ended else self._events.broken_off(reason, self._clock())
            rest = [self._exchange.transport.event(told) for told in last]
        await self._put(rest, more=False)

    @property
    def complaint(self) -> str:
        """What the agent said of its failure."""
        body = self.json() or {}
        error = body.get("error")
        said = error.get("message") if isinstance(error, Mapping) else body.get("message")
        return str(said or f"The agent answered with status {self.status}.")

    def json(self) -> dict[str, Any] | None:
        """The body of a reply in one piece, where it is an object."""
        try:
            body = orjson.loads(bytes(self._body))
        except orjson.JSONDecodeError:
            return None
        return body if isinstance(body, dict) else None

    async def _start(self, status: int, headers: Iterable[Header]) -> None:
        headers = list(headers)
        self.status = status
        kind = find(headers, b"content-type") or b""
        self.streaming = self._events is not None and status == 200 and kind.startswith(b"text/event-stream")
        if self.streaming and self._exchange is not None:
            await self._exchange.start_events()

    async def _translate(self, chunk: bytes) -> None:
        assert self._exchange is not None
        assert self._events is not None
        pieces: list[bytes] = []
        for payload in self._reader.feed(chunk):
            if payload is None:
                await self._put(pieces, more=True)
                await self._exchange.send({"type": "http.response.body", "body": KEEP_ALIVE, "more_body": True})
                pieces = []
                continue
            pieces += [self._exchange.transport.event(told) for told in self._events.of(payload, self._clock())]
        await self._put(pieces, more=True)

    async def _put(self, events: Sequence[bytes], *, more: bool) -> None:
        if (events or not more) and self._exchange is not None:
            body = b"".join(_event(event) for event in events)
            await self._exchange.send({"type": "http.response.body", "body": body, "more_body": more})


def _event(data: bytes) -> bytes:
    return b"data: " + data + b"\n\n"


def _asked(exchange: _Exchange, sent: Sent, context: _Context) -> dict[str, Any]:
    """The body of `POST responses` for a message."""
    body = {"input": sent.text, "conversation": context.conversation}
    return body if exchange.session_id is None else {**body, "agent_session_id": exchange.session_id}


def _derived(exchange: _Exchange, kind: str, name: str) -> str:
    """The id of the conversation that carries a context of this name: the same for the same caller and agent."""
    seed = "\0".join((kind, exchange.project, exchange.agent, exchange.user, name))
    digest = hashlib.sha256(seed.encode()).hexdigest()
    return f"conv_{digest[:16]}00{digest[16:48]}"


async def _read_call(scope: Scope, receive: Receive) -> dict[str, Any]:
    """The body. Raises A2AError for what is no JSON object."""
    try:
        return await read_object(Request(scope, receive))
    except BadRequest as error:
        number = Code.PARSE if isinstance(error.__cause__, orjson.JSONDecodeError) else Code.INVALID_REQUEST
        raise A2AError(number, error.message) from error


def _id_of(call: Mapping[str, Any]) -> str | int | float | None:
    """The request's id, by which the answer is known; one that may not be is left out."""
    found = call.get("id")
    return found if isinstance(found, str | int | float) and not isinstance(found, bool) else None


def _method_of(call: Mapping[str, Any]) -> str:
    if call.get("jsonrpc") != "2.0" or not isinstance(call.get("method"), str):
        raise A2AError(
            Code.INVALID_REQUEST,
            'The body must be a JSON-RPC 2.0 request: {"jsonrpc": "2.0", "id": …, "method": …, "params": …}.',
        )
    if not isinstance(call.get("id"), str | int | float | None) or isinstance(call.get("id"), bool):
        raise A2AError(Code.INVALID_REQUEST, "'id' must be a string or a number.")
    return str(call["method"])


def _version_of(scope: Scope) -> str:
    """The version that the caller asks for, in the header or in the query. Raises A2AError for one not spoken here."""
    header = find(scope["headers"], b"a2a-version")
    query = {name.lower(): value for name, value in Request(scope).query_params.items()}
    asked = query.get("a2a-version", "") if header is None else header.decode("latin-1").strip()
    match = _VERSION.match(asked or V0_3)
    if match is None:
        raise _unspoken(asked, "here; 1.0 and 0.3 are")
    return match[1]


def _unspoken(version: str, where: str) -> A2AError:
    return A2AError(Code.VERSION_NOT_SUPPORTED, f"A2A version '{brief(version)}' is not spoken {where}.")


_METHODS_1_0 = {
    "SendMessage": "message/send",
    "SendStreamingMessage": "message/stream",
    "GetTask": "tasks/get",
    "CancelTask": "tasks/cancel",
    "ListTasks": "tasks/list",
    "SubscribeToTask": "tasks/resubscribe",
    "CreateTaskPushNotificationConfig": "tasks/pushNotificationConfig/set",
    "GetTaskPushNotificationConfig": "tasks/pushNotificationConfig/get",
    "ListTaskPushNotificationConfigs": "tasks/pushNotificationConfig/list",
    "DeleteTaskPushNotificationConfig": "tasks/pushNotificationConfig/delete",
    "GetExtendedAgentCard": "agent/getAuthenticatedExtendedCard",
}
"""1.0's names of methods, by what 0.3 calls them; `tasks/list` is the only one that 0.3 has not over JSON-RPC."""
_METHODS = frozenset(_METHODS_1_0.values()) - {"tasks/list"}


def _known_method(method: str, version: str) -> str:
    """0.3's name of a method of that version. Raises A2AError for one that the version does not have."""
    known = _METHODS_1_0.get(method) if version == V1_0 else method if method in _METHODS else None
    if known is None:
        other = V0_3 if version == V1_0 else V1_0
        raise A2AError(
            Code.METHOD_NOT_FOUND,
            f"'{brief(method)}' is not a method of A2A {version}, which this request asks for; "
            f"to speak {other}, send the header 'A2A-Version: {other}'.",
        )
    return known


def _not_offered(method: str) -> A2AError:
    if method.startswith("tasks/pushNotificationConfig/"):
        return A2AError(
            Code.PUSH_NOTIFICATION_NOT_SUPPORTED, "Push notifications are not supported; poll the task instead."
        )
    if method == "agent/getAuthenticatedExtendedCard":
        return A2AError(Code.EXTENDED_AGENT_CARD_NOT_CONFIGURED, "There is no extended card: the card has everything.")
    if method == "tasks/list":
        return A2AError(Code.UNSUPPORTED_OPERATION, "Tasks cannot be listed; get a task by its id.")
    return A2AError(
        Code.UNSUPPORTED_OPERATION, "A stream cannot be taken up again; get the task to see what became of it."
    )
