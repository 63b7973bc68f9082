"""An agent of Microsoft Agent Framework with a tool, on the framework's own Foundry host.

With `MODEL_NAME` set it asks that model, at `OPENAI_BASE_URL` (default: OpenAI) with `OPENAI_API_KEY`. Without, a
stand-in answers: it understands nothing, but calls the tool and repeats the conversation as a model would, so that
everything around the model can be tried.
"""

from __future__ import annotations

import os
import re
from collections.abc import AsyncIterator, Awaitable, Mapping, Sequence
from typing import Any

from agent_framework import (
    Agent,
    BaseChatClient,
    ChatResponse,
    ChatResponseUpdate,
    Content,
    FunctionInvocationLayer,
    Message,
    ResponseStream,
    tool,
)
from agent_framework.openai import OpenAIChatCompletionClient
from agent_framework_foundry_hosting import ResponsesHostServer


@tool(approval_mode="never_require")
def order_status(number: int) -> str:
    """Looks up where an order is."""
    return f"Order {number} is on its way."


class StandIn(FunctionInvocationLayer, BaseChatClient):
    """Speaks like a model, word by word, without being one."""

    def _inner_get_response(
        self, *, messages: Sequence[Message], stream: bool, options: Mapping[str, Any], **kwargs: Any
    ) -> Awaitable[ChatResponse] | ResponseStream[ChatResponseUpdate, ChatResponse]:
        contents = reply(messages)
        if stream:
            return self._build_response_stream(one_by_one(contents))
        return whole(contents)


async def whole(contents: Sequence[Content]) -> ChatResponse:
    return ChatResponse(messages=[Message("assistant", list(contents))])


async def one_by_one(contents: Sequence[Content]) -> AsyncIterator[ChatResponseUpdate]:
    for content in contents:
        yield ChatResponseUpdate(role="assistant", contents=[content])


def reply(messages: Sequence[Message]) -> list[Content]:
    """A call of the tool where an order is asked for, else words."""
    results = [content.result for content in messages[-1].contents if content.type == "function_result"]
    if results:
        return words(f"I have looked it up: {results[-1]}")
    said = [message.text for message in messages if message.role == "user" and message.text]
    order = re.search(r"order (\d+)", said[-1])
    if order:
        call = f"call_{len(messages)}"
        return [Content.from_function_call(call, "order_status", arguments={"number": int(order[1])})]
    if len(said) == 1:
        return words(f"Hello! You said: {said[-1]} This is where we begin.")
    return words(f"You said: {said[-1]} Before that you said: {' / '.join(said[:-1])}")


def words(text: str) -> list[Content]:
    return [Content.from_text(word) for word in re.findall(r"\S+\s*", text)]


def model() -> BaseChatClient:
    name = os.environ.get("MODEL_NAME")
    return OpenAIChatCompletionClient(model=name) if name else StandIn()


if __name__ == "__main__":
    ResponsesHostServer(Agent(model(), "You help with orders. Answer in one sentence.", tools=[order_status])).run()
