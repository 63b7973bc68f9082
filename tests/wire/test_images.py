"""Image deployments through the official SDK, on a real container engine."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from uuid import uuid4

import httpx
import pytest

from tests.support.served import built_image

from .conftest import EXAMPLES, GENERATIONS, RunClient, RunScript
from .deployed import ADAPTERS, AGENTS, endpoint
from .packing import wait_until_active
from .test_activity import message
from .test_frameworks import every_framework, show_the_example_talks

pytestmark = [pytest.mark.wire, pytest.mark.engine]

ExampleImage = Callable[[str], str]


@pytest.mark.parametrize("mode", ["sync", "async"])
@pytest.mark.parametrize("generation", GENERATIONS)
def test_an_image_is_deployed(run_client: RunClient, example_image: ExampleImage, generation: str, mode: str) -> None:
    """An image becomes an active version, answers, and the same definition makes no second version."""
    name = f"image-{uuid4().hex[:10]}"
    found = run_client(generation, mode, "image", name, example_image("quickstart"))
    assert found["version"]["status"] == "active"
    assert found["same"] == found["version"]["version"] == "1"
    assert found["answer"].startswith("Hello! You said: hello")
    if generation == "2.0.0b3":
        assert found["version"]["definition"]["tools"] == [{"type": "code_interpreter"}]


@pytest.mark.parametrize(
    ("generation", "script"),
    [
        ("2.0.0b3", "deploy_2_0_0b3.py"),
        ("2.0.0b3", "deploy_2_0_0b3_async.py"),
        ("newest", "deploy.py"),
        ("newest", "deploy_async.py"),
    ],
)
def test_quickstart_scripts_deploy_an_image(
    run_script: RunScript, example_image: ExampleImage, generation: str, script: str
) -> None:
    """The quickstart's scripts work from an environment that holds nothing but the SDK."""
    name = f"script-{uuid4().hex[:10]}"
    printed = run_script(
        generation,
        EXAMPLES / "quickstart" / script,
        AGENT_IMAGE=example_image("quickstart"),
        AGENT_NAME=name,
    )
    assert "I remember 1 earlier turn; the last time you said: My name is Ada." in printed
    assert f"Deleted:   {name}" in printed


def test_the_invocations_agent_is_deployed(run_script: RunScript, example_image: ExampleImage) -> None:
    """The invocations example keeps count over two calls of one session."""
    printed = run_script(
        "newest",
        EXAMPLES / "invocations" / "call.py",
        AGENT_IMAGE=example_image("invocations"),
        AGENT_NAME=f"invocations-{uuid4().hex[:10]}",
    )
    assert "Call 1 of this session said: hello" in printed
    assert '{"word": "2"}' in printed


def test_a_container_without_an_adapter_is_deployed(run_script: RunScript, example_image: ExampleImage) -> None:
    """The FastAPI example answers plain and streamed."""
    printed = run_script(
        "newest",
        EXAMPLES / "quickstart" / "deploy.py",
        AGENT_IMAGE=example_image("fastapi"),
        AGENT_NAME=f"fastapi-{uuid4().hex[:10]}",
    )
    assert "FastAPI heard: What can you do?" in printed
    assert "FastAPI heard: Tell me slowly." in printed


@every_framework
def test_the_container_of_a_framework_is_deployed(
    run_script: RunScript, example_image: ExampleImage, framework: str
) -> None:
    """The hosts of Agent Framework and of LangChain, as containers: the same talk as from code."""
    show_the_example_talks(run_script, framework, AGENT_IMAGE=example_image(framework))


@pytest.mark.operation("activity.send")
def test_an_activity_container_is_deployed(rest: httpx.Client, example_image: ExampleImage, tmp_path: Path) -> None:
    """The activity adapter as a container, on the port and with the home that it has there."""
    (tmp_path / "requirements.txt").write_text(ADAPTERS["activity"])
    (tmp_path / "main.py").write_bytes((AGENTS / "activity" / "main.py").read_bytes())
    (tmp_path / "Dockerfile").write_bytes((AGENTS.parent / "adapters" / "Dockerfile").read_bytes())
    name = f"activity-{uuid4().hex[:10]}"
    definition = {
        "kind": "hosted",
        "cpu": "1",
        "memory": "2Gi",
        "container_configuration": {"image": built_image("activity", tmp_path)},
        "protocol_versions": [{"protocol": "activity", "version": "2.0.0"}],
    }
    created = rest.post(f"/agents/{name}/versions", json={"definition": definition})
    assert created.status_code == 200, created.text
    wait_until_active(rest, name, created.json()["version"])
    answer = rest.post(endpoint(name, "activityProtocol"), json=message())
    assert answer.status_code == 200, answer.text
    assert [said["text"] for said in answer.json()["activities"]] == ["Echo: hello"]
    rest.delete(f"/agents/{name}", params={"force": "true"}).raise_for_status()
