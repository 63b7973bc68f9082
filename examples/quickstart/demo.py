"""`make demo`: the whole main job in one run, each step with its time.

Starts a platform of its own (state and caches in `.demo/` of this checkout), deploys the agent beside this file
with the official SDK, talks to it, and stops everything, whatever happens. `deploy.py` is the script to copy from;
this one differs by showing what goes on. Leaves nothing running; the caches make the next run fast.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

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
from code_zip import AGENT_FOLDER, write_code_zip
from openai import APIError, OpenAI
from rich.console import Console

AGENT_NAME = "quickstart"
CHECKOUT = Path(__file__).parents[2]
DEFAULT_BASE_IMAGE = "python:3.12-slim"
BASE_IMAGE_VARIABLES = ("CUPOLA_BASE_IMAGE", "BASE_IMAGE")
PROTOCOLS = [ProtocolVersionRecord(protocol="responses", version="2.0.0")]
BUILD_TIMEOUT = 600.0
PULL_TIMEOUT = 120.0
READY_TIMEOUT = 300.0

console = Console(highlight=False, soft_wrap=True)


class DemoFailed(Exception):
    """A step did not work; the text is what a person needs in order to mend it."""


@dataclass(frozen=True, slots=True)
class Way:
    """How the agent is deployed: as this image, or as code when there is none; and why."""

    image: str | None
    reason: str


@contextmanager
def step(name: str) -> Iterator[Callable[[str], None]]:
    """Prints a step's time beside its name; what is passed to the yielded function stands below."""
    notes: list[str] = []
    began = time.perf_counter()
    yield notes.append
    console.print(f"[green]✓[/] {name:<40} [cyan]{time.perf_counter() - began:7.2f} s[/]")
    for note in notes:
        console.print(f"    {note}", style="dim", markup=False)


# --- which way -------------------------------------------------------------------------------------------------


def choose_way(wanted: str) -> Way:
    if wanted == "code":
        return Way(None, "asked for with --with code")
    way = image_way()
    if wanted == "image" and way.image is None:
        raise DemoFailed(f"No image deployment here: {way.reason}.")
    return way


def image_way() -> Way:
    """Builds the agent's image with the first engine that answers, or says why that cannot be."""
    engine = answering_engine()
    if engine is None:
        return Way(None, "no container engine answers (neither docker nor podman)")
    base = next((os.environ[name] for name in BASE_IMAGE_VARIABLES if os.environ.get(name)), DEFAULT_BASE_IMAGE)
    refused = obtain(engine, base)
    if refused is not None:
        return Way(
            None,
            f"{engine} answers, but cannot get the base image {base} ({refused}); "
            f"set {BASE_IMAGE_VARIABLES[0]} to a Debian image with Python 3 and pip",
        )
    image = f"cupola-demo-agent:{content_hash(AGENT_FOLDER, base)}"
    if not succeeds([engine, "image", "inspect", image]):
        built = build(engine, base, image)
        if built.returncode != 0:
            return Way(None, f"{engine} could not build the image ({last_line(built)})")
    return Way(image, f"{engine} answers, and the image is built from {base}")


def answering_engine() -> str | None:
    return next((name for name in ("docker", "podman") if shutil.which(name) and succeeds([name, "info"])), None)


def obtain(engine: str, base: str) -> str | None:
    """Makes the base image present; returns the engine's complaint when it cannot."""
    if succeeds([engine, "image", "inspect", base]):
        return None
    pulled = capture([engine, "pull", "--quiet", base], PULL_TIMEOUT)
    return None if pulled.returncode == 0 else last_line(pulled)


def build(engine: str, base: str, image: str) -> subprocess.CompletedProcess[str]:
    environment = dict(os.environ)
    if engine == "docker" and not succeeds(["docker", "buildx", "version"]):
        environment["DOCKER_BUILDKIT"] = "0"
    command = [engine, "build", "--tag", image, "--build-arg", f"BASE_IMAGE={base}", str(AGENT_FOLDER)]
    return capture(command, BUILD_TIMEOUT, environment)


def content_hash(folder: Path, base: str) -> str:
    digest = hashlib.sha256(base.encode())
    for path in sorted(folder.iterdir()):
        if path.is_file():
            digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:12]


def capture(
    command: list[str], timeout: float, environment: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=timeout, env=environment, check=False)
    except subprocess.TimeoutExpired:
        return subprocess.CompletedProcess(command, 124, "", f"no result after {timeout:.0f} s")


def succeeds(command: list[str]) -> bool:
    return capture(command, timeout=20).returncode == 0


def last_line(done: subprocess.CompletedProcess[str]) -> str:
    lines = (done.stderr.strip() or done.stdout.strip()).splitlines()
    return lines[-1].strip() if lines else f"exit code {done.returncode}"


# --- the platform ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Platform:
    """A platform with a state directory of its own, driven through its command line as a user would."""

    state: Path

    def start(self) -> dict[str, str]:
        """Starts it in the background and returns the variables of `cupola env`."""
        self.stop()  # what an earlier run left behind after a SIGKILL
        self.up()
        return dict(json.loads(self.cupola("env", "--format", "json")))

    def up(self) -> None:
        """Runs `cupola up --detach` to its end, also when interrupted: a platform half started cannot be stopped."""
        command = self.command("up", "--detach", "--port", str(free_port()))
        # A session of its own: Ctrl-C is for the demo alone.
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        with subprocess.Popen(command, text=True, start_new_session=True, **pipes) as starting:
            try:
                said, _ = starting.communicate()
            except BaseException:
                starting.wait()
                raise
        if starting.returncode != 0:
            raise DemoFailed(f"`cupola up` failed: {said}")

    def stop(self) -> None:
        capture(self.command("down"), timeout=60)

    def cupola(self, *arguments: str) -> str:
        done = capture(self.command(*arguments), timeout=60)
        if done.returncode != 0:
            raise DemoFailed(f"`cupola {' '.join(arguments)}` failed: {done.stderr or done.stdout}")
        return done.stdout

    def command(self, *arguments: str) -> list[str]:
        return [sys.executable, "-m", "cupola", *arguments, "--state-dir", str(self.state)]

    def log_tail(self) -> str:
        logs = sorted(self.state.rglob("*.log"), key=lambda path: path.stat().st_mtime)
        return "\n".join(logs[-1].read_text(errors="replace").splitlines()[-20:]) if logs else ""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


# --- the client's side -----------------------------------------------------------------------------------------


def remove_leftovers(project: AIProjectClient) -> None:
    for agent in list(project.agents.list()):
        project.agents.delete(agent_name=agent.name, force=True)


def create_version(project: AIProjectClient, image: str | None) -> AgentVersionDetails:
    if image is not None:
        container = ContainerConfiguration(image=image)
        return project.agents.create_version(
            agent_name=AGENT_NAME,
            definition=HostedAgentDefinition(
                cpu="1", memory="2Gi", container_configuration=container, protocol_versions=PROTOCOLS
            ),
        )
    code = CodeConfiguration(
        runtime=f"python_{sys.version_info.major}_{sys.version_info.minor}",
        entry_point=["python", "main.py"],
        dependency_resolution="remote_build",
    )
    with (
        tempfile.TemporaryDirectory() as scratch,
        write_code_zip(AGENT_FOLDER, Path(scratch) / "agent.zip").open("rb") as stream,
    ):
        return project.agents.create_version_from_code(
            agent_name=AGENT_NAME,
            definition=HostedAgentDefinition(
                cpu="1", memory="2Gi", code_configuration=code, protocol_versions=PROTOCOLS
            ),
            code=stream,
        )


def wait_until_active(project: AIProjectClient, version: AgentVersionDetails) -> AgentVersionDetails:
    deadline = time.monotonic() + READY_TIMEOUT
    while version.status == "creating" and time.monotonic() < deadline:
        time.sleep(0.1)
        version = project.agents.get_version(agent_name=version.name, agent_version=version.version)
    if version.status != "active":
        evidence = json.dumps(version.get("error"), indent=2, default=str)
        raise DemoFailed(f"Version {version.version} is {version['status']}:\n{evidence}")
    return version


def plain_answer(client: OpenAI) -> str:
    return client.responses.create(input="What can you do?").output_text


def streamed_answer(client: OpenAI) -> int:
    """Shows the answer as it comes, and counts its pieces."""
    pieces = 0
    console.print("  ", end="")
    with client.responses.create(input="Tell me slowly.", stream=True) as events:
        for event in events:
            if event.type == "response.output_text.delta":
                console.print(event.delta, end="", markup=False)
                pieces += 1
    console.print()
    return pieces


def two_turns(client: OpenAI) -> tuple[str, str]:
    conversation = client.conversations.create()
    first = client.responses.create(input="My name is Ada.", conversation=conversation.id)
    second = client.responses.create(input="Who am I?", conversation=conversation.id)
    return first.output_text, second.output_text


def talk(project: AIProjectClient) -> None:
    with project.get_openai_client(agent_name=AGENT_NAME) as client:
        with step("plain answer") as note:
            note(plain_answer(client))
        with step("streamed answer") as note:
            pieces = streamed_answer(client)
            note(f"{pieces} pieces, shown as they came")
        with step("two turns of one conversation") as note:
            first, second = two_turns(client)
            note(first)
            note(second)
    if pieces < 2:
        raise DemoFailed("The streamed answer came in one piece.")
    if "My name is Ada." not in second:
        raise DemoFailed("The second turn does not remember the first.")


# --- all of it -------------------------------------------------------------------------------------------------


def run(platform: Platform, wanted: str) -> None:
    with step("choose the way") as note:
        way = choose_way(wanted)
        note(f"{'image' if way.image else 'code'} deployment: {way.reason}")
    with step("start the platform") as note:
        environment = platform.start()
        os.environ.update(environment)
        note(environment["AZURE_AI_PROJECT_ENDPOINT"])
    with (
        DefaultAzureCredential() as credential,
        AIProjectClient(endpoint=environment["AZURE_AI_PROJECT_ENDPOINT"], credential=credential) as project,
    ):
        with step("sign in, remove what earlier runs left"):
            remove_leftovers(project)
        with step("deploy with the SDK, until active") as note:
            version = wait_until_active(project, create_version(project, way.image))
            note(f"version {version.version} of {version.name}")
        talk(project)
        with step("delete the agent and its sessions"):
            project.agents.delete(agent_name=AGENT_NAME, force=True)


def main() -> int:
    parser = argparse.ArgumentParser(description="Deploy the example agent to a platform of its own and talk to it.")
    parser.add_argument("--with", dest="wanted", choices=("auto", "image", "code"), default="auto")
    parser.add_argument("--state-dir", type=Path, default=CHECKOUT / ".demo")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))

    platform = Platform(arguments.state_dir)
    began = time.perf_counter()
    try:
        run(platform, arguments.wanted)
        code = 0
    except DemoFailed as failure:
        code = fail(str(failure), platform)
    except HttpResponseError as failure:
        detail = json.dumps(failure.model.as_dict(), indent=2) if failure.model else failure.message
        code = fail(f"The platform refused ({failure.status_code}): {detail}", platform)
    except APIError as failure:
        code = fail(f"The agent did not answer: {failure.message}\n{json.dumps(failure.body, indent=2)}", platform)
    except KeyboardInterrupt:
        console.print("\nInterrupted; stopping.")
        code = 130
    finally:
        with step("stop everything"):
            platform.stop()
    if code == 0:
        console.print(f"[bold green]Done[/] in {time.perf_counter() - began:.1f} s. To go on: `.venv/bin/cupola up`.")
    return code


def fail(text: str, platform: Platform) -> int:
    console.print(f"✗ {text}", style="red", markup=False)
    console.print(platform.log_tail(), style="dim", markup=False)
    return 1


if __name__ == "__main__":
    sys.exit(main())
