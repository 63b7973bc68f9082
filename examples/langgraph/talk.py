"""Deploys the agent beside this file, talks to it, and deletes it.

    pip install azure-ai-projects azure-identity
    cupola run -- python talk.py                                    # uploads the folder agent/ as a zip
    AGENT_IMAGE=registry.example/agent:1 cupola run -- python talk.py

With MODEL_NAME (and OPENAI_API_KEY, OPENAI_BASE_URL as needed) in the environment the agent asks that model.
"""

from __future__ import annotations

import io
import os
import sys
import time
import zipfile
from pathlib import Path

from azure.ai.projects import AIProjectClient
from azure.ai.projects.models import (
    AgentVersionDetails,
    CodeConfiguration,
    ContainerConfiguration,
    HostedAgentDefinition,
    ProtocolVersionRecord,
)
from azure.identity import DefaultAzureCredential
from openai import OpenAI

AGENT_NAME = os.environ.get("AGENT_NAME", "langgraph")
AGENT_IMAGE = os.environ.get("AGENT_IMAGE")
MODEL = {name: os.environ[name] for name in ("MODEL_NAME", "OPENAI_API_KEY", "OPENAI_BASE_URL") if name in os.environ}
TIMEOUT = 600.0


def create_version(project: AIProjectClient) -> AgentVersionDetails:
    protocols = [ProtocolVersionRecord(protocol="responses", version="2.0.0")]
    size = {"cpu": "1", "memory": "2Gi", "protocol_versions": protocols, "environment_variables": MODEL}
    if AGENT_IMAGE:
        image = ContainerConfiguration(image=AGENT_IMAGE)
        return project.agents.create_version(
            agent_name=AGENT_NAME, definition=HostedAgentDefinition(container_configuration=image, **size)
        )
    code = CodeConfiguration(
        runtime=f"python_{sys.version_info.major}_{sys.version_info.minor}",
        entry_point=["python", "main.py"],
        dependency_resolution="remote_build",
    )
    return project.agents.create_version_from_code(
        agent_name=AGENT_NAME, definition=HostedAgentDefinition(code_configuration=code, **size), code=code_zip()
    )


def code_zip() -> io.BytesIO:
    """The agent's two files, flat at the root; the SDK wants a stream with a name that ends in .zip."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name in ("main.py", "requirements.txt"):
            archive.writestr(zipfile.ZipInfo(name), (Path(__file__).parent / "agent" / name).read_bytes())
    buffer.name = "agent.zip"
    return buffer


def wait_until_active(project: AIProjectClient, version: AgentVersionDetails) -> None:
    """The first time, installing the framework takes a minute or so."""
    deadline = time.monotonic() + TIMEOUT
    while version.status == "creating" and time.monotonic() < deadline:
        time.sleep(0.5)
        version = project.agents.get_version(agent_name=version.name, agent_version=version.version)
    if version.status != "active":
        error = version.get("error") or {}
        raise SystemExit(f"Version {version.version}: {error.get('code')}: {error.get('message')}")


def talk(client: OpenAI) -> None:
    print("Plain:     ", client.responses.create(input="What can you do?").output_text)

    print("Streamed:   ", end="")
    with client.responses.create(input="Tell me slowly.", stream=True) as events:
        for event in events:
            if event.type == "response.output_text.delta":
                print(event.delta, end="", flush=True)
    print()

    conversation = client.conversations.create().id
    print("First:     ", client.responses.create(input="My name is Ada.", conversation=conversation).output_text)
    asked = client.responses.create(input="Where is order 17?", conversation=conversation)
    print("Called:    ", *(f"{item.name}({item.arguments})" for item in asked.output if item.type == "function_call"))
    print("Second:    ", asked.output_text)
    print("Third:     ", client.responses.create(input="Who am I?", conversation=conversation).output_text)

    # A chain begins a new session unless it says otherwise; the checkpoints are found from any of them.
    first = client.responses.create(input="Say a number.")
    second = client.responses.create(input="And the next?", previous_response_id=first.id)
    print("Chained:   ", second.output_text)


def main() -> None:
    with (
        DefaultAzureCredential() as credential,
        AIProjectClient(endpoint=os.environ["AZURE_AI_PROJECT_ENDPOINT"], credential=credential) as project,
    ):
        try:
            wait_until_active(project, create_version(project))
            with project.get_openai_client(agent_name=AGENT_NAME) as client:
                talk(client)
        finally:
            project.agents.delete(agent_name=AGENT_NAME, force=True)
    print("Deleted:   ", AGENT_NAME)


if __name__ == "__main__":
    main()
