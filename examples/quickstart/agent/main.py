"""A hosted agent that needs no model: it streams word by word and remembers the conversation.

The same file runs as a container image (see `Dockerfile`) and as a code deployment. History comes from the
platform's storage, through the adapter; the agent itself keeps nothing between two requests.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Sequence
from typing import Any

from azure.ai.agentserver.responses import (
    CreateResponse,
    ResponseContext,
    ResponsesAgentServerHost,
    TextResponse,
)

WORD_DELAY = float(os.environ.get("WORD_DELAY", "0.03"))
"""Seconds between two words, so that the eye sees the stream."""

app = ResponsesAgentServerHost()


@app.response_handler
async def answer(request: CreateResponse, context: ResponseContext, cancelled: asyncio.Event) -> TextResponse:
    said = await context.get_input_text()
    earlier = user_messages(await context.get_history())
    return TextResponse(context, request, text=word_by_word(reply_to(said, earlier), cancelled))


def reply_to(said: str, earlier: Sequence[str]) -> str:
    """What the agent says, from this message and the user's earlier ones, oldest first."""
    if not earlier:
        return f"Hello! You said: {said} I remember 0 earlier turns, so this is where we begin."
    turns = "1 earlier turn" if len(earlier) == 1 else f"{len(earlier)} earlier turns"
    return f"You said: {said} I remember {turns}; the last time you said: {earlier[-1]}"


async def word_by_word(text: str, cancelled: asyncio.Event) -> AsyncIterator[str]:
    for number, word in enumerate(text.split()):
        if cancelled.is_set():
            return
        yield word if number == 0 else f" {word}"
        await asyncio.sleep(WORD_DELAY)


def user_messages(items: Sequence[Any]) -> list[str]:
    """The texts that the user wrote, among all items of a conversation (also tool calls, answers, ...)."""
    return [
        " ".join(part["text"] for part in item["content"] if part.get("type") == "input_text")
        for item in items
        if item.get("type") == "message" and item.get("role") == "user"
    ]


if __name__ == "__main__":
    app.run()
