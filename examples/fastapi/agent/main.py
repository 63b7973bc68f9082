"""A hosted agent without any adapter: two routes are all that the platform asks of a container.

`GET /readiness` says that traffic may come; `POST /responses` answers in the shape of the OpenAI Responses API,
as one JSON object or as server-sent events.
"""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import time
from collections.abc import AsyncIterator
from typing import Any

import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse

app = FastAPI()


@app.get("/readiness")
def readiness() -> dict[str, str]:
    return {"status": "healthy"}


@app.post("/responses")
async def responses(request: Request) -> Response:
    body = await request.json()
    text = f"FastAPI heard: {last_text(body['input'])}"
    # The platform names the response that it will store; a plain container may also name its own.
    response_id = request.headers.get("x-agent-response-id") or f"caresp_{secrets.token_hex(25)}"
    if body.get("stream"):
        return StreamingResponse(events(response_id, text), media_type="text/event-stream")
    return JSONResponse(response_object(response_id, "completed", [message(text)]))


def last_text(given: str | list[dict[str, Any]]) -> str:
    """The text of a request's input, which is a string or a list of messages."""
    if isinstance(given, str):
        return given
    content = given[-1]["content"]
    return content if isinstance(content, str) else " ".join(part.get("text", "") for part in content)


def message(text: str, item_id: str = "msg_1") -> dict[str, Any]:
    part = {"type": "output_text", "text": text, "annotations": [], "logprobs": []}
    return {"type": "message", "id": item_id, "role": "assistant", "status": "completed", "content": [part]}


def response_object(response_id: str, status: str, output: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "id": response_id,
        "object": "response",
        "created_at": int(time.time()),
        "status": status,
        "model": "none",
        "output": output,
        "parallel_tool_calls": True,
        "tool_choice": "auto",
        "tools": [],
    }


async def events(response_id: str, text: str) -> AsyncIterator[str]:
    """The events of one streamed answer; the OpenAI client puts them together by `type` and the two indexes."""
    number = 0

    def event(kind: str, **fields: Any) -> str:
        nonlocal number
        payload = {"type": kind, "sequence_number": number, **fields}
        number += 1
        return f"event: {kind}\ndata: {json.dumps(payload)}\n\n"

    at: dict[str, Any] = {"item_id": "msg_1", "output_index": 0, "content_index": 0}
    empty: dict[str, Any] = {"type": "output_text", "text": "", "annotations": [], "logprobs": []}
    item = {**message(text), "status": "in_progress", "content": []}
    yield event("response.created", response=response_object(response_id, "in_progress", []))
    yield event("response.output_item.added", output_index=0, item=item)
    yield event("response.content_part.added", **at, part=empty)
    for position, word in enumerate(text.split()):
        yield event("response.output_text.delta", **at, delta=word if position == 0 else f" {word}", logprobs=[])
        await asyncio.sleep(0.03)
    yield event("response.output_text.done", **at, text=text, logprobs=[])
    yield event("response.content_part.done", **at, part={**empty, "text": text})
    yield event("response.output_item.done", output_index=0, item=message(text))
    yield event("response.completed", response=response_object(response_id, "completed", [message(text)]))


if __name__ == "__main__":
    uvicorn.run(app, host="0.0.0.0", port=int(os.environ.get("PORT", "8088")))
