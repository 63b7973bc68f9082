"""Deploys an image with a warm pool and begins sessions with ids of its own, as a user of the SDK does.

Arguments: the agent's name, the image, and where to look how many sandboxes wait.
"""

from __future__ import annotations

import asyncio
import json
from typing import Any

from azure.ai.projects import models
from azure.core.rest import HttpRequest
from sdk import Sdk, call, main  # type: ignore[import-not-found]  # lies beside the script


async def warm(sdk: Sdk, arguments: list[str]) -> dict[str, Any]:
    name, image, pools = arguments
    definition = models.HostedAgentDefinition(
        container_configuration=models.ContainerConfiguration(image=image),
        protocol_versions=[models.ProtocolVersionRecord(protocol="responses", version="2.0.0")],
        cpu="1",
        memory="2Gi",
    )
    made = await call(
        sdk.agents.create_version(agent_name=name, definition=definition, metadata={"warm_pool": "3", "team": "x"})
    )
    version = await sdk.settled(made)
    pool: dict[str, Any] = {"ready": 0}
    while pool["ready"] < 4:  # three that take any session, and the one that was probed
        await asyncio.sleep(0.2)
        answer = await call(sdk.project.send_request(HttpRequest("GET", pools)))
        pool = answer.json()["data"][0]
    client, _ = await sdk.openai(name)
    told = {}
    for session in ("first-of-mine", "second-of-mine"):
        response = await call(client.responses.create(input="hi", extra_body={"agent_session_id": session}))
        told[session] = {"echoed": response.model_extra["agent_session_id"], **json.loads(response.output_text)}
    session = await call(sdk.agents.create_session(agent_name=name, body={"agent_session_id": "third-of-mine"}))
    conversation = await call(client.conversations.create())
    turns = [await call(client.responses.create(input=word, conversation=conversation.id)) for word in ("one", "two")]
    return {
        "metadata": dict(version["metadata"]),
        "pool": pool,
        "told": told,
        "created": session["status"],
        "turns": [json.loads(turn.output_text) for turn in turns],
        "bound": [turn.model_extra["agent_session_id"] for turn in turns],
    }


if __name__ == "__main__":
    main(warm)
