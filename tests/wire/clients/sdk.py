"""One script body for the sync and the async client: what the scripts beside this one share.

Runs in a client's environment, where nothing of Cupola is installed. `call` and `collect` take what either client
returns; the definitions are spelled as each generation spells them.
"""

from __future__ import annotations

import asyncio
import inspect
import json
import sys
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from os import environ
from typing import Any

from azure.ai.projects import models
from azure.core.exceptions import HttpResponseError
from openai import APIStatusError

DEADLINE = 180.0


async def call(result: Any) -> Any:
    """The value of a call, from whichever client."""
    return await result if inspect.isawaitable(result) else result


async def collect(items: Any) -> list[Any]:
    """All items of a pager or a stream, from whichever client."""
    items = await call(items)
    return [item async for item in items] if hasattr(items, "__aiter__") else list(items)


async def refusal(attempt: Callable[[], Any]) -> dict[str, Any]:
    """What a call was refused with; the class is the one that users catch."""
    try:
        result = attempt()
        await (collect(result) if hasattr(result, "by_page") else call(result))
    except HttpResponseError as error:
        code = error.error.code if error.error else None
        kind = type(error).__name__
        return {"class": kind, "status": error.status_code, "code": code, "message": error.message}
    except APIStatusError as error:
        kind = type(error).__name__
        return {"class": kind, "status": error.status_code, "code": error.code, "message": error.message}
    return {"class": None, "status": 200, "code": None, "message": ""}


@dataclass(frozen=True)
class Sdk:
    """An open project client of one generation and mode."""

    generation: str
    mode: str
    project: Any
    stack: AsyncExitStack

    @property
    def agents(self) -> Any:
        return self.project.agents

    @property
    def b3(self) -> bool:
        return self.generation == "2.0.0b3"

    @property
    def names_agents(self) -> bool:
        """Whether `get_openai_client(agent_name=...)` exists: from 2.1.0 on."""
        return not self.generation.startswith("2.0.")

    async def openai(self, agent: str) -> tuple[Any, dict[str, Any]]:
        """The OpenAI client for an agent, and what each request must carry: 2.0.x names the agent there."""
        if self.names_agents:
            return await self.enter(self.project.get_openai_client(agent_name=agent)), {}
        client = self.project.get_openai_client()
        reference = {"agent_reference": {"name": agent, "type": "agent_reference"}}
        return await self.enter(client), {"extra_body": reference}

    async def enter(self, resource: Any) -> Any:
        if hasattr(resource, "__aenter__"):
            return await self.stack.enter_async_context(resource)
        return self.stack.enter_context(resource)

    def definition(self, image: str, **changes: Any) -> Any:
        """A hosted definition of an image, with the names of this generation's models."""
        known: Any = models  # of other generations than the newest, which mypy sees, too
        sizes = {"cpu": changes.pop("cpu", "1"), "memory": changes.pop("memory", "2Gi")}
        if hasattr(known, "ContainerConfiguration"):
            named = {
                "container_configuration": known.ContainerConfiguration(image=image),
                "protocol_versions": [known.ProtocolVersionRecord(protocol="responses", version="2.0.0")],
            }
            return known.HostedAgentDefinition(**named, **sizes, **changes)
        protocol = known.ProtocolVersionRecord(protocol=known.AgentProtocol.RESPONSES, version="v1")
        kind = known.ImageBasedHostedAgentDefinition if self.b3 else known.HostedAgentDefinition
        return kind(image=image, container_protocol_versions=[protocol], **sizes, **changes)

    def forced(self) -> dict[str, Any]:
        """The keyword that also ends active sessions; before 2.2.0 it is known only as a query parameter."""
        named = "force" in inspect.signature(self.agents.delete).parameters
        return {"force": True} if named else {"params": {"force": "true"}}

    async def settled(self, version: Any) -> Any:
        """Polls a version until it is no longer being made."""
        async with asyncio.timeout(DEADLINE):
            while version["status"] == "creating":
                await asyncio.sleep(0.2)
                version = await call(self.agents.get_version(agent_name=version.name, agent_version=version.version))
        return version


def main(script: Callable[[Sdk, list[str]], Awaitable[Any]]) -> None:
    """Runs `script` with an unmodified client and prints what it returns as one line of JSON."""
    generation, mode, *arguments = sys.argv[1:]
    print(json.dumps(asyncio.run(with_client(generation, mode, arguments, script)), default=str))


async def with_client(
    generation: str, mode: str, arguments: list[str], script: Callable[[Sdk, list[str]], Awaitable[Any]]
) -> Any:
    async with AsyncExitStack() as stack:
        sdk = Sdk(generation, mode, None, stack)
        if mode == "async":
            from azure.identity.aio import DefaultAzureCredential as AsyncCredential

            credential: Any = AsyncCredential()
        else:
            from azure.identity import DefaultAzureCredential

            credential = DefaultAzureCredential()
        project = project_client(generation, mode, await sdk.enter(credential))
        return await script(Sdk(generation, mode, await sdk.enter(project), stack), arguments)


def project_client(generation: str, mode: str, credential: Any) -> Any:
    """A project client; 2.1 and 2.2 know an agent's own OpenAI client only as a preview."""
    preview = {"allow_preview": True} if generation.startswith(("2.1.", "2.2.")) else {}
    endpoint = environ["AZURE_AI_PROJECT_ENDPOINT"]
    if mode == "async":
        from azure.ai.projects.aio import AIProjectClient as AsyncClient

        return AsyncClient(endpoint=endpoint, credential=credential, **preview)
    from azure.ai.projects import AIProjectClient

    return AIProjectClient(endpoint=endpoint, credential=credential, **preview)
