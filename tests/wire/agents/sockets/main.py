"""An agent without any adapter that does as it is told, also what no adapter would."""

from __future__ import annotations

import asyncio
import os
from http import HTTPStatus

from websockets.asyncio.server import ServerConnection, serve
from websockets.http11 import Request, Response


def answer(socket: ServerConnection, request: Request) -> Response | None:
    if request.path == "/readiness":
        return socket.respond(HTTPStatus.OK, "ready\n")
    if "refuse=" in request.path:
        return socket.respond(HTTPStatus(int(request.path.partition("refuse=")[2])), "no\n")
    return None


async def talk(socket: ServerConnection) -> None:
    async for message in socket:
        word, _, more = str(message).partition(" ")
        if word == "say":
            await socket.send("x" * int(more))
        elif word == "die":
            os._exit(1)
        elif word == "close":
            code, _, reason = more.partition(" ")
            await socket.close(int(code), reason)


async def main() -> None:
    async with serve(
        talk, "0.0.0.0", int(os.environ.get("PORT", "8088")), process_request=answer, subprotocols=None, max_size=None
    ) as server:
        await server.serve_forever()


asyncio.run(main())
