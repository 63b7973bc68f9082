"""The Responses protocol: the body is read, its session found, and the reply passed on as it comes.

Two base layouts lead here: the agent's own endpoint, and for older SDKs the project's `openai/responses` with an
`agent_reference` (control-plane.md §2.8). Retrieval is answered from the store, also when no sandbox runs;
cancellation and replay need the process that runs the response. Wire: container-contract.md §3.2.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from typing import Any
from urllib.parse import quote

import orjson
from starlette.datastructures import QueryParams
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from cupola.conversations import CONTAINER_ID, FINAL_STATUSES, StoredResponse, cancelled_body, failed_body, for_client
from cupola.errors import BadRequest, CupolaError, NotFound
from cupola.gateway import answer
from cupola.gateway.asking import Ask, input_items_of, read_ask
from cupola.gateway.background import NOT_THERE, Background, Relay, stays
from cupola.gateway.carry import Carrier
from cupola.gateway.dialects import body_for
from cupola.gateway.events import EventTap
from cupola.gateway.headers import Header, isolation_key_of
from cupola.gateway.proxy import Outcome
from cupola.gateway.record import Asked, Recorder
from cupola.gateway.resolve import Resolver
from cupola.gateway.timekeeper import Timekeeper
from cupola.identity import Caller
from cupola.ids import is_response_id, new_response_id
from cupola.sandboxes.live import LiveSandbox
from cupola.sessions import is_session_id
from cupola.store import Store
from cupola.store import conversations as conversation_rows
from cupola.store import responses as rows
from cupola.timings import Stopwatch
from cupola.web.body import read_object
from cupola.web.paging import openai_list, page_from
from cupola.web.reply import json_reply

_OURS = frozenset({b"content-length", b"content-type", b"accept-encoding"})
"""What the platform says anew: it sends JSON, and reads the reply."""

_CANCEL_SECONDS = 40.0
"""Adapters wait up to 10 s for their handler, and then for their storage."""

_NOT_CANCELLED = {
    "completed": "Cannot cancel a completed response.",
    "failed": "Cannot cancel a failed response.",
    "incomplete": "Cannot cancel a response in terminal state.",
}
"""The adapters' own sentences, by status."""


class Responses:
    """Endpoints under `…/openai/responses` and `…/openai/v1/responses`, of a project or of an agent."""

    def __init__(
        self,
        store: Store,
        resolver: Resolver,
        carrier: Carrier,
        recorder: Recorder,
        background: Background,
        timekeeper: Timekeeper,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._store = store
        self._resolver = resolver
        self._carrier = carrier
        self._recorder = recorder
        self._background = background
        self._timekeeper = timekeeper
        self._clock = clock

    async def create(self, scope: Scope, receive: Receive, send: Send) -> None:
        """`POST responses`."""
        project, caller = scope["path_params"]["project"], scope["cupola.caller"]
        ask = read_ask(await read_object(Request(scope, receive)), scope["path_params"].get("agent"))
        watch: Stopwatch = scope["cupola.stopwatch"]
        watch.asks(project, ask.agent, "responses")
        watch.detached = ask.background
        if ask.session_id is not None and is_session_id(ask.session_id):
            scope["cupola.session_id"] = ask.session_id
        await self._check_context(project, caller, ask)

        async def find(session_id: str | None = ask.session_id) -> LiveSandbox:
            return await self._resolver.sandbox(
                project,
                ask.agent,
                caller,
                session_id=session_id,
                conversation=ask.conversation,
                version=ask.version,
            )

        live = await find()
        scope["cupola.session_id"] = live.row.session_id
        _require_protocol(live, scope["headers"])
        asked = _asked(project, caller, ask, live.row.session_id, self._clock())
        watch.subject = asked.row.id
        exchange = _Exchange(ask, asked, live, self._recorder, self._carrier, self._clock)
        headers = self._headers(scope, live, caller)
        headers += [(b"content-type", b"application/json"), (b"x-agent-response-id", asked.row.id.encode())]

        async def again() -> LiveSandbox:
            exchange.live = await find(live.row.session_id)
            return exchange.live

        async def carry(receive: Receive, send: Send) -> Outcome:
            return await self._carrier.carry(
                live,
                again,
                method="POST",
                target=b"/responses",
                headers=headers,
                body=orjson.dumps(body_for(ask.body, live, asked.row.id)),
                scope=scope,
                receive=receive,
                send=send,
                reply_headers=[],
                on_chunk=exchange.tap,
                on_whole=exchange.whole,
                on_lost=exchange.lost,
                on_end=exchange.ended,
            )

        if ask.background:
            relay = Relay(send)
            await self._background.run(self._detached(carry(stays, relay), exchange), receive, relay)
        else:
            await exchange.left(await carry(receive, send))

    async def _detached(self, carrying: Awaitable[Outcome], exchange: _Exchange) -> None:
        """A background response: its caller may leave; what has no last word yet when this ends is followed."""
        first, response_id = exchange.live, exchange.asked.row.id
        first.background.add(response_id)
        try:
            await carrying
        finally:
            first.background.discard(response_id)
            if (going_on := exchange.going_on) is not None:
                self._background.follow(exchange.live, going_on)

    async def _check_context(self, project: str, caller: Caller, ask: Ask) -> None:
        """What the request continues must exist and be the caller's own."""
        if ask.previous is not None:
            wanted = ask.previous
            found = await self._store.read(lambda conn: rows.get_response(conn, project, wanted))
            if found is None and not is_response_id(wanted):
                raise BadRequest("Malformed identifier.", code="invalid_parameters", param="previous_response_id")
            _require_own(found, wanted, caller, "previous_response_id")
        if ask.conversation is not None:
            named = ask.conversation
            talk = await self._store.read(lambda conn: conversation_rows.get_conversation(conn, project, named))
            if talk is None or talk.user != caller.user:
                raise NotFound(
                    f"Conversation '{named[:80]}' does not exist. Create it first with conversations.create().",
                    param="conversation",
                )

    async def _addressed(self, scope: Scope) -> StoredResponse:
        """The response in the path, if it is the caller's and of the agent in the path."""
        project, wanted = scope["path_params"]["project"], scope["path_params"]["response"]
        found = await self._store.read(lambda conn: rows.get_response(conn, project, wanted))
        found = _require_own(found, wanted, scope["cupola.caller"], "response_id", scope["path_params"].get("agent"))
        scope["cupola.session_id"] = found.session
        return found

    async def retrieve(self, scope: Scope, receive: Receive, send: Send) -> None:
        """`GET responses/{id}`: from the store; with `stream=true` replayed by the process that ran it."""
        found = await self._addressed(scope)
        query = QueryParams(scope["query_string"])
        if query.get("stream", "false").lower() == "true":
            await self._replay(scope, receive, send, found, query.get("starting_after"))
            return
        watch: Stopwatch = scope["cupola.stopwatch"]
        watch.detached = found.background
        await self._timekeeper.recall(watch, found.project, found.id)
        await json_reply(answer.shown(found))(scope, receive, send)

    async def _replay(
        self, scope: Scope, receive: Receive, send: Send, found: StoredResponse, starting_after: str | None
    ) -> None:
        if not found.background:
            raise BadRequest(
                "This response cannot be streamed because it was not created with background=true.",
                code="invalid_request_error",
                param="stream",
            )
        if starting_after is not None and not starting_after.lstrip("-").isdecimal():
            raise BadRequest(
                "'starting_after' must be an integer: the sequence_number of the last event that was received.",
                code="invalid_request_error",
                param="starting_after",
            )
        live = self._live(found)
        if live is None:
            raise BadRequest(
                f"Response '{found.id}' cannot be replayed: the sandbox that ran it has ended, and only that one had "
                f"its events. It is {found.status}; retrieve it without 'stream'.",
                code="invalid_request_error",
                param="stream",
            )

        async def gone() -> LiveSandbox:
            raise BadRequest(
                f"The sandbox that ran response '{found.id}' has ended; retrieve it without 'stream'.",
                code="invalid_request_error",
                param="stream",
            )

        query = scope["query_string"].decode("latin-1")
        await self._carrier.carry(
            live,
            gone,
            method="GET",
            target=f"{_target(found)}?{query}".encode("latin-1"),
            headers=self._headers(scope, live, scope["cupola.caller"]),
            body=b"",
            scope=scope,
            receive=receive,
            send=send,
            reply_headers=[],
            on_whole=_no_events,
            on_chunk=(tap := EventTap(_replayed(found, self._clock))),
            on_end=tap.finish_or_none,
        )

    async def cancel(self, scope: Scope, receive: Receive, send: Send) -> None:
        """`POST responses/{id}/cancel`: background responses only; the process that runs it decides."""
        found = await self._addressed(scope)
        await (await self._cancelled(found))(scope, receive, send)

    async def _cancelled(self, found: StoredResponse) -> Response:
        if not found.background:
            raise _not_to_cancel("Cannot cancel a synchronous response.")
        if found.status == "cancelled":
            return json_reply(answer.shown(found))
        if found.is_final:
            raise _not_to_cancel(_NOT_CANCELLED[found.status])
        live = self._live(found)
        if live is None:
            await self._recorder.fail(found, "The agent's sandbox ended while this response was running.")
            raise _not_to_cancel(_NOT_CANCELLED["failed"])
        live.opened(self._clock())
        try:
            status, raw = await self._carrier.ask(
                live, found.user, "POST", f"{_target(found)}/cancel".encode(), _CANCEL_SECONDS
            )
        finally:
            live.closed(self._clock())
        if status in NOT_THERE:
            raise _not_to_cancel(
                f"The agent's container cannot cancel responses: it answers {status}. "
                "Stop the session to end everything that runs in it."
            )
        return await self._cancel_answered(found, status, raw)

    async def _cancel_answered(self, found: StoredResponse, status: int, raw: bytes) -> Response:
        """The container's answer; what it says of the response is kept."""
        body = _object(raw)
        if body is None:
            return Response(raw, status, media_type="application/json")
        if status != 200 or ("error" in body and "output" not in body):
            return json_reply(body, status)
        start = {**answer.defaults({}, found), **found.body}
        ended = answer.filled(start, found, body, found.status, self._clock())
        if ended["status"] in FINAL_STATUSES:
            await self._recorder.end(found, ended)
        return json_reply(for_client(ended))

    def _live(self, found: StoredResponse) -> LiveSandbox | None:
        return None if found.session is None else self._carrier.live((found.project, found.agent, found.session))

    def _headers(self, scope: Scope, live: LiveSandbox, caller: Caller) -> list[Header]:
        sent = self._carrier.headers(scope, live, caller, "responses")
        return [header for header in sent if header[0] not in _OURS]

    async def delete(self, request: Request) -> Response:
        """`DELETE responses/{id}`."""
        found = await self._addressed(request.scope)
        if not found.is_final:
            raise BadRequest(
                "Cannot delete an in-flight response. Cancel it, or wait for its end.",
                code="invalid_request_error",
                param="response_id",
            )
        await self._store.write(lambda conn: rows.delete_response(conn, found.project, found.id))
        return json_reply({"id": found.id, "object": "response", "deleted": True})

    async def input_items(self, request: Request) -> Response:
        """`GET responses/{id}/input_items`."""
        found = await self._addressed(request.scope)
        page = page_from(request.query_params)
        items = await self._store.read(
            lambda conn: rows.get_items(conn, found.project, found.input_item_ids, found.user)
        )
        return json_reply(openai_list([for_client(item) for item in items if item is not None], page))


class _Exchange:
    """One request and what comes back: shows and keeps the response as it begins, ends, or breaks off."""

    def __init__(
        self,
        ask: Ask,
        asked: Asked,
        live: LiveSandbox,
        recorder: Recorder,
        carrier: Carrier,
        clock: Callable[[], float],
    ) -> None:
        self.asked = asked
        self.live = live
        self.tap = EventTap(self._event)
        self._ask = ask
        self._recorder = recorder
        self._carrier = carrier
        self._clock = clock
        self._start = answer.defaults(ask.body, asked.row)
        self._start["store"] = ask.store
        self._begun = False
        self._not_kept: CupolaError | None = None
        self._last: Mapping[str, Any] | None = None

    @property
    def going_on(self) -> StoredResponse | None:
        """The response as it is kept, if it has begun and not ended."""
        if self._last is None or self._last.get("status") in FINAL_STATUSES:
            return None
        return replace(self.asked.row, body=self._last)

    async def whole(self, status: int, raw: bytes) -> bytes:
        """A reply in one piece: its missing OpenAI fields are filled in, and it is kept."""
        body = _object(raw) if status == 200 else None
        if body is None:
            return raw
        if answer.is_bare_error(body):
            body = answer.failed_with(body)
        filled = self._filled(body, "completed")
        await self._recorder.keep(self.asked, filled)
        if CONTAINER_ID not in filled and b"internal_metadata" not in raw:
            return orjson.dumps(filled)  # as nearly always: nothing to hide
        return orjson.dumps(for_client(filled))

    async def _event(self, kind: str, body: Mapping[str, Any]) -> Mapping[str, Any]:
        """A response in an event: the same, kept at its beginning and at its end."""
        ends = kind in FINAL_STATUSES
        filled = self._filled(body, kind if ends else "in_progress")
        if ends or not self._begun:
            self._begun = True
            await self._keep(filled)
        return for_client(filled)

    async def _keep(self, body: Mapping[str, Any]) -> None:
        try:
            await self._recorder.keep(self.asked, body)
        except CupolaError as error:
            self._not_kept = error
            raise

    async def lost(self) -> bytes | None:
        """The last event of a stream whose sandbox died, kept: the caller learns it as the protocol says it.

        Of what cannot be kept the caller gets no response, but the reason: it would not be there afterwards.
        """
        self.tap.drop()
        if self._not_kept is not None:
            return _error_event(self._not_kept, self.tap.next_number)
        if self.tap.ended or (self._ask.background and await self._carrier.still_runs(self.live)):
            return None
        ending = self.live.ending
        return await self._failed(ending.message if ending else "The agent's sandbox ended while it was answering.")

    async def ended(self) -> bytes | None:
        """The same for a stream that has ended without its last word, unless its response goes on in the background."""
        rest = await self.tap.finish()
        if self._last is None or self.tap.ended or self._ask.background:
            return rest or None
        return rest + await self._failed("The agent's answer broke off: its stream ended without a last event.")

    async def left(self, outcome: Outcome) -> None:
        """Ends, in the store, a foreground stream that nobody listens to any more."""
        if self.going_on is None:
            return
        if outcome is Outcome.CALLER_LEFT:
            await self._recorder.keep(self.asked, cancelled_body(self.going_on.body))
        elif outcome is Outcome.CUT:
            reason = "The stream was cut: the container was silent for longer than the setting 'stream_idle_cut' bears."
            await self._recorder.keep(self.asked, failed_body(self.going_on.body, reason, self._clock()))

    async def _failed(self, reason: str) -> bytes:
        begun = self._last or self._filled({}, "in_progress")
        self._last = failed_body(begun, reason, self._clock())
        await self._recorder.keep(self.asked, self._last)
        payload = {
            "type": "response.failed",
            "sequence_number": self.tap.next_number,
            "response": for_client(self._last),
        }
        return b"event: response.failed\ndata: " + orjson.dumps(payload) + b"\n\n"

    def _filled(self, body: Mapping[str, Any], status: str) -> dict[str, Any]:
        self._last = made = answer.filled(self._start, self.asked.row, body, status, self._clock())
        return made


def _error_event(error: CupolaError, number: int) -> bytes:
    """`ResponseErrorEvent` of the Responses protocol."""
    payload = {
        "type": "error",
        "sequence_number": number,
        "code": error.code,
        "message": error.message,
        "param": error.param,
    }
    return b"event: error\ndata: " + orjson.dumps(payload) + b"\n\n"


def _asked(project: str, caller: Caller, ask: Ask, session_id: str, now: float) -> Asked:
    response_id = new_response_id(near=ask.previous or ask.conversation)
    row = StoredResponse(
        project=project,
        id=response_id,
        user=caller.user,
        agent=ask.agent,
        session=session_id,
        body={},
        created_at=now,
        conversation=ask.conversation,
        background=ask.background,
    )
    items = input_items_of(ask.body.get("input"), response_id) if ask.store else ()
    return Asked(row, ask.previous, items, ask.store)


def _require_own(
    found: StoredResponse | None, wanted: str, caller: Caller, param: str, agent: str | None = None
) -> StoredResponse:
    """Another caller's response does not exist, nor does one of another agent than the path names."""
    if found is None or found.user != caller.user or (agent is not None and found.agent != agent):
        raise NotFound(f"Response with id '{wanted[:80]}' not found.", param=param)
    return found


def _require_protocol(live: LiveSandbox, headers: list[Header]) -> None:
    """The agent must speak `responses`, and its generation must fit what the caller sends."""
    declared = live.version.definition.protocol("responses")
    if declared is None:
        known = ", ".join(p.protocol for p in live.version.definition.protocols)
        raise BadRequest(
            f"Agent '{live.row.agent}' does not speak the responses protocol; its definition declares {known}."
        )
    legacy = isolation_key_of(headers)
    if legacy is not None and declared.version not in ("1.0.0", "v1"):
        raise BadRequest(
            f"The header {legacy} belongs to protocol 1.0.0, and agent '{live.row.agent}' declares "
            f"{declared.version}: callers are told apart by their tokens. Leave the header out.",
            param=legacy,
        )


def _replayed(
    found: StoredResponse, clock: Callable[[], float]
) -> Callable[[str, Mapping[str, Any]], Awaitable[Mapping[str, Any]]]:
    """How events look that the process repeats: as they did the first time."""
    known = {key: value for key, value in found.body.items() if key not in ("output", "status", "usage", "error")}
    start = {**answer.defaults({}, found), **known, "completed_at": None}

    async def show(kind: str, body: Mapping[str, Any]) -> Mapping[str, Any]:
        status = kind if kind in FINAL_STATUSES else "in_progress"
        return for_client(answer.filled(start, found, body, status, clock()))

    return show


async def _no_events(status: int, raw: bytes) -> bytes:
    """What a container answers instead of a replay: a plain one has none, whatever it says."""
    if status in NOT_THERE or status == 200:
        raise BadRequest(
            "The agent's container does not repeat streams; retrieve the response without 'stream'.",
            code="invalid_request_error",
            param="stream",
        )
    return raw


def _not_to_cancel(message: str) -> BadRequest:
    return BadRequest(message, code="invalid_request_error", param="response_id")


def _target(found: StoredResponse) -> str:
    return f"/responses/{quote(answer.container_id(found), safe='')}"


def _object(raw: bytes) -> dict[str, Any] | None:
    try:
        body = orjson.loads(raw)
    except orjson.JSONDecodeError:
        return None
    return body if isinstance(body, dict) else None
