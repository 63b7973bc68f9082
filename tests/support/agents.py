"""What fake agents say: handlers for `FakeDriver` sandboxes that behave like real containers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import orjson

from cupola.drivers.fake import Behaviour, FakeSandbox, Reply, Request

EVENTS = {"content-type": "text/event-stream"}


def response_body(request: Request, text: str, status: str = "completed") -> dict[str, Any]:
    return {
        "id": request.headers["x-agent-response-id"],
        "object": "response",
        "status": status,
        "created_at": 1,
        "output": []
        if status == "in_progress"
        else [
            {
                "id": "msg_" + request.headers["x-agent-response-id"][7:],
                "type": "message",
                "role": "assistant",
                "status": "completed",
                "content": [{"type": "output_text", "text": text, "annotations": []}],
            }
        ],
    }


def event(number: int, kind: str, **fields: Any) -> bytes:
    payload = {"type": kind, "sequence_number": number, **fields}
    return f"event: {kind}\ndata: ".encode() + orjson.dumps(payload) + b"\n\n"


async def echo(sandbox: FakeSandbox, request: Request) -> Reply:
    """Answers `POST /responses` with what it was asked, plain or streamed word by word; echoes invocations."""
    if request.path.startswith("/invocations"):
        return Reply(200, {"content-type": "application/json"}, request.body)
    asked = orjson.loads(request.body)
    text = f"You said: {asked['input']}"
    if asked.get("stream"):
        return Reply(200, EVENTS, _words(request, text, None))
    return Reply(200, {"content-type": "application/json"}, orjson.dumps(response_body(request, text)))


async def _words(request: Request, text: str, gate: asyncio.Event | None) -> AsyncIterator[bytes]:
    yield event(0, "response.created", response=response_body(request, "", "in_progress"))
    for number, word in enumerate(text.split(), start=1):
        yield event(number, "response.output_text.delta", delta=word + " ")
        if gate is not None:
            await gate.wait()
    yield event(99, "response.completed", response=response_body(request, text))


def slow(gate: asyncio.Event) -> Behaviour:
    """Streams the first word, then waits for `gate`."""

    async def answer(sandbox: FakeSandbox, request: Request) -> Reply:
        asked = orjson.loads(request.body)
        return Reply(200, EVENTS, _words(request, f"You said: {asked['input']}", gate))

    return Behaviour(handler=answer)


ECHO = Behaviour(handler=echo)
