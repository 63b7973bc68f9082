"""Deploys an image under a declared protocol version and talks to it in every way that remembers.

Arguments: the agent's name, the image, the protocol version that the definition declares, and its tools as JSON.
"""

from __future__ import annotations

import json
from typing import Any

from azure.ai.projects import models
from invoke import streamed  # type: ignore[import-not-found]  # lies beside the script
from openai import APIError
from sdk import Sdk, call, collect, main  # type: ignore[import-not-found]  # lies beside the script


async def adapter(sdk: Sdk, arguments: list[str]) -> dict[str, Any]:
    name, image, declared, tools = arguments
    protocol = models.ProtocolVersionRecord(protocol="responses", version=declared)
    definition = models.HostedAgentDefinition(
        container_configuration=models.ContainerConfiguration(image=image),
        protocol_versions=[protocol],
        cpu="1",
        memory="2Gi",
    )
    if json.loads(tools):
        definition["tools"] = json.loads(tools)
    version = await sdk.settled(await call(sdk.agents.create_version(agent_name=name, definition=definition)))
    if version["status"] != "active":
        return {"version": version.as_dict()}
    client, _ = await sdk.openai(name)
    try:
        return {"version": version.as_dict(), **await talk(client)}
    finally:
        await call(sdk.agents.delete(agent_name=name, force=True))


async def talk(client: Any) -> dict[str, Any]:
    create = client.responses.create
    plain = await call(create(input="alpha", metadata={"mine": "kept"}))
    session = {"agent_session_id": plain.model_extra["agent_session_id"]}
    kinds, deltas = await streamed(create(input="beta", stream=True, extra_body=session))
    chained = await call(create(input="gamma", previous_response_id=plain.id, extra_body=session))
    retrieved = await call(client.responses.retrieve(plain.id))

    conversation = await call(client.conversations.create())
    talk_in = {"conversation": conversation.id, "extra_body": session}
    first = await call(create(input="delta", store=True, **talk_in))
    _, second = await streamed(create(input="epsilon", stream=True, **talk_in))
    third = await call(create(input="zeta", **talk_in))
    items = await collect(await call(client.conversations.items.list(conversation.id, order="asc")))
    return {
        "plain": plain.model_dump(),
        "kinds": kinds,
        "streamed": "".join(deltas),
        "chained": chained.output_text,
        "retrieved": retrieved.model_dump(),
        "turns": [first.output_text, "".join(second), third.output_text],
        "said": [[item.role, "".join(part.text for part in item.content)] for item in items],
        "failure": await failure(client, session),
        "streamed_failure": await streamed_failure(client, session),
    }


async def failure(client: Any, session: Any) -> list[Any]:
    """How a failed handler looks: the class and status of an exception, or the response itself."""
    try:
        response = await call(client.with_options(max_retries=0).responses.create(input="fail", extra_body=session))
    except APIError as error:
        return [type(error).__name__, getattr(error, "status_code", None), str(error)]
    return ["Response", response.status, response.model_dump_json()]


async def streamed_failure(client: Any, session: Any) -> list[Any]:
    """The same, streamed: the last event's kind where no exception came."""
    impatient = client.with_options(max_retries=0)
    try:
        kinds, _ = await streamed(impatient.responses.create(input="fail", stream=True, extra_body=session))
    except APIError as error:
        return [type(error).__name__, getattr(error, "status_code", None), str(error)]
    return ["Stream", kinds[-1] if kinds else None, None]


if __name__ == "__main__":
    main(adapter)
