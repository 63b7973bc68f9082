"""Talks A2A to an agent with the official SDK 0.3, over the transport that it is told, and prints what it saw.

Runs in a client's environment, where nothing of Cupola is installed. Beside it `a2a_newest.py` does the same with
the SDK of today; both print the same.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Awaitable
from typing import Any
from uuid import uuid4

import httpx
from a2a.client import A2ACardResolver, ClientConfig, ClientFactory
from a2a.client.errors import A2AClientHTTPError, A2AClientJSONRPCError
from a2a.types import (
    DataPart,
    Message,
    MessageSendConfiguration,
    Part,
    Role,
    TaskArtifactUpdateEvent,
    TaskIdParams,
    TaskQueryParams,
    TaskStatusUpdateEvent,
    TextPart,
    TransportProtocol,
)

LONG = " ".join(["word"] * 400)


def said(text: str, **fields: Any) -> Message:
    return Message(role=Role.user, message_id=str(uuid4()), parts=[Part(root=TextPart(text=text))], **fields)


def text_of(task: Any) -> str:
    return "".join(part.root.text for made in task.artifacts or [] for part in made.parts)


async def refusal(attempt: Awaitable[Any]) -> int | None:
    """The number of the protocol's error, or the status of HTTP where the transport has no number."""
    try:
        await attempt
    except A2AClientJSONRPCError as error:
        code: int = error.error.code
        return code
    except A2AClientHTTPError as error:
        return int(error.status_code)
    return None


async def talk(base: str, transport: str, token: str) -> dict[str, Any]:
    async with httpx.AsyncClient(headers={"Authorization": f"Bearer {token}"}, timeout=120) as http:
        card = await A2ACardResolver(http, base, "agentCard/v0.3").get_agent_card()
        supported = [TransportProtocol(transport)]

        def client(streaming: bool) -> Any:
            config = ClientConfig(
                streaming=streaming,
                httpx_client=http,
                supported_transports=supported,
                use_client_preference=True,
                accepted_output_modes=["text"],
            )
            return ClientFactory(config).create(card)

        whole, streaming = client(False), client(True)

        async def send(text: str, **fields: Any) -> Any:
            (sent,) = [task async for task, _ in whole.send_message(said(text, **fields))]
            return sent

        first = await send("My name is Ada.")
        second = await send("What can you do?", context_id=first.context_id)
        kinds, pieces, last = [], [], None
        async for task, update in streaming.send_message(said("Tell me slowly.")):
            kinds.append("task" if update is None else update.kind)
            if isinstance(update, TaskArtifactUpdateEvent):
                pieces += [part.root.text for part in update.artifact.parts]
            if isinstance(update, TaskStatusUpdateEvent):
                last = update
            streamed = task
        got = await whole.get_task(TaskQueryParams(id=streamed.id))
        unblocked = MessageSendConfiguration(blocking=False)
        (begun,) = [task async for task, _ in whole.send_message(said(LONG), configuration=unblocked)]
        # Protobuf's JSON has no false: over HTTP+JSON the SDK cannot say that it does not wait.
        cancelled = None if begun.status.state == "completed" else await whole.cancel_task(TaskIdParams(id=begun.id))
        after = await whole.get_task(TaskQueryParams(id=begun.id))
        data = Message(role=Role.user, message_id="m1", parts=[Part(root=DataPart(data={"a": 1}))])

        async def drained(client: Any, message: Message) -> None:
            async for _ in client.send_message(message):
                pass

        return {
            "card": {
                "name": card.name,
                "url": card.url,
                "version": card.version,
                "streaming": card.capabilities.streaming,
                "skills": [skill.id for skill in card.skills],
            },
            "first": {"state": first.status.state, "text": text_of(first), "context": first.context_id},
            "second": {"state": second.status.state, "text": text_of(second), "context": second.context_id},
            "stream": {"kinds": kinds, "text": "".join(pieces), "state": last and last.status.state},
            "got": {"state": got.status.state, "text": text_of(got)},
            "begun": begun.status.state,
            "cancelled": cancelled and cancelled.status.state,
            "after": after.status.state,
            "errors": {
                "data": await refusal(drained(whole, data)),
                "data streamed": await refusal(drained(streaming, data)),
                "unknown task": await refusal(whole.get_task(TaskQueryParams(id="nope"))),
                "finished task": await refusal(whole.cancel_task(TaskIdParams(id=first.id))),
            },
            "task": first.id,
        }


if __name__ == "__main__":
    print(json.dumps(asyncio.run(talk(sys.argv[1], sys.argv[2], os.environ["A2A_TOKEN"]))))
