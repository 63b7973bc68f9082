"""Deploys a hosted agent, talks to it, and deletes it: the async client of azure-ai-projects 2.0.0b3.

The sync twin is `deploy_2_0_0b3.py`, which says how to run it; this one also needs `aiohttp`.
"""

from __future__ import annotations

import asyncio
import os
import sys

from azure.ai.projects.aio import AIProjectClient
from azure.ai.projects.models import (
    AgentProtocol,
    AgentVersionDetails,
    ImageBasedHostedAgentDefinition,
    ProtocolVersionRecord,
)
from azure.core.exceptions import HttpResponseError
from azure.identity.aio import DefaultAzureCredential
from openai import APIStatusError, AsyncOpenAI

AGENT_NAME = os.environ.get("AGENT_NAME", "quickstart-b3")
TIMEOUT = 300.0


async def create_version(project: AIProjectClient) -> AgentVersionDetails:
    return await project.agents.create_version(
        agent_name=AGENT_NAME,
        definition=ImageBasedHostedAgentDefinition(
            container_protocol_versions=[ProtocolVersionRecord(protocol=AgentProtocol.RESPONSES, version="v1")],
            cpu="1",
            memory="2Gi",
            image=os.environ["AGENT_IMAGE"],
            environment_variables={
                "AZURE_AI_PROJECT_ENDPOINT": os.environ["AZURE_AI_PROJECT_ENDPOINT"],
                "MODEL_NAME": "gpt-4o-mini",
            },
        ),
    )


async def wait_until_active(project: AIProjectClient, version: AgentVersionDetails) -> AgentVersionDetails:
    """Polls until the platform has seen the agent answer, or says why it did not."""
    async with asyncio.timeout(TIMEOUT):
        while version["status"] == "creating":
            await asyncio.sleep(0.5)
            version = await project.agents.get_version(agent_name=version.name, agent_version=version.version)
    if version["status"] != "active":
        error = version.get("error") or {}
        raise SystemExit(
            f"Version {version.version} is {version['status']}: {error.get('code')}: {error.get('message')}"
        )
    return version


async def talk(client: AsyncOpenAI) -> None:
    """A plain answer, a streamed one, and a second turn that remembers the first."""
    agent = {"agent_reference": {"name": AGENT_NAME, "type": "agent_reference"}}
    plain = await client.responses.create(input="What can you do?", extra_body=agent)
    print("Plain:    ", plain.output_text)

    print("Streamed:  ", end="")
    async with await client.responses.create(input="Tell me slowly.", stream=True, extra_body=agent) as events:
        async for event in events:
            if event.type == "response.output_text.delta":
                print(event.delta, end="", flush=True)
    print()

    conversation = await client.conversations.create()
    first = await client.responses.create(input="My name is Ada.", conversation=conversation.id, extra_body=agent)
    second = await client.responses.create(input="Who am I?", conversation=conversation.id, extra_body=agent)
    print("First:    ", first.output_text)
    print("Second:   ", second.output_text)


async def run(project: AIProjectClient) -> None:
    version = await wait_until_active(project, await create_version(project))
    print(f"Version {version.version} of {version.name} is {version['status']}")
    async for listed in project.agents.list_versions(agent_name=AGENT_NAME):
        print(f"Listed:    {listed.name} {listed.version} {listed['status']}")

    async with project.get_openai_client() as client:
        await talk(client)

    # `force` also ends the sessions that the calls above have opened; 2.0.0b3 has no argument for it yet.
    force = {"force": "true"}
    await project.agents.delete_version(agent_name=AGENT_NAME, agent_version=version.version, params=force)
    await project.agents.delete(agent_name=AGENT_NAME, params=force)
    print(f"Deleted:   {AGENT_NAME}")


async def main() -> int:
    if "AGENT_IMAGE" not in os.environ:
        print("Set AGENT_IMAGE to a container image; 2.0.0b3 cannot deploy code.", file=sys.stderr)
        return 2
    async with (
        DefaultAzureCredential() as credential,
        AIProjectClient(endpoint=os.environ["AZURE_AI_PROJECT_ENDPOINT"], credential=credential) as project,
    ):
        try:
            await run(project)
        except HttpResponseError as error:
            said = error.error  # the platform's envelope; a proxy on the way may have answered without one
            code, message = (said.code, said.message) if said else (error.reason, error.message)
            print(f"The platform refused ({error.status_code} {code}): {message}", file=sys.stderr)
            return 1
        except APIStatusError as error:
            print(
                f"The agent did not answer ({error.status_code} {error.code}): {error.message}",
                file=sys.stderr,
            )
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
