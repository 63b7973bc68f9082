"""A hosted agent on the invocations protocol: its own JSON in, its own JSON or events out.

It counts its calls in `$HOME`, which belongs to the session: the number goes on when the platform has stopped the
idle sandbox and started another one for the same session.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

from azure.ai.agentserver.invocations import InvocationAgentServerHost
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse

app = InvocationAgentServerHost()


@app.invoke_handler
async def invoke(request: Request) -> Response:
    body = await request.json()
    calls = count_call(Path.home() / "calls")
    text = f"Call {calls} of this session said: {body.get('message', '')}"
    if body.get("stream"):
        return StreamingResponse(events(text), media_type="text/event-stream")
    return JSONResponse({"text": text, "calls": calls})


def count_call(counter: Path) -> int:
    calls = int(counter.read_text()) + 1 if counter.exists() else 1
    counter.write_text(str(calls))
    return calls


async def events(text: str) -> AsyncIterator[str]:
    for word in text.split():
        yield f"data: {json.dumps({'word': word})}\n\n"
        await asyncio.sleep(0.03)
    yield "data: [DONE]\n\n"


if __name__ == "__main__":
    app.run()
