"""The Responses protocol: the body is read, its session found, and the reply passed on as it comes.

Two base layouts lead here: the agent's own endpoint, and for older SDKs the project's `openai/responses` with an
`agent_reference` (control-plane.md §2.8). Retrieval is answered from the store, also when no sandbox runs;
cancellation and replay need the process that runs the response. Wire: container-contract.md §3.2.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import orjson
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from cupola.conversations import StoredResponse, failed_body, for_client
from cupola.errors import BadRequest, NotFound, NotServed
from cupola.gateway.carry import Carrier
from cupola.gateway.dialects import body_for
from cupola.gateway.record import Asked, EventTap, Recorder
from cupola.gateway.resolve import Resolver
from cupola.identity import Caller
from cupola.ids import new_item_id, new_response_id
from cupola.sandboxes.live import LiveSandbox
from cupola.store import Store
from cupola.store import conversations as conversation_rows
from cupola.store import responses as rows
from cupola.web.body import read_object
from cupola.web.paging import openai_list, page_from
from cupola.web.reply import json_reply


@dataclass(frozen=True, slots=True)
class _Ask:
    """A create request, read and checked."""

    body: dict[str, Any]
    agent: str
    version: str | None
    session_id: str | None
    conversation: str | None
    previous: str | None
    stream: bool
    store: bool
    background: bool


class Responses:
    """Endpoints under `…/openai/responses` and `…/openai/v1/responses`, of a project or of an agent."""

    def __init__(
        self,
        store: Store,
        resolver: Resolver,
        carrier: Carrier,
        recorder: Recorder,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._store = store
        self._resolver = resolver
        self._carrier = carrier
        self._recorder = recorder
        self._clock = clock

    async def create(self, scope: Scope, receive: Receive, send: Send) -> None:
        """`POST responses`."""
        project, caller = scope["path_params"]["project"], scope["cupola.caller"]
        ask = _read_ask(await read_object(Request(scope, receive)), scope["path_params"].get("agent"))
        await self._check_context(project, caller, ask)

        async def again(session_id: str | None = ask.session_id) -> LiveSandbox:
            return await self._resolver.sandbox(
                project,
                ask.agent,
                caller,
                session_id=session_id,
                conversation=ask.conversation,
                version=ask.version,
            )

        live = await again()
        _require_protocol(live)
        session_id = live.row.session_id
        response_id = new_response_id(near=ask.previous or ask.conversation)
        asked = _asked(project, caller, ask, session_id, response_id)
        tap = EventTap(self._keeper(asked, ask.store))
        headers = [
            header
            for header in self._carrier.headers(scope, live, caller, "responses")
            if header[0] not in (b"content-length", b"content-type", b"accept-encoding")
        ]
        headers += [(b"content-type", b"application/json"), (b"x-agent-response-id", response_id.encode())]
        if ask.background:
            live.background.add(response_id)
        await self._carrier.carry(
            live,
            lambda: again(session_id),
            method="POST",
            target=b"/responses",
            headers=headers,
            body=orjson.dumps(body_for(ask.body, live, response_id)),
            scope=scope,
            receive=receive,
            send=send,
            reply_headers=[],
            on_chunk=tap,
            on_whole=lambda status, raw: self._whole(ask, asked, status, raw),
            on_lost=lambda: self._lost(asked, ask, tap, "The agent's sandbox ended while it was answering."),
            on_end=lambda: self._unfinished(asked, ask, tap),
        )

    def _keeper(self, asked: Asked, store: bool) -> Callable[[Mapping[str, Any]], Awaitable[None]]:
        async def keep(body: Mapping[str, Any]) -> None:
            if store:
                await self._recorder.keep(asked, body)

        return keep

    async def _whole(self, ask: _Ask, asked: Asked, status: int, raw: bytes) -> bytes:
        """A reply in one piece: its missing OpenAI fields are filled in, and it is kept."""
        if status != 200:
            return raw
        try:
            body = orjson.loads(raw)
        except orjson.JSONDecodeError:
            return raw
        if not isinstance(body, dict) or _is_error(body):
            return raw
        filled = {**_defaults(ask, asked, self._clock()), **body, "agent_session_id": asked.session}
        if ask.store:
            await self._recorder.keep(asked, filled)
        return orjson.dumps(for_client(filled))

    async def _lost(self, asked: Asked, ask: _Ask, tap: EventTap, reason: str) -> bytes | None:
        """The last event of a stream whose sandbox died, kept: the caller learns it as the protocol says it."""
        if tap.ended:
            return None
        now = self._clock()
        begun = tap.last or _defaults(ask, asked, now)
        body = failed_body(begun, reason, now)
        await self._keeper(asked, ask.store)(body)
        event = {"type": "response.failed", "sequence_number": tap.next_number, "response": body}
        return b"event: response.failed\ndata: " + orjson.dumps(event) + b"\n\n"

    async def _unfinished(self, asked: Asked, ask: _Ask, tap: EventTap) -> bytes | None:
        """The same for a stream that has ended without its last word, unless its response goes on in the background."""
        if tap.last is None or ask.background:
            return None
        return await self._lost(asked, ask, tap, "The agent's answer broke off: its stream ended without a last event.")

    async def _check_context(self, project: str, caller: Caller, ask: _Ask) -> None:
        """What the request continues must exist and be the caller's own."""
        if ask.previous is not None:
            await self._owned(project, ask.previous, caller, param="previous_response_id")
        if ask.conversation is not None:
            wanted = ask.conversation
            found = await self._store.read(lambda conn: conversation_rows.get_conversation(conn, project, wanted))
            if found is None or found.user != caller.user:
                raise NotFound(
                    f"Conversation '{wanted}' does not exist. Create it first with conversations.create().",
                    param="conversation",
                )

    async def _owned(
        self, project: str, response_id: str, caller: Caller, *, param: str = "response_id"
    ) -> StoredResponse:
        found = await self._store.read(lambda conn: rows.get_response(conn, project, response_id))
        if found is None or found.user != caller.user:
            raise NotFound(f"Response with id '{response_id}' not found.", param=param)
        return found

    async def _addressed(self, scope: Scope) -> StoredResponse:
        parameters = scope["path_params"]
        found = await self._owned(parameters["project"], parameters["response"], scope["cupola.caller"])
        agent = parameters.get("agent")
        if agent is not None and found.agent != agent:
            raise NotFound(f"Response with id '{found.id}' not found.", param="response_id")
        return found

    async def retrieve(self, scope: Scope, receive: Receive, send: Send) -> None:
        """`GET responses/{id}`: from the store; with `stream=true` replayed by the process that ran it."""
        found = await self._addressed(scope)
        if b"stream=true" in scope["query_string"]:
            await self._to_process(scope, receive, send, found, "")
            return
        await json_reply(for_client(found.body))(scope, receive, send)

    async def cancel(self, scope: Scope, receive: Receive, send: Send) -> None:
        """`POST responses/{id}/cancel`: background responses only, as the container decides."""
        await self._to_process(scope, receive, send, await self._addressed(scope), "/cancel")

    async def _to_process(self, scope: Scope, receive: Receive, send: Send, found: StoredResponse, suffix: str) -> None:
        caller = scope["cupola.caller"]
        live = None
        if found.session is not None:
            live = self._carrier.live((found.project, found.agent, found.session))
        if live is None:
            raise BadRequest(
                f"Response '{found.id}' is {found.status} and its sandbox does not run any more: "
                "only the process that ran it could cancel or replay it. Retrieve it without streaming.",
                param="response_id",
            )

        async def gone() -> LiveSandbox:
            raise BadRequest(f"The sandbox that ran response '{found.id}' has ended.", param="response_id")

        query = scope["query_string"].decode("latin-1")
        await self._carrier.carry(
            live,
            gone,
            method=scope["method"],
            target=f"/responses/{quote(found.id, safe='')}{suffix}?{query}".rstrip("?").encode("latin-1"),
            headers=[h for h in self._carrier.headers(scope, live, caller, "responses") if h[0] != b"content-length"],
            body=b"",
            scope=scope,
            receive=receive,
            send=send,
            reply_headers=[],
        )

    async def delete(self, request: Request) -> Response:
        """`DELETE responses/{id}`."""
        found = await self._addressed(request.scope)
        if found.background and not found.is_final:
            raise BadRequest(f"Response '{found.id}' is still running; cancel it first.", param="response_id")
        await self._store.write(lambda conn: rows.delete_response(conn, found.project, found.id))
        return json_reply({"id": found.id, "object": "response", "deleted": True})

    async def input_items(self, request: Request) -> Response:
        """`GET responses/{id}/input_items`."""
        found = await self._addressed(request.scope)
        page = page_from(request.query_params)
        items = await self._store.read(
            lambda conn: rows.get_items(conn, found.project, found.input_item_ids, found.user)
        )
        return json_reply(openai_list([item for item in items if item is not None], page))


def _read_ask(body: dict[str, Any], agent: str | None) -> _Ask:
    """Raises BadRequest naming the field, or NotServed for a request to a model."""
    name, version = agent, None
    if name is None:
        name, version = _agent_reference(body)
    conversation = body.get("conversation")
    if isinstance(conversation, dict):
        conversation = conversation.get("id")
    ask = _Ask(
        body=body,
        agent=name,
        version=version,
        session_id=_text(body, "agent_session_id"),
        conversation=_as_text(conversation, "conversation"),
        previous=_text(body, "previous_response_id"),
        stream=_flag(body, "stream", False),
        store=_flag(body, "store", True),
        background=_flag(body, "background", False),
    )
    if ask.conversation is not None and ask.previous is not None:
        raise BadRequest("Send 'conversation' or 'previous_response_id', not both.", param="previous_response_id")
    if ask.background and not ask.store:
        raise BadRequest(
            "'background' needs 'store': a response that is not stored could not be retrieved.",
            code="unsupported_parameter",
            param="background",
        )
    return ask


def _agent_reference(body: Mapping[str, Any]) -> tuple[str, str | None]:
    reference = body.get("agent_reference") or body.get("agent")
    if reference is None:
        raise NotServed(
            "This request names no agent ('agent_reference'), so it is for a model; "
            "Cupola does not serve models yet. Send it to your model's own endpoint."
        )
    if not isinstance(reference, dict) or not isinstance(reference.get("name"), str):
        raise BadRequest(
            '\'agent_reference\' must be an object such as {"type": "agent_reference", "name": "my-agent"}.',
            param="agent_reference",
        )
    version = reference.get("version")
    return reference["name"], None if version is None else str(version)


def _text(body: Mapping[str, Any], field: str) -> str | None:
    return _as_text(body.get(field), field)


def _as_text(value: object, field: str) -> str | None:
    if value is None or isinstance(value, str):
        return value or None
    raise BadRequest(f"'{field}' must be a string.", param=field)


def _flag(body: Mapping[str, Any], field: str, default: bool) -> bool:
    value = body.get(field)
    if value is None:
        return default
    if not isinstance(value, bool):
        raise BadRequest(f"'{field}' must be true or false.", param=field)
    return value


def _require_protocol(live: LiveSandbox) -> None:
    if live.version.definition.protocol("responses") is None:
        declared = ", ".join(p.protocol for p in live.version.definition.protocols)
        raise BadRequest(
            f"Agent '{live.row.agent}' does not speak the responses protocol; its definition declares {declared}."
        )


def _asked(project: str, caller: Caller, ask: _Ask, session_id: str, response_id: str) -> Asked:
    return Asked(
        project=project,
        user=caller.user,
        agent=ask.agent,
        session=session_id,
        response_id=response_id,
        conversation=ask.conversation,
        previous=ask.previous,
        background=ask.background,
        input_items=input_items_of(ask.body.get("input"), response_id),
    )


def input_items_of(value: object, near: str) -> Sequence[Mapping[str, Any]]:
    """The `input` of a request as stored items with ids; text is one user message."""
    if isinstance(value, str):
        value = [{"role": "user", "content": value}]
    if not isinstance(value, list):
        return ()
    return [stored_item(entry, near) for entry in value if isinstance(entry, dict)]


def stored_item(entry: Mapping[str, Any], near: str) -> dict[str, Any]:
    """An item as it is kept and shown: with id, type and status, its text as content parts."""
    item = {"type": "message", "status": "completed", **entry}
    if not isinstance(entry.get("id"), str) or not entry["id"]:
        item["id"] = new_item_id("msg" if item["type"] == "message" else "itm", near)
    if item["type"] == "message" and isinstance(item.get("content"), str):
        kind = "output_text" if item.get("role") == "assistant" else "input_text"
        item["content"] = [{"type": kind, "text": item["content"]}]
    return item


def _is_error(body: Mapping[str, Any]) -> bool:
    """The oldest adapters answer 200 with a bare error (container-contract.md §3.2, Errors)."""
    return "output" not in body and "code" in body and "message" in body


def _defaults(ask: _Ask, asked: Asked, now: float) -> dict[str, Any]:
    """What strict OpenAI clients expect and a handler may leave out."""
    return {
        "id": asked.response_id,
        "object": "response",
        "created_at": int(now),
        "status": "completed",
        "error": None,
        "incomplete_details": None,
        "instructions": None,
        "metadata": ask.body.get("metadata") or {},
        "model": ask.body.get("model") or asked.agent,
        "output": [],
        "parallel_tool_calls": False,
        "temperature": None,
        "top_p": None,
        "tool_choice": "auto",
        "tools": [],
        "background": asked.background,
        "previous_response_id": asked.previous,
        "conversation": None if asked.conversation is None else {"id": asked.conversation},
        "agent_reference": {"type": "agent_reference", "name": asked.agent},
    }
