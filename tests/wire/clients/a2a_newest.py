"""Talks A2A to an agent with the official SDK of today, as Microsoft's guide does, and prints what it saw.

Runs in a client's environment, where nothing of Cupola is installed. Beside it `a2a_0_3.py` does the same with the
SDK 0.3; both print the same.
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
from a2a.client import A2ACardResolver, ClientConfig, create_client
from a2a.types.a2a_pb2 import (
    CancelTaskRequest,
    GetTaskRequest,
    Message,
    Part,
    Role,
    SendMessageConfiguration,
    SendMessageRequest,
    TaskState,
)
from a2a.utils.errors import JSON_RPC_ERROR_CODE_MAP, A2AError
from google.protobuf.struct_pb2 import Struct, Value

LONG = " ".join(["word"] * 400)


def said(text: str, **fields: Any) -> Message:
    return Message(role=Role.ROLE_USER, message_id=str(uuid4()), parts=[Part(text=text)], **fields)


def state_of(task: Any) -> str:
    name: str = TaskState.Name(task.status.state)
    return name.removeprefix("TASK_STATE_").lower()


def text_of(task: Any) -> str:
    return "".join(part.text for made in task.artifacts for part in made.parts)


async def refusal(attempt: Awaitable[Any]) -> int | str | None:
    """The number of the protocol's error."""
    try:
        await attempt
    except A2AError as error:
        number: int | None = JSON_RPC_ERROR_CODE_MAP.get(type(error))
        return repr(error) if number is None else number
    return None


async def talk(base: str, transport: str, token: str, card_path: str) -> dict[str, Any]:
    async with httpx.AsyncClient(headers={"Authorization": f"Bearer {token}"}, timeout=120) as http:
        card = await A2ACardResolver(http, base, card_path).get_agent_card()

        async def client(streaming: bool) -> Any:
            config = ClientConfig(
                streaming=streaming,
                httpx_client=http,
                supported_protocol_bindings=[transport],
                use_client_preference=True,
                accepted_output_modes=["text"],
            )
            return await create_client(agent=card, client_config=config)

        whole, streaming = await client(False), await client(True)

        async def send(message: Message, **fields: Any) -> Any:
            (sent,) = [event async for event in whole.send_message(SendMessageRequest(message=message, **fields))]
            return sent.task

        first = await send(said("My name is Ada."))
        second = await send(said("What can you do?", context_id=first.context_id))
        kinds, pieces, last = [], [], None
        async for event in streaming.send_message(SendMessageRequest(message=said("Tell me slowly."))):
            kind = event.WhichOneof("payload")
            kinds.append(kind.replace("_", "-"))
            if kind == "task":
                streamed = event.task.id
            elif kind == "artifact_update":
                pieces += [part.text for part in event.artifact_update.artifact.parts]
            else:
                last = event.status_update
        got = await whole.get_task(GetTaskRequest(id=streamed))
        begun = await send(said(LONG), configuration=SendMessageConfiguration(return_immediately=True))
        # Protobuf's JSON of 0.3 has no false: over HTTP+JSON the SDK cannot say that it does not wait.
        cancelled = None if state_of(begun) == "completed" else await whole.cancel_task(CancelTaskRequest(id=begun.id))
        after = await whole.get_task(GetTaskRequest(id=begun.id))
        value = Value(struct_value=Struct(fields={"a": Value(number_value=1)}))
        data = Message(role=Role.ROLE_USER, message_id="m1", parts=[Part(data=value)])

        async def drained(client: Any, message: Message) -> None:
            async for _ in client.send_message(SendMessageRequest(message=message)):
                pass

        return {
            "card": {
                "name": card.name,
                "url": card.supported_interfaces[0].url,
                "version": card.version,
                "streaming": card.capabilities.streaming,
                "skills": [skill.id for skill in card.skills],
            },
            "first": {"state": state_of(first), "text": text_of(first), "context": first.context_id},
            "second": {"state": state_of(second), "text": text_of(second), "context": second.context_id},
            "stream": {"kinds": kinds, "text": "".join(pieces), "state": last and state_of(last)},
            "got": {"state": state_of(got), "text": text_of(got)},
            "begun": state_of(begun),
            "cancelled": cancelled and state_of(cancelled),
            "after": state_of(after),
            "errors": {
                "data": await refusal(drained(whole, data)),
                "data streamed": await refusal(drained(streaming, data)),
                "unknown task": await refusal(whole.get_task(GetTaskRequest(id="nope"))),
                "finished task": await refusal(whole.cancel_task(CancelTaskRequest(id=first.id))),
            },
            "task": first.id,
        }


if __name__ == "__main__":
    print(json.dumps(asyncio.run(talk(sys.argv[1], sys.argv[2], os.environ["A2A_TOKEN"], sys.argv[3]))))
