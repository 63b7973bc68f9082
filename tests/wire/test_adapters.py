"""Containers built with every generation of the official adapters, unmodified, on a real container engine.

Each is declared as its own guide says, and one of each kind wrongly too, since users copy `v1` from the guide that
they find. Pins are exact: `adapters/<adapter>.txt` holds what an image of that time holds, as far as can be had.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from tests.support.served import built_image, require_engine

from .conftest import RunClient

pytestmark = [
    pytest.mark.wire,
    pytest.mark.engine,
    pytest.mark.operation("responses.create", "responses.retrieve", "conversations.create"),
]

ADAPTERS = Path(__file__).parent / "adapters"
TOOLS = [{"type": "code_interpreter"}]


@dataclass(frozen=True)
class Adapter:
    """An adapter's release, the program that runs on it, and what that release is known to do."""

    package: str
    version: str
    declared: str
    """The protocol version that fits it."""
    wrong: str | None = None
    """One that does not fit it; one adapter of each kind is declared so, too."""
    program: str | None = None
    tools: bool = False
    """Its definition has tools, which the oldest adapters read and today's would refuse."""
    echoes: bool = True
    """It hands the caller's metadata back."""
    fails: tuple[str, str | int | None] = ("InternalServerError", 500)
    """What comes of a handler that fails: the exception and its status, or `Response` and what it says it is."""
    fails_streaming: tuple[str, str | int | None] = ("InternalServerError", 500)
    """The same, streamed: the exception and its status, or `Stream` and its last event."""
    chains: bool = False
    """It asks the platform for what came before `previous_response_id`."""
    converses: bool = False
    """It asks the platform for what was said in the conversation."""

    @property
    def name(self) -> str:
        return f"{self.package}-{self.version}"


_STREAMED_ERROR = ("Stream", "error")
_BARE_ERROR: tuple[str, str | int | None] = ("Response", "failed")


def _responses(version: str, declared: str, *, wrong: str | None = None, tools: bool = False) -> Adapter:
    """Releases of `responses`, which ask the platform for every history."""
    return Adapter(
        "responses",
        version,
        declared,
        wrong=wrong,
        tools=tools,
        chains=True,
        converses=True,
        fails_streaming=_STREAMED_ERROR,
    )


EVERY = (
    _responses("1.0.0b1", "1.0.0", wrong="v1"),
    _responses("2.0.0", "2.0.0"),
    _responses("2.3.0", "2.0.0", wrong="v1", tools=True),
    _responses("2.4.0b1", "2.0.0"),
    Adapter("langgraph", "1.0.0b1", "v1"),
    Adapter("langgraph", "1.0.0b4", "v1", wrong="1.0.0", tools=True),
    Adapter(
        "langgraph",
        "1.0.0b17",
        "v1",
        wrong="2.0.0",
        converses=True,
        fails=_BARE_ERROR,
        fails_streaming=_STREAMED_ERROR,
    ),
    Adapter(
        "agentframework",
        "1.0.0b1",
        "v1",
        program="agentframework_first",
        echoes=False,
        fails_streaming=("APIError", None),
    ),
    Adapter(
        "agentframework",
        "1.0.0b17",
        "v1",
        program="agentframework_last",
        converses=True,
        echoes=False,
        fails=_BARE_ERROR,
        fails_streaming=("Stream", "response.failed"),
    ),
)
RUNS = [
    pytest.param(adapter, declared, id=f"{adapter.name}-as-{declared}")
    for adapter in EVERY
    for declared in (adapter.declared, adapter.wrong)
    if declared is not None
]

AdapterImage = Callable[[Adapter], str]
Talk = Callable[[Adapter, str], Any]


@pytest.fixture(scope="session")
def adapter_image(tmp_path_factory: pytest.TempPathFactory) -> AdapterImage:
    """Builds an adapter's image: one Dockerfile, its own pins, its program."""
    require_engine()

    def build(adapter: Adapter) -> str:
        context = tmp_path_factory.mktemp(adapter.name)
        for source, name in (
            ("Dockerfile", "Dockerfile"),
            (f"{adapter.name}.txt", "requirements.txt"),
            (f"{adapter.program or adapter.package}.py", "main.py"),
        ):
            (context / name).write_bytes((ADAPTERS / source).read_bytes())
        return built_image(adapter.name, context)

    return build


@pytest.fixture(scope="session")
def talk(run_client: RunClient, adapter_image: AdapterImage) -> Talk:
    """Deploys an adapter's container under a declaration and talks to it: see `clients/adapter.py`."""

    def run(adapter: Adapter, declared: str) -> Any:
        image = adapter_image(adapter)
        name = f"adapter-{uuid4().hex[:10]}"
        tools = json.dumps(TOOLS if adapter.tools else [])
        print(f"{adapter.name} ({pinned(adapter)}) declared as {declared}")
        return run_client("newest", "sync", "adapter", name, image, declared, tools)

    return run


def pinned(adapter: Adapter) -> str:
    """The adapter's own packages, as they are pinned."""
    lines = (ADAPTERS / f"{adapter.name}.txt").read_text().splitlines()
    return ", ".join(line for line in lines if line.startswith("azure-ai-agentserver-"))


@pytest.mark.parametrize(("adapter", "declared"), RUNS)
def test_an_adapters_container_serves_responses(talk: Talk, adapter: Adapter, declared: str) -> None:
    """It starts, answers plain and streamed, remembers what its adapter asks for, is kept, and tells its errors."""
    found = talk(adapter, declared)
    assert found["version"]["status"] == "active", found["version"]
    assert text_of(found["plain"]) == "You said: alpha. Before: nothing."
    if adapter.echoes:
        assert found["plain"]["metadata"]["mine"] == "kept"
    assert found["retrieved"]["id"] == found["plain"]["id"]
    assert text_of(found["retrieved"]) == text_of(found["plain"])
    assert (found["kinds"][0], found["kinds"][-1]) == ("response.created", "response.completed")
    assert found["streamed"].strip() == "You said: beta. Before: nothing."
    assert found["chained"].strip() == f"You said: gamma. Before: {'alpha' if adapter.chains else 'nothing'}."
    before = ["nothing", "delta", "delta, epsilon"] if adapter.converses else ["nothing"] * 3
    told = [f"You said: {said}. Before: {b}." for said, b in zip(("delta", "epsilon", "zeta"), before, strict=True)]
    assert [turn.strip() for turn in found["turns"]] == told
    said = [(role, text.strip()) for role, text in found["said"]]
    assert said == [
        entry
        for word, reply in zip(("delta", "epsilon", "zeta"), told, strict=True)
        for entry in (("user", word), ("assistant", reply))
    ]
    assert (found["failure"][0], found["streamed_failure"][:2]) == (adapter.fails[0], [*adapter.fails_streaming])
    assert found["failure"][1] == adapter.fails[1]
    if adapter.fails is _BARE_ERROR:
        assert "as it was asked to" in found["failure"][2]


def text_of(response: Any) -> str:
    return "".join(part["text"] for item in response["output"] for part in item["content"]).strip()
