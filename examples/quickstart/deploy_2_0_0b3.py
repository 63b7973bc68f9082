"""Deploys a hosted agent, talks to it, and deletes it: the sync client of azure-ai-projects 2.0.0b3.

That version is pinned in many places: it is the last one with `ImageBasedHostedAgentDefinition`. On it, versions
have no attribute for their state: read `version["status"]`. It has no code deployments: an image is needed.

    pip install azure-ai-projects==2.0.0b3 azure-identity
    AGENT_IMAGE=registry.example/agent:1 cupola run -- python deploy_2_0_0b3.py
"""

from __future__ import annotations

import os
import sys
import time

from azure.ai.projects import AIProjectClient
from azure.ai.projects.models import (
    AgentProtocol,
    AgentVersionDetails,
    ImageBasedHostedAgentDefinition,
    ProtocolVersionRecord,
)
from azure.core.exceptions import HttpResponseError
from azure.identity import DefaultAzureCredential
from openai import APIStatusError, OpenAI

AGENT_NAME = os.environ.get("AGENT_NAME", "quickstart-b3")
TIMEOUT = 300.0


def create_version(project: AIProjectClient) -> AgentVersionDetails:
    return project.agents.create_version(
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


def wait_until_active(project: AIProjectClient, version: AgentVersionDetails) -> AgentVersionDetails:
    """Polls until the platform has seen the agent answer, or says why it did not."""
    deadline = time.monotonic() + TIMEOUT
    while version["status"] == "creating" and time.monotonic() < deadline:
        time.sleep(0.5)
        version = project.agents.get_version(agent_name=version.name, agent_version=version.version)
    if version["status"] != "active":
        error = version.get("error") or {}
        raise SystemExit(
            f"Version {version.version} is {version['status']}: {error.get('code')}: {error.get('message')}"
        )
    return version


def talk(client: OpenAI) -> None:
    """A plain answer, a streamed one, and a second turn that remembers the first."""
    agent = {"agent_reference": {"name": AGENT_NAME, "type": "agent_reference"}}
    print("Plain:    ", client.responses.create(input="What can you do?", extra_body=agent).output_text)

    print("Streamed:  ", end="")
    with client.responses.create(input="Tell me slowly.", stream=True, extra_body=agent) as events:
        for event in events:
            if event.type == "response.output_text.delta":
                print(event.delta, end="", flush=True)
    print()

    conversation = client.conversations.create()
    first = client.responses.create(input="My name is Ada.", conversation=conversation.id, extra_body=agent)
    second = client.responses.create(input="Who am I?", conversation=conversation.id, extra_body=agent)
    print("First:    ", first.output_text)
    print("Second:   ", second.output_text)


def run(project: AIProjectClient) -> None:
    version = wait_until_active(project, create_version(project))
    print(f"Version {version.version} of {version.name} is {version['status']}")
    for listed in project.agents.list_versions(agent_name=AGENT_NAME):
        print(f"Listed:    {listed.name} {listed.version} {listed['status']}")

    with project.get_openai_client() as client:
        talk(client)

    # `force` also ends the sessions that the calls above have opened; 2.0.0b3 has no argument for it yet.
    force = {"force": "true"}
    project.agents.delete_version(agent_name=AGENT_NAME, agent_version=version.version, params=force)
    project.agents.delete(agent_name=AGENT_NAME, params=force)
    print(f"Deleted:   {AGENT_NAME}")


def main() -> int:
    if "AGENT_IMAGE" not in os.environ:
        print("Set AGENT_IMAGE to a container image; 2.0.0b3 cannot deploy code.", file=sys.stderr)
        return 2
    with (
        DefaultAzureCredential() as credential,
        AIProjectClient(endpoint=os.environ["AZURE_AI_PROJECT_ENDPOINT"], credential=credential) as project,
    ):
        try:
            run(project)
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
    sys.exit(main())
