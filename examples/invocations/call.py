"""Deploys the invocations agent and calls it twice in one session, plain and streamed, over plain HTTP.

pip install azure-ai-projects azure-identity
cupola run -- python call.py                                    # uploads the folder agent/ as a zip
AGENT_IMAGE=registry.example/agent:1 cupola run -- python call.py
"""

from __future__ import annotations

import io
import os
import sys
import time
import zipfile
from pathlib import Path

import requests
from azure.ai.projects import AIProjectClient
from azure.ai.projects.models import (
    AgentVersionDetails,
    CodeConfiguration,
    ContainerConfiguration,
    HostedAgentDefinition,
    ProtocolVersionRecord,
)
from azure.core.exceptions import HttpResponseError
from azure.identity import DefaultAzureCredential

AGENT_NAME = os.environ.get("AGENT_NAME", "invocations")
AGENT_IMAGE = os.environ.get("AGENT_IMAGE")
ENDPOINT = os.environ["AZURE_AI_PROJECT_ENDPOINT"]
PROTOCOLS = [ProtocolVersionRecord(protocol="invocations", version="2.0.0")]
TIMEOUT = 300.0


def create_version(project: AIProjectClient) -> AgentVersionDetails:
    if AGENT_IMAGE:
        image = ContainerConfiguration(image=AGENT_IMAGE)
        return project.agents.create_version(
            agent_name=AGENT_NAME,
            definition=HostedAgentDefinition(
                cpu="0.5", memory="1Gi", container_configuration=image, protocol_versions=PROTOCOLS
            ),
        )
    code = CodeConfiguration(
        runtime=f"python_{sys.version_info.major}_{sys.version_info.minor}",
        entry_point=["python", "main.py"],
        dependency_resolution="remote_build",
    )
    return project.agents.create_version_from_code(
        agent_name=AGENT_NAME,
        definition=HostedAgentDefinition(cpu="0.5", memory="1Gi", code_configuration=code, protocol_versions=PROTOCOLS),
        code=code_zip(),
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
    deadline = time.monotonic() + TIMEOUT
    while version.status == "creating" and time.monotonic() < deadline:
        time.sleep(0.5)
        version = project.agents.get_version(agent_name=version.name, agent_version=version.version)
    if version.status != "active":
        error = version.get("error") or {}
        raise SystemExit(f"Version {version.version}: {error.get('code')}: {error.get('message')}")


def call(token: str) -> None:
    url = f"{ENDPOINT}/agents/{AGENT_NAME}/endpoint/protocols/invocations"
    headers = {"Authorization": f"Bearer {token}"}
    query = {"api-version": "v1"}

    first = requests.post(url, params=query, headers=headers, json={"message": "hello"}, timeout=TIMEOUT)
    first.raise_for_status()
    session = first.headers["x-agent-session-id"]
    print("First:    ", first.json()["text"])

    # Invocations know their session by the query alone; without it each call gets a session of its own.
    query["agent_session_id"] = session
    body = {"message": "and again", "stream": True}
    print("Second:   ", end="")
    with requests.post(url, params=query, headers=headers, json=body, timeout=TIMEOUT, stream=True) as second:
        second.raise_for_status()
        for line in second.iter_lines(decode_unicode=True):
            if line.startswith("data: "):
                print(line.removeprefix("data: "), end=" ", flush=True)
    print()


def main() -> int:
    with (
        DefaultAzureCredential() as credential,
        AIProjectClient(endpoint=ENDPOINT, credential=credential) as project,
    ):
        try:
            wait_until_active(project, create_version(project))
            call(credential.get_token("https://ai.azure.com/.default").token)
            project.agents.delete(agent_name=AGENT_NAME, force=True)
        except HttpResponseError as error:
            said = error.error  # the platform's envelope; a proxy on the way may have answered without one
            code, message = (said.code, said.message) if said else (error.reason, error.message)
            print(f"The platform refused ({error.status_code} {code}): {message}", file=sys.stderr)
            return 1
        except requests.HTTPError as error:
            print(f"The agent did not answer: {error}\n{error.response.text}", file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
