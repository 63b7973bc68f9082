"""A LangGraph agent with a tool, on LangChain's own Foundry host; its checkpoints are kept by the platform.

With `MODEL_NAME` set it asks that model, at `OPENAI_BASE_URL` (default: OpenAI) with `OPENAI_API_KEY`. Without, a
stand-in answers: it understands nothing, but calls the tool and repeats the conversation as a model would, so that
everything around the model can be tried.
"""

from __future__ import annotations

import os
import re
from collections.abc import AsyncIterator, Sequence
from typing import Any

from langchain.agents import create_agent
from langchain_azure_ai.agents.hosting import FoundryCheckpointSaver, ResponsesHostServer
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage, ToolMessage
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI


@tool
def order_status(number: int) -> str:
    """Looks up where an order is."""
    return f"Order {number} is on its way."


class StandIn(BaseChatModel):
    """Speaks like a model, word by word, without being one."""

    @property
    def _llm_type(self) -> str:
        return "stand-in"

    def bind_tools(self, tools: Any, **kwargs: Any) -> StandIn:
        return self

    def _generate(self, messages: list[BaseMessage], *args: Any, **kwargs: Any) -> ChatResult:
        return ChatResult(generations=[ChatGeneration(message=reply(messages))])

    async def _astream(
        self, messages: list[BaseMessage], *args: Any, **kwargs: Any
    ) -> AsyncIterator[ChatGenerationChunk]:
        said = reply(messages)
        if said.tool_calls:
            yield ChatGenerationChunk(message=AIMessageChunk(content="", tool_calls=said.tool_calls))
        for word in re.findall(r"\S+\s*", said.text):
            yield ChatGenerationChunk(message=AIMessageChunk(content=word))


def reply(messages: Sequence[BaseMessage]) -> AIMessage:
    """A call of the tool where an order is asked for, else words."""
    if isinstance(messages[-1], ToolMessage):
        return AIMessage(f"I have looked it up: {messages[-1].text}")
    said = [message.text for message in messages if message.type == "human"]
    order = re.search(r"order (\d+)", said[-1])
    if order:
        call = {"name": "order_status", "args": {"number": int(order[1])}, "id": f"call_{len(messages)}"}
        return AIMessage("", tool_calls=[call])
    if len(said) == 1:
        return AIMessage(f"Hello! You said: {said[-1]} This is where we begin.")
    return AIMessage(f"You said: {said[-1]} Before that you said: {' / '.join(said[:-1])}")


def model() -> BaseChatModel:
    name = os.environ.get("MODEL_NAME")
    return ChatOpenAI(model=name) if name else StandIn()


if __name__ == "__main__":
    graph = create_agent(
        model(),
        [order_status],
        system_prompt="You help with orders. Answer in one sentence.",
        checkpointer=FoundryCheckpointSaver(),
    )
    ResponsesHostServer(graph).run()
