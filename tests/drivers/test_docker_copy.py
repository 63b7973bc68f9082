"""Copies of volumes, by this process and through the engine: both keep the same."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from uuid import uuid4

import pytest
from aiodocker import Docker

from cupola.drivers.base import SANDBOX_HOME
from cupola.drivers.docker_connect import read_traits
from cupola.drivers.docker_container import home_name
from cupola.drivers.docker_copy import EngineCopy
from cupola.drivers.docker_homes import DockerHomes
from tests.contract.place_docker import base_image, open_client

pytestmark = pytest.mark.engine

FILL = """
mkdir -p sub/ro; printf 12345 > note; printf run > sub/run.sh; chmod 751 sub/run.sh; ln -s ../../etc/passwd out
ln note again; mkfifo pipe; chown -R 1000:1001 sub; chmod 500 sub/ro; chmod 1777 .; touch -d @86400 sub/run.sh
"""
LOOK = "find . -printf '%P %y %m %U %G %l\\n' | sort; find sub/run.sh -printf '%T@\\n'; stat -c %h note"


async def run(client: Docker, volume: str, script: str) -> str:
    """What a script prints in a container that has the volume as its directory."""
    mount = {"Type": "volume", "Source": volume, "Target": SANDBOX_HOME}
    config = {
        "Image": base_image(),
        "Cmd": ["sh", "-ec", script],
        "WorkingDir": SANDBOX_HOME,
        "HostConfig": {"Mounts": [mount], "NetworkMode": "none"},
    }
    container = await client.containers.run(config)  # type: ignore[arg-type]  # a plain JSON object
    try:
        await container.wait()
        return "".join(await container.log(stdout=True, stderr=True))
    finally:
        await container.delete(force=True)


@pytest.fixture
async def client() -> AsyncIterator[Docker]:
    async with open_client() as client:
        yield client


@pytest.fixture
async def installation(client: Docker) -> AsyncIterator[str]:
    name = f"test-{uuid4().hex[:12]}"
    yield name
    homes = DockerHomes(client, name)
    for home in ("h1", "h2"):
        await homes.delete(home)
    homes.close()


@pytest.mark.parametrize("here", [True, False], ids=["directories", "archive"])
async def test_copies_keep_modes_owners_times_and_links(client: Docker, installation: str, here: bool) -> None:
    """Whichever way: only the FIFO is missing, and the container that served for it is gone."""
    traits = await read_traits(client)
    homes = DockerHomes(client, installation, reaching=here)
    try:
        await homes.make("h1", None, traits)
        assert await run(client, home_name(installation, "h1"), FILL) == ""
        assert await homes.copy("h1", "h2", traits) == 8
        before = await run(client, home_name(installation, "h1"), LOOK)
        after = await run(client, home_name(installation, "h2"), LOOK)
    finally:
        homes.close()
    assert "pipe p" in before
    assert after.splitlines() == [line for line in before.splitlines() if not line.startswith("pipe")]
    assert "sub/run.sh f 751 1000 1001" in after
    filters = json.dumps({"name": [installation]})
    assert await client.containers.list(all=True, filters=filters) == []


async def test_a_copy_that_was_broken_off_can_be_deleted(client: Docker, installation: str) -> None:
    """A crash leaves the container of a copy with both volumes in it: deleting the target removes it first."""
    traits = await read_traits(client)
    homes = DockerHomes(client, installation)
    try:
        for home in ("h1", "h2"):
            await homes.make(home, None, traits)
        await EngineCopy(client, installation).begin("h1", "h2")
        await homes.delete("h2")
        assert await homes.files("h2", None, traits) is None
        await homes.delete("h1")
    finally:
        homes.close()


async def test_labels_are_on_copies(client: Docker, installation: str) -> None:
    """A copy is a home of this installation like any other."""
    traits = await read_traits(client)
    homes = DockerHomes(client, installation)
    try:
        await homes.make("h1", None, traits)
        await homes.copy("h1", "h2", traits)
    finally:
        homes.close()
    shown = await client._query_json(f"volumes/{home_name(installation, 'h2')}")
    assert shown["Labels"] == {"cupola.installation": installation}
