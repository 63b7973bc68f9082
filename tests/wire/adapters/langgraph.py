"""An agent on `azure-ai-agentserver-langgraph`: it tells what it heard, now and earlier."""

from __future__ import annotations

from typing import Any

from azure.ai.agentserver.langgraph import from_langgraph
from langchain_core.language_models import GenericFakeChatModel
from langchain_core.messages import AIMessage, HumanMessage
from langgraph.graph import END, START, MessagesState, StateGraph


async def answer(state: MessagesState) -> dict[str, Any]:
    heard = [text_of(message.content) for message in state["messages"] if isinstance(message, HumanMessage)]
    if heard[-1] == "fail":
        raise ValueError("as it was asked to")
    reply = f"You said: {heard[-1]}. Before: {', '.join(heard[:-1]) or 'nothing'}."
    model = GenericFakeChatModel(messages=iter([AIMessage(reply)]))
    return {"messages": [await model.ainvoke(state["messages"])]}


def text_of(content: Any) -> str:
    return content if isinstance(content, str) else " ".join(part["text"] for part in content)


graph = StateGraph(MessagesState)
graph.add_node("answer", answer)
graph.add_edge(START, "answer")
graph.add_edge("answer", END)

if __name__ == "__main__":
    from_langgraph(graph.compile()).run()
