"""A walk through what `cupola` does with sessions: logs, snapshots, forks, moves, timings, bundles, replay.

    python examples/sessions/walk.py       # with azure-ai-projects and azure-identity, as `make demo` installs them

Starts a platform of its own in a temporary directory, deploys the notebook agent beside this file with the official
SDK, and shows each command with what it prints. `docs/sessions.svg` is a recording of it (`scripts/record.py`).
"""

from __future__ import annotations

import io
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
import zipfile
from pathlib import Path
from typing import Any

from azure.ai.projects import AIProjectClient
from azure.ai.projects.models import CodeConfiguration, HostedAgentDefinition, ProtocolVersionRecord
from azure.identity import DefaultAzureCredential

AGENT = "notebook"
FOLDER = Path(__file__).parent / "agent"


class Walk:
    """One platform, its commands as a person types them, and its agent as a client sees it."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._command = [sys.executable, "-m", "cupola"]

    def __enter__(self) -> Walk:
        os.environ["CUPOLA_STATE_DIR"] = str(self._directory / "state")
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self._quietly("up", "--detach", "--port", str(port), "--driver", "process")
        os.environ.update(json.loads(self._quietly("env", "--format", "json")))
        return self

    def __exit__(self, *exc: object) -> None:
        self._quietly("down")

    def shows(self, *arguments: str) -> None:
        """A command and what it prints."""
        print(f"\n\x1b[1;32m$ cupola {' '.join(arguments)}\x1b[0m", flush=True)
        subprocess.run([*self._command, *arguments], cwd=self._directory, check=True)

    def knows(self, *arguments: str) -> Any:
        """What a command tells programs."""
        return json.loads(self._quietly(*arguments, "--output", "json"))

    def _quietly(self, *arguments: str) -> str:
        done = subprocess.run([*self._command, *arguments], capture_output=True, text=True, check=False)
        if done.returncode != 0:
            sys.exit(f"cupola {' '.join(arguments)}: {done.stderr or done.stdout}")
        return done.stdout


def says(text: str) -> None:
    print(f"\n\x1b[2m# {text}\x1b[0m", flush=True)


def deploy(project: AIProjectClient, greeting: str) -> None:
    """A new version of the notebook, once it has answered."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for file in sorted(FOLDER.iterdir()):
            if file.is_file():
                archive.writestr(zipfile.ZipInfo(file.name), file.read_bytes())
    buffer.name = "agent.zip"
    version = project.agents.create_version_from_code(
        agent_name=AGENT,
        definition=HostedAgentDefinition(
            cpu="1",
            memory="2Gi",
            code_configuration=CodeConfiguration(
                runtime=f"python_{sys.version_info.major}_{sys.version_info.minor}",
                entry_point=["python", "main.py"],
                dependency_resolution="remote_build",
            ),
            protocol_versions=[ProtocolVersionRecord(protocol="responses", version="2.0.0")],
            environment_variables={"GREETING": greeting},
        ),
        code=buffer,
    )
    while version.status == "creating":
        time.sleep(0.2)
        version = project.agents.get_version(agent_name=AGENT, agent_version=version.version)
    if version.status != "active":
        sys.exit(f"version {version.version} is {version.status}: {version['error']}")
    says(f"version {version.version} of {AGENT} is active")


def ask(project: AIProjectClient, session: str, text: str) -> None:
    with project.get_openai_client(agent_name=AGENT) as client:
        answer = client.responses.create(input=text, extra_body={"agent_session_id": session})
    says(f"{session}: {text!r} -> {answer.output_text!r}")


def go(walk: Walk, project: AIProjectClient) -> None:
    deploy(project, "Noted.")
    ask(project, "ada", "buy tea")
    ask(project, "ada", "call Eve")
    walk.shows("sessions", "list", AGENT)
    walk.shows("logs", AGENT, "--session", "ada")

    walk.shows("sessions", "snapshot", AGENT, "ada", "--note", "two notes")
    snapshot = walk.knows("sessions", "snapshots", AGENT, "ada")["data"][0]["id"]
    ask(project, "ada", "a mistake")
    walk.shows("sessions", "fork", AGENT, "ada", "--snapshot", snapshot, "--id", "eve")
    ask(project, "eve", "a note of her own")

    deploy(project, "Written down.")
    walk.shows("sessions", "move", AGENT, "ada", "--to", "2")
    walk.shows("sessions", "restore", AGENT, "ada", snapshot)
    ask(project, "ada", "once more, without the mistake")

    walk.shows("stats", AGENT)
    walk.shows("debug-bundle", AGENT, "ada", "--out", "ada.zip")
    walk.shows("replay", "ada.zip")
    walk.shows("sessions", "stop", "--all")


def main() -> None:
    with (
        tempfile.TemporaryDirectory(prefix="cupola-walk-") as directory,
        Walk(Path(directory)) as walk,
        AIProjectClient(
            endpoint=os.environ["AZURE_AI_PROJECT_ENDPOINT"], credential=DefaultAzureCredential()
        ) as project,
    ):
        go(walk, project)


if __name__ == "__main__":
    main()
