"""An agent on the first `azure-ai-agentserver-agentframework`: it tells what it heard."""

from __future__ import annotations

from collections.abc import AsyncIterable
from typing import Any

from agent_framework import BaseChatClient, ChatMessage, ChatResponse, ChatResponseUpdate, TextContent
from azure.ai.agentserver.agentframework import from_agent_framework


class Telling(BaseChatClient):
    async def _inner_get_response(self, *, messages: Any, chat_options: Any, **kwargs: Any) -> ChatResponse:
        return ChatResponse(messages=[ChatMessage(role="assistant", text=reply_to(messages))])

    async def _inner_get_streaming_response(
        self, *, messages: Any, chat_options: Any, **kwargs: Any
    ) -> AsyncIterable[ChatResponseUpdate]:
        for word in reply_to(messages).split(" "):
            yield ChatResponseUpdate(role="assistant", contents=[TextContent(text=f"{word} ")])


def reply_to(messages: Any) -> str:
    heard = [message.text for message in messages if str(getattr(message.role, "value", message.role)) == "user"]
    if heard[-1] == "fail":
        raise ValueError("as it was asked to")
    return f"You said: {heard[-1]}. Before: {', '.join(heard[:-1]) or 'nothing'}."


if __name__ == "__main__":
    from_agent_framework(Telling().create_agent(name="telling", instructions="Tell.")).run()
