"""The examples as code deployments: what a machine without a container engine gives its user."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from uuid import uuid4

import pytest

from tests.support.served import base_image, finish, forget

from .conftest import EXAMPLES, RunScript

pytestmark = pytest.mark.wire


@pytest.mark.parametrize("script", ["deploy.py", "deploy_async.py"])
def test_quickstart_scripts_deploy_code(run_script: RunScript, script: str) -> None:
    """The quickstart's scripts upload the agent's folder, talk to it, and delete it."""
    name = f"script-{uuid4().hex[:10]}"
    printed = run_script("newest", EXAMPLES / "quickstart" / script, AGENT_NAME=name)
    assert "Hello! You said: Tell me slowly." in printed
    assert "I remember 1 earlier turn; the last time you said: My name is Ada." in printed
    assert f"Deleted:   {name}" in printed


def test_the_invocations_example_deploys_code(run_script: RunScript) -> None:
    """The invocations example keeps count over two calls of one session."""
    name = f"invocations-{uuid4().hex[:10]}"
    printed = run_script("newest", EXAMPLES / "invocations" / "call.py", AGENT_NAME=name)
    assert "Call 1 of this session said: hello" in printed
    assert '{"word": "2"}' in printed


def test_the_fastapi_example_deploys_code(run_script: RunScript) -> None:
    """An agent without any adapter answers plain and streamed."""
    printed = run_script(
        "newest",
        EXAMPLES / "quickstart" / "deploy.py",
        AGENT_NAME=f"fastapi-{uuid4().hex[:10]}",
        AGENT_FOLDER=str(EXAMPLES / "fastapi" / "agent"),
    )
    assert "FastAPI heard: What can you do?" in printed
    assert "FastAPI heard: Tell me slowly." in printed


@pytest.mark.e2e
def test_the_demo_runs_without_an_engine(tmp_path: Path) -> None:
    """`make demo` without a container engine goes from nothing to an answer that remembers."""
    assert "code deployment: asked for" in demo(tmp_path / "state", "code")


@pytest.mark.e2e
@pytest.mark.engine
def test_the_demo_runs_with_an_engine(tmp_path: Path, example_image: object) -> None:
    """`make demo` with a container engine builds the agent's image and deploys that."""
    base = base_image()
    printed = demo(tmp_path / "state", "image", CUPOLA_BASE_IMAGE=base)
    assert f"the image is built from {base}" in printed


def demo(state: Path, wanted: str, **extra: str) -> str:
    """Runs the demo in a state directory of its own and returns what it printed."""
    command = [sys.executable, str(EXAMPLES / "quickstart" / "demo.py")]
    try:
        printed = finish(
            [*command, "--with", wanted, "--state-dir", str(state)], {**os.environ, "NO_COLOR": "1", **extra}
        )
    finally:
        forget(state)
    assert "the last time you said: My name is Ada." in printed
    assert "Done in" in printed
    return printed
