"""Deploys a hosted agent, talks to it, and deletes it: the async client of azure-ai-projects 2.3 and newer.

The sync twin is `deploy.py`, which says how to run it; this one also needs `aiohttp`.
"""

from __future__ import annotations

import asyncio
import os
import sys
import tempfile
from pathlib import Path

from azure.ai.projects.aio import AIProjectClient
from azure.ai.projects.models import (
    AgentEndpointProtocol,
    AgentVersionDetails,
    CodeConfiguration,
    CodeDependencyResolution,
    ContainerConfiguration,
    HostedAgentDefinition,
    ProtocolVersionRecord,
)
from azure.core.exceptions import HttpResponseError
from azure.identity.aio import DefaultAzureCredential
from code_zip import AGENT_FOLDER, write_code_zip
from openai import APIStatusError, AsyncOpenAI

AGENT_NAME = os.environ.get("AGENT_NAME", "quickstart")
AGENT_IMAGE = os.environ.get("AGENT_IMAGE")
PROTOCOLS = [ProtocolVersionRecord(protocol=AgentEndpointProtocol.RESPONSES, version="2.0.0")]
TIMEOUT = 300.0


async def create_version(project: AIProjectClient) -> AgentVersionDetails:
    """Makes a version from the image in AGENT_IMAGE, or from the folder beside this file."""
    if AGENT_IMAGE:
        return await project.agents.create_version(
            agent_name=AGENT_NAME,
            definition=HostedAgentDefinition(
                cpu="1",
                memory="2Gi",
                container_configuration=ContainerConfiguration(image=AGENT_IMAGE),
                protocol_versions=PROTOCOLS,
                environment_variables={"LOG_LEVEL": "info"},
            ),
        )
    with (
        tempfile.TemporaryDirectory() as scratch,
        write_code_zip(AGENT_FOLDER, Path(scratch) / "agent.zip").open("rb") as code,
    ):
        return await project.agents.create_version_from_code(
            agent_name=AGENT_NAME,
            definition=HostedAgentDefinition(
                cpu="1",
                memory="2Gi",
                code_configuration=CodeConfiguration(
                    runtime=f"python_{sys.version_info.major}_{sys.version_info.minor}",
                    entry_point=["python", "main.py"],
                    dependency_resolution=CodeDependencyResolution.REMOTE_BUILD,
                ),
                protocol_versions=PROTOCOLS,
                environment_variables={"LOG_LEVEL": "info"},
            ),
            code=code,
        )


async def wait_until_active(project: AIProjectClient, version: AgentVersionDetails) -> AgentVersionDetails:
    """Polls until the platform has seen the agent answer, or says why it did not."""
    async with asyncio.timeout(TIMEOUT):
        while version.status == "creating":
            await asyncio.sleep(0.5)
            version = await project.agents.get_version(agent_name=version.name, agent_version=version.version)
    if version.status != "active":
        error = version.get("error") or {}
        raise SystemExit(
            f"Version {version.version} is {version['status']}: {error.get('code')}: {error.get('message')}"
        )
    return version


async def talk(client: AsyncOpenAI) -> None:
    """A plain answer, a streamed one, and a second turn that remembers the first."""
    plain = await client.responses.create(input="What can you do?")
    print("Plain:    ", plain.output_text)

    print("Streamed:  ", end="")
    async with await client.responses.create(input="Tell me slowly.", stream=True) as events:
        async for event in events:
            if event.type == "response.output_text.delta":
                print(event.delta, end="", flush=True)
    print()

    conversation = await client.conversations.create()
    first = await client.responses.create(input="My name is Ada.", conversation=conversation.id)
    second = await client.responses.create(input="Who am I?", conversation=conversation.id)
    print("First:    ", first.output_text)
    print("Second:   ", second.output_text)


async def run(project: AIProjectClient) -> None:
    version = await wait_until_active(project, await create_version(project))
    print(f"Version {version.version} of {version.name} is {version['status']}")
    async for listed in project.agents.list_versions(agent_name=AGENT_NAME):
        print(f"Listed:    {listed.name} {listed.version} {listed['status']}")

    async with project.get_openai_client(agent_name=AGENT_NAME) as client:
        await talk(client)

    # `force` also ends the sessions that the calls above have opened.
    await project.agents.delete_version(agent_name=AGENT_NAME, agent_version=version.version, force=True)
    await project.agents.delete(agent_name=AGENT_NAME, force=True)
    print(f"Deleted:   {AGENT_NAME}")


async def main() -> int:
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
