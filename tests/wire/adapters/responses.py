"""An agent on `azure-ai-agentserver-responses`: it tells what it heard, now and earlier."""

from __future__ import annotations

import inspect
from typing import Any

from azure.ai.agentserver.responses import ResponsesAgentServerHost, TextResponse

app = ResponsesAgentServerHost()


@app.response_handler
async def answer(request: Any, context: Any, cancelled: Any) -> Any:
    said = text_of(request["input"])
    if said == "fail":
        raise ValueError("as it was asked to")
    earlier = [text_of([item]) for item in await context.get_history() if item.get("role") == "user"]
    reply = f"You said: {said}. Before: {', '.join(earlier) or 'nothing'}."
    # The first release takes the text as a coroutine function, later ones as it is.
    parameters = inspect.signature(TextResponse.__init__).parameters
    if "text" in parameters:
        return TextResponse(context, request, text=reply)

    async def whole() -> str:
        return reply

    return TextResponse(context, request, create_text=whole)


def text_of(value: Any) -> str:
    if isinstance(value, str):
        return value
    contents = [entry.get("content") or "" for entry in value]
    return " ".join(part if isinstance(part, str) else " ".join(p.get("text", "") for p in part) for part in contents)


if __name__ == "__main__":
    app.run()
