"""An agent on the official adapter that does what its input says: `count 5`, `fail`, or an answer."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from azure.ai.agentserver.responses import (
    CreateResponse,
    ResponseContext,
    ResponsesAgentServerHost,
    TextResponse,
)

app = ResponsesAgentServerHost()


@app.response_handler  # type: ignore[untyped-decorator]  # the adapter is not installed here
async def answer(request: CreateResponse, context: ResponseContext, cancelled: asyncio.Event) -> TextResponse:
    said = await context.get_input_text()
    earlier = len(await context.get_history())
    return TextResponse(context, request, text=words(said, earlier, cancelled))


async def words(said: str, earlier: int, cancelled: asyncio.Event) -> AsyncIterator[str]:
    """`count n` says n numbers, twenty a second, until it is cancelled."""
    command, _, number = said.partition(" ")
    if command == "fail":
        raise RuntimeError("told to")
    if command != "count":
        yield f"You said: {said} (after {earlier} items)"
        return
    for n in range(int(number)):
        if cancelled.is_set():
            return
        yield f"{n} "
        await asyncio.sleep(0.05)


if __name__ == "__main__":
    app.run()
