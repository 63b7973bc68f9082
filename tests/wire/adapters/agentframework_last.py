"""An agent on the last `azure-ai-agentserver-agentframework`: it tells what it heard, now and earlier."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from agent_framework import BaseChatClient, ChatResponse, ChatResponseUpdate, Content, Message
from azure.ai.agentserver.agentframework import from_agent_framework


class Telling(BaseChatClient):
    def _inner_get_response(self, *, messages: Any, stream: bool, options: Any, **kwargs: Any) -> Any:
        async def pieces() -> AsyncIterator[ChatResponseUpdate]:
            for word in reply_to(messages).split(" "):
                yield ChatResponseUpdate(role="assistant", contents=[Content.from_text(f"{word} ")])

        async def whole() -> ChatResponse:
            return ChatResponse(messages=[Message(role="assistant", text=reply_to(messages))])

        return self._build_response_stream(pieces()) if stream else whole()


def reply_to(messages: Any) -> str:
    heard = [message.text for message in messages if str(message.role) == "user"]
    if heard[-1] == "fail":
        raise ValueError("as it was asked to")
    return f"You said: {heard[-1]}. Before: {', '.join(heard[:-1]) or 'nothing'}."


if __name__ == "__main__":
    agent = Telling().as_agent(name="telling", instructions="Tell.")
    from_agent_framework(agent).run()
