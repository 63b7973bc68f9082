"""The official invocations adapter with every handler it has, or with none (`BARE`)."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator
from pathlib import Path

from azure.ai.agentserver.invocations import InvocationAgentServerHost
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.websockets import WebSocket

SPECIFICATION = {"openapi": "3.1.0", "info": {"title": "wire", "version": "1"}, "paths": {}}
EVENTS = {"asyncapi": "3.0.0", "info": {"title": "wire", "version": "1"}}

bare = "BARE" in os.environ
app = (
    InvocationAgentServerHost()
    if bare
    else InvocationAgentServerHost(
        openapi_spec=SPECIFICATION, asyncapi_spec_json=EVENTS, asyncapi_spec_yaml="asyncapi: 3.0.0\n"
    )
)


def state_of(invocation: str) -> Path:
    return Path.home() / invocation


async def invoke(request: Request) -> Response:
    body = await request.body()
    if request.query_params.get("mode") == "later":
        state_of(request.state.invocation_id).write_text("running")
        return JSONResponse({"status": "running"}, 202, {"Retry-After": "2"})
    if request.query_params.get("mode") == "stream":
        return StreamingResponse(pieces(), media_type="text/event-stream")
    if request.query_params.get("mode") == "fail":
        raise RuntimeError("as told")
    told = {"x-told-invocation": request.state.invocation_id, "x-told-session": request.state.session_id}
    return Response(body, media_type=request.headers["content-type"], headers=told)


async def pieces() -> AsyncIterator[str]:
    for number in range(3):
        yield f"data: {number}\n\n"
        await asyncio.sleep(0.01)


async def status(request: Request) -> Response:
    state = state_of(request.state.invocation_id)
    if not state.exists():
        return JSONResponse({"error": {"code": "not_found", "message": "never heard of it"}}, 404)
    found = state.read_text()
    state.write_text("completed")
    if found == "running":
        return JSONResponse({"status": "running"}, 202, {"Retry-After": "1"})
    return JSONResponse({"status": found, "pid": os.getpid()})


async def cancel(request: Request) -> Response:
    state_of(request.state.invocation_id).write_text("failed")
    return JSONResponse({"status": "failed", "error": {"code": "cancelled", "message": "as asked"}})


async def talk(socket: WebSocket) -> None:
    while (message := await socket.receive())["type"] != "websocket.disconnect":
        text = message.get("text")
        if text == "fail":
            raise RuntimeError("as told")
        if text == "leave":
            return
        if text == "who":
            seen = {"query": dict(socket.query_params), "headers": dict(socket.headers)}
            await socket.send_text(json.dumps({**seen, "session": os.environ["FOUNDRY_AGENT_SESSION_ID"]}))
        elif text is not None:
            await socket.send_text(text)
        else:
            await socket.send_bytes(message["bytes"])
    (Path.home() / "left").write_text(str(message["code"]))


if not bare:
    app.invoke_handler(invoke)
    app.get_invocation_handler(status)
    app.cancel_invocation_handler(cancel)
    app.ws_handler(talk)

if __name__ == "__main__":
    app.run()
