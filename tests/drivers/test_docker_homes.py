"""Homes on a real engine: what the image brings along, and the way to the files where volumes are out of reach."""

from __future__ import annotations

import io
import os
import tarfile
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from aiodocker import Docker

from cupola.drivers.base import SANDBOX_HOME, HomeFiles, ImageSource
from cupola.drivers.docker import DockerDriver
from cupola.drivers.docker_connect import open_engine
from cupola.errors import Conflict, CupolaError, NotFound
from cupola.files import HomePath, read_path
from tests.contract.place_docker import image_with_command, open_client, remove_everything

pytestmark = pytest.mark.engine


@dataclass
class Engine:
    """Two drivers of one installation: one that reaches volumes if it may, and one that asks the engine."""

    client: Docker
    installation: str
    reaching: DockerDriver
    asking: DockerDriver
    stack: AsyncExitStack

    async def imported(self, **files: str) -> ImageSource:
        """An image that holds these files below HOME and nothing else: no shell, no program."""
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w") as archive:
            for name, text in files.items():
                entry = tarfile.TarInfo(f"{SANDBOX_HOME.lstrip('/')}/{name}")
                entry.size, entry.uid = len(text), 4711
                archive.addfile(entry, io.BytesIO(text.encode()))
        name = f"cupola-homes-{self.installation}"
        params = {"fromSrc": "-", "repo": name, "tag": "bare"}
        await self.client._query_json("images/create", "POST", params=params, data=buffer.getvalue())
        self.stack.push_async_callback(self.client.images.delete, f"{name}:bare", force=True)
        return ImageSource(f"{name}:bare")

    async def trickster(self, script: str) -> tuple[ImageSource, HomeFiles]:
        """The home of an agent that has run this shell script in it, as the engine shows it."""
        name = f"cupola-homes-{self.installation}:trickster"
        image = await self.stack.enter_async_context(image_with_command(self.client, name, ["true"]))
        source = ImageSource(image)
        await self.reaching.make_home("h1", source)
        volume = f"cupola-{self.installation}-h1"
        config: dict[str, Any] = {
            "Image": image,
            "Cmd": ["sh", "-ec", script],
            "WorkingDir": SANDBOX_HOME,
            "HostConfig": {"Binds": [f"{volume}:{SANDBOX_HOME}"], "NetworkMode": "none"},
        }
        container = await self.client.containers.run(config)
        try:
            assert (await container.wait())["StatusCode"] == 0
        finally:
            await container.delete(force=True)
        files = await self.asking.home_files("h1", source)
        assert files is not None
        return source, files


@pytest.fixture
async def engine() -> AsyncIterator[Engine]:
    installation = f"test-{uuid4().hex[:12]}"
    async with AsyncExitStack() as stack:
        client = await stack.enter_async_context(open_client())
        drivers = []
        for reaching in (True, False):
            own, traits = await open_engine(os.environ, Path.home())
            drivers.append(DockerDriver(own, installation, traits=traits, reaching_volumes=reaching))
            stack.push_async_callback(drivers[-1].aclose)
        stack.push_async_callback(remove_everything, client, installation)
        yield Engine(client, installation, drivers[0], drivers[1], stack)


async def content_of(files: HomeFiles, path: str) -> bytes:
    file = await files.open(read_path(path))
    try:
        return b"".join([piece async for piece in file.read(0, file.entry.size)])
    finally:
        await file.aclose()


async def pieces(content: bytes) -> AsyncIterator[bytes]:
    yield content


async def test_a_new_home_holds_what_the_image_has_there(engine: Engine) -> None:
    """As it would after a first start: also if something is uploaded before that. An image without programs will do."""
    image = await engine.imported(shipped="from the image")
    await engine.reaching.make_home("h1", image)
    for driver in (engine.reaching, engine.asking):
        files = await driver.home_files("h1", image)
        assert files is not None
        await files.write(read_path("dir/uploaded"), pieces(b"from outside"))
        assert {entry.path.name for entry in await files.list(HomePath())} == {"shipped", "dir"}
        assert await content_of(files, "shipped") == b"from the image"
        assert await content_of(files, "dir/uploaded") == b"from outside"
    labels = (await engine.client._query_json(f"volumes/cupola-{engine.installation}-h1"))["Labels"]
    assert labels == {"cupola.installation": engine.installation}


async def test_a_home_for_an_image_that_is_gone(engine: Engine) -> None:
    """There is nothing to bring along then, and the home is made all the same."""
    await engine.reaching.make_home("h1", ImageSource("cupola-homes-none:gone"))
    labels = (await engine.client._query_json(f"volumes/cupola-{engine.installation}-h1"))["Labels"]
    assert labels == {"cupola.installation": engine.installation}


async def test_without_rm_nothing_is_deleted(engine: Engine) -> None:
    """It is said what is missing, and what to do."""
    image = await engine.imported(shipped="from the image")
    await engine.asking.make_home("h1", image)
    files = await engine.asking.home_files("h1", image)
    assert files is not None
    with pytest.raises(Conflict, match="no program 'rm'"):
        await files.delete(read_path("shipped"), recursive=False)
    assert await content_of(files, "shipped") == b"from the image"


async def test_the_engine_follows_no_links_either(engine: Engine) -> None:
    """What leads out of the home is shown as a link, deleted as a link, replaced, and nothing else."""
    script = "ln -s /etc/passwd passwd; ln -s /etc etc; mkdir d; ln -s ../.. d/up; mkfifo pipe; touch file"
    _, files = await engine.trickster(script)
    shown = {entry.path.name: (entry.is_directory, entry.size) for entry in await files.list(HomePath())}
    assert shown == {"passwd": (False, 11), "etc": (False, 4), "d": (True, 0), "pipe": (False, 0), "file": (False, 0)}
    for path in map(read_path, ("passwd", "etc", "etc/passwd", "d/up/etc/passwd", "pipe", "file/inside")):
        for attempt in (files.open(path), files.list(path), files.make_directory(path.child("new"))):
            with pytest.raises(Conflict):
                await attempt
    with pytest.raises(Conflict):
        await files.write(read_path("etc/new"), pieces(b""))
    await files.write(read_path("passwd"), pieces(b"mine"))
    assert await content_of(files, "passwd") == b"mine"
    await files.delete(read_path("etc"), recursive=True)
    await files.delete(read_path("d"), recursive=True)
    with pytest.raises(NotFound):
        await files.stat(read_path("d"))


async def test_names_of_any_bytes_come_through_the_engine(engine: Engine) -> None:
    """Long ones, such as are no text, and such as begin like an option."""
    long = "ä" * 100
    _, files = await engine.trickster(f"touch {long}; touch $(printf 'a\\377b'); touch ./-rf")
    assert {entry.path.name for entry in await files.list(HomePath())} == {long, "a\\xffb", "-rf"}
    await files.write(read_path(f"{long}x/{long}"), pieces(b"long"))
    assert await content_of(files, f"{long}x/{long}") == b"long"
    await files.delete(read_path("-rf"), recursive=True)
    await files.delete(read_path(f"{long}x"), recursive=True)
    with pytest.raises(CupolaError):
        await files.stat(read_path("-rf"))


async def test_what_is_uploaded_belongs_to_the_owner_of_the_directory(engine: Engine) -> None:
    """On either way, so that the agent's user can do with it as it likes."""
    source, asking = await engine.trickster("mkdir theirs; chown 4711:4712 theirs")
    reaching = await engine.reaching.home_files("h1", source)
    assert reaching is not None
    for name, files in (("asking", asking), ("reaching", reaching)):
        await files.write(read_path(f"theirs/{name}/file"), pieces(b""))
        assert (await files.stat(read_path(f"theirs/{name}"))).mode == 0o777
        assert (await files.stat(read_path(f"theirs/{name}/file"))).mode == 0o666
    directory = Path((await engine.client._query_json(f"volumes/cupola-{engine.installation}-h1"))["Mountpoint"])
    if os.geteuid() != 0 or not directory.is_dir():
        pytest.skip("owners are seen by root on the engine's machine only")
    for path in ("asking", "asking/file", "reaching", "reaching/file"):
        seen = (directory / "theirs" / path).stat()
        assert (seen.st_uid, seen.st_gid) == (4711, 4712), path
