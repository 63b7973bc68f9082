"""The fake driver as a place for the contract tests: the agents' parts, played without a process."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

from cupola.drivers.base import LABEL_INSTALLATION, LABEL_SANDBOX, Driver, ImageSource, SandboxSpec, Source
from cupola.drivers.fake import Behaviour, FakeDriver, FakePlace, FakeSandbox, Reply, Request
from cupola.drivers.lines import cut_lines
from cupola.runs import Stream
from tests.contract.place import MIB, Agent


async def answer(sandbox: FakeSandbox, request: Request) -> Reply:
    """What `SERVER` of the real agents does."""
    _, kind, *rest = request.path.split("/")
    if request.method == "POST" and kind == "say":
        for text in cut_lines(request.body):
            sandbox.print(text, Stream(rest[0]))
        return Reply()
    if request.method == "POST":
        sandbox.run_out_of_memory()
        return Reply()
    if request.method == "PUT":
        sandbox.files[rest[0]] = request.body
        return Reply()
    if kind == "burn":
        sandbox.cpu_seconds = (sandbox.cpu_seconds or 0) + 0.3
        return Reply()
    found = sandbox.files.get(rest[0])
    if kind == "environment":
        value = sandbox.environment.get(rest[0])
        found = None if value is None else value.encode()
    return Reply(404) if found is None else Reply(body=found)


def leave(sandbox: FakeSandbox) -> None:
    sandbox.files["terminated"] = b"yes"
    sandbox.print("bye")


BEHAVIOURS: Mapping[str, Behaviour] = {
    Agent.ECHO: Behaviour(handler=answer, on_sigterm=leave),
    Agent.STUBBORN: Behaviour(handler=answer, stubborn=True),
    Agent.CRASH: Behaviour(exit_code=3, output=("first line", "second line")),
    Agent.EAT_MEMORY: Behaviour(handler=answer, on_sigterm=leave),
    Agent.LOCAL_ONLY: Behaviour(handler=answer, on_sigterm=leave, local_only=True),
}


def behave(source: Source) -> Behaviour:
    assert isinstance(source, ImageSource)
    return BEHAVIOURS[source.image]


@dataclass(slots=True)
class Fakes:
    """The place."""

    installation: str
    driver: Driver
    place: FakePlace
    name: str = "fake"
    names_out_of_memory: bool = True

    async def restart(self) -> Driver:
        return FakeDriver(self.place, self.installation)

    def source(self, agent: Agent) -> Source:
        return ImageSource(agent)

    def spec(
        self,
        source: Source,
        *,
        home: str = "h1",
        memory: int = 256 * MIB,
        environment: Mapping[str, str] | None = None,
        labels: Mapping[str, str] | None = None,
    ) -> SandboxSpec:
        sandbox_id = uuid4().hex
        return SandboxSpec(
            sandbox_id=sandbox_id,
            source=source,
            environment=environment or {},
            cpu=1.0,
            memory=memory,
            home=home,
            labels={LABEL_INSTALLATION: self.installation, LABEL_SANDBOX: sandbox_id, **(labels or {})},
            ca_bundle=Path("ca.pem"),
        )


@asynccontextmanager
async def open_place(tmp_path: Path, installation: str) -> AsyncIterator[Fakes]:
    place = FakePlace(behave)
    yield Fakes(installation, FakeDriver(place, installation), place)
    await place.aclose()
