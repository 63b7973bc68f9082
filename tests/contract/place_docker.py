"""The docker driver as a place for the contract tests, on whichever engine is found (Docker or Podman).

All agents share one image made from the test base: its command runs the script that stands in a variable,
and each agent is a tag of it.
"""

from __future__ import annotations

import json
import os
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

import pytest
from aiodocker import Docker, DockerError
from aiodocker.types import JSONValue

from cupola.drivers.base import LABEL_INSTALLATION, LABEL_SANDBOX, ImageSource, SandboxSpec, Source
from cupola.drivers.docker import DockerDriver, connect
from cupola.drivers.docker_connect import open_engine
from cupola.errors import DriverUnavailable
from tests.contract.place import MIB, SCRIPTS, Agent

SCRIPT = "CONTRACT_SCRIPT"
RUN_SCRIPT = ["python3", "-c", f"import os; exec(os.environ[{SCRIPT!r}])"]


def base_image() -> str:
    """An image with python3 in it, that this machine has."""
    return os.environ.get("CUPOLA_TEST_BASE_IMAGE", "cupola-test-base")


def without_engine(reason: str) -> None:
    """Skips with a reason, or fails where an engine was promised."""
    if os.environ.get("CUPOLA_REQUIRE_ENGINE") == "1":
        pytest.fail(reason)
    pytest.skip(reason)


@asynccontextmanager
async def open_client() -> AsyncIterator[Docker]:
    """A client of the engine that `connect` would find, with the base image in it."""
    try:
        client, _ = await open_engine(os.environ, Path.home())
    except DriverUnavailable as error:
        without_engine(error.message)
        raise
    try:
        try:
            await client.images.inspect(base_image())
        except DockerError:
            without_engine(f"the engine has no image {base_image()} (CUPOLA_TEST_BASE_IMAGE names another)")
        yield client
    finally:
        await client.close()


@asynccontextmanager
async def image_with_command(
    client: Docker, name: str, command: Sequence[str], **config: JSONValue
) -> AsyncIterator[str]:
    """The base image under another name and with another command, for as long as it is needed."""
    container = await client.containers.create({"Image": base_image(), "Cmd": list(command), **config})
    repository, _, tag = name.partition(":")
    try:
        await container.commit(repository=repository, tag=tag or "latest", config={})
    finally:
        await container.delete(force=True)
    try:
        yield name
    finally:
        await client.images.delete(name, force=True)


@dataclass(slots=True)
class Containers:
    """The place."""

    root: Path
    installation: str
    driver: DockerDriver
    stack: AsyncExitStack
    name: str = "docker"
    names_out_of_memory: bool = True

    def image(self, agent: Agent) -> str:
        return f"cupola-contract-{self.installation}:{agent}"

    async def restart(self) -> DockerDriver:
        driver = await connect(self.installation)
        self.stack.push_async_callback(driver.aclose)
        self.driver = driver
        return driver

    def source(self, agent: Agent) -> Source:
        return ImageSource(self.image(agent))

    def spec(
        self,
        source: Source,
        *,
        home: str = "h1",
        memory: int = 256 * MIB,
        environment: Mapping[str, str] | None = None,
        labels: Mapping[str, str] | None = None,
    ) -> SandboxSpec:
        assert isinstance(source, ImageSource)
        sandbox_id = uuid4().hex
        bundle = self.root / "ca.pem"
        bundle.write_text("certificates")
        return SandboxSpec(
            sandbox_id=sandbox_id,
            source=source,
            environment={SCRIPT: SCRIPTS[Agent(source.image.rpartition(":")[2])], **(environment or {})},
            cpu=1.0,
            memory=memory,
            home=home,
            labels={LABEL_INSTALLATION: self.installation, LABEL_SANDBOX: sandbox_id, **(labels or {})},
            ca_bundle=bundle,
        )


@asynccontextmanager
async def open_place(tmp_path: Path, installation: str, variant: str = "") -> AsyncIterator[Containers]:
    """Containers, homes, networks and images of the installation are gone at the end.

    The variant `through` leaves the files of homes to the engine, as where its volumes are out of reach.
    """
    async with AsyncExitStack() as stack:
        client = await stack.enter_async_context(open_client())
        if variant == "through":
            own, traits = await open_engine(os.environ, Path.home())
            driver = DockerDriver(own, installation, traits=traits, reaching_volumes=False)
        else:
            driver = await connect(installation)
        place = Containers(tmp_path, installation, driver, stack)
        stack.push_async_callback(driver.aclose)
        stack.push_async_callback(remove_everything, client, installation)
        first, *others = Agent
        await stack.enter_async_context(image_with_command(client, place.image(first), RUN_SCRIPT))
        for agent in others:
            repository, _, tag = place.image(agent).partition(":")
            await client.images.tag(place.image(first), repository, tag=tag)
            stack.push_async_callback(client.images.delete, place.image(agent), force=True)
        yield place


async def remove_everything(client: Docker, installation: str) -> None:
    driver = await connect(installation)
    try:
        for found in await driver.list():
            await driver.stop(found.handle, 0)
        filters = json.dumps({"label": [f"{LABEL_INSTALLATION}={installation}"]})
        volumes = await client._query_json("volumes", params={"filters": filters})
        for volume in volumes["Volumes"] or ():
            await client._query_json(f"volumes/{volume['Name']}", "DELETE")
        await driver.remove_installation()
    finally:
        await driver.aclose()
