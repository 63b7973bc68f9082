"""One request over A2A: the caller's end of it, and what the Responses handler says meanwhile."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson
from starlette.requests import Request
from starlette.types import Message, Receive, Scope, Send

from cupola.gateway.a2a_tasks import EventReader, TaskEvents
from cupola.gateway.a2a_wire import A2AError, Code, Transport
from cupola.gateway.headers import Header, find
from cupola.gateway.proxy import KEEP_ALIVE
from cupola.identity import Caller

_ABOUT_BODY = (b"content-", b"accept", b"transfer-encoding")
"""Beginnings of headers that speak of the caller's own body and of the reply to it."""


@dataclass(frozen=True, slots=True)
class Exchange:
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


class Relay:
    """Takes what the Responses handler sends: gathers a reply in one piece, translates a stream as it comes."""

    def __init__(
        self,
        exchange: Exchange | None = None,
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
