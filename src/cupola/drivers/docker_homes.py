"""Homes in an engine: made as the first start would make them, read and written, copied, deleted.

Where this process reaches their volumes (`docker_volumes`) it works in them itself: `host_files`, and `home_copy`,
which shares blocks where it can. Elsewhere the engine does it: `engine_files`, `docker_copy`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Any
from uuid import uuid4

from aiodocker import Docker, DockerError
from aiodocker.containers import DockerContainer

from cupola.drivers.base import HomeFiles, ImageSource
from cupola.drivers.docker_container import container_name, home_mount, own_labels
from cupola.drivers.docker_copy import EngineCopy
from cupola.drivers.docker_engine import EngineTraits
from cupola.drivers.docker_errors import engine_errors, unless_gone
from cupola.drivers.docker_volumes import HomeVolumes
from cupola.drivers.engine_files import EngineFiles
from cupola.drivers.home_copy import Copying
from cupola.drivers.host_files import HostFiles
from cupola.drivers.threads import finished
from cupola.errors import Conflict


class DockerHomes:
    """The homes of one installation in one engine. `reaching`: see `HomeVolumes`."""

    def __init__(self, client: Docker, installation: str, *, reaching: bool = True) -> None:
        self._client = client
        self._installation = installation
        self._volumes = HomeVolumes(client, installation, reaching=reaching)
        self._copying = Copying()
        self._copying_through = EngineCopy(client, installation)

    async def make(self, home: str, image: ImageSource | None, traits: EngineTraits) -> None:
        """See `Driver.make_home`. Docker copies what the image has at HOME when it mounts a new volume."""
        with engine_errors("make a home"):
            if await self._volumes.directory(home) is not None:
                return
            if image is not None and not traits.podman:
                try:
                    async with self._over_home(home, image, ["never"]):
                        return
                except DockerError as error:
                    if error.status != 404:  # an image that is gone has nothing to copy
                        raise
            await self._volumes.make(home)

    async def files(self, home: str, image: ImageSource | None, traits: EngineTraits) -> HomeFiles | None:
        """See `Driver.home_files`."""
        with engine_errors("look for a home"):
            directory = await self._volumes.directory(home)
        if directory is None:
            return None
        if await self._volumes.reaches(traits, directory):
            return HostFiles(directory, directory.parent, shared=True)
        assert image is not None, "code does not run in an engine"
        return EngineFiles(self._client, partial(self._over_home, home, image))

    async def copy(self, source: str, target: str, traits: EngineTraits) -> int:
        """See `Driver.copy_home`."""
        await self.delete(target)
        with engine_errors("copy a home"):
            whence = await self._volumes.directory(source)
            if whence is None:
                return 0
            await self._volumes.make(target)
            whither = await self._volumes.directory(target)
            if whither is not None and await self._volumes.reaches(traits, whence, whither):
                return await self._copying.copy(whence, whither)
            return await self._copying_through.copy(source, target)

    async def delete(self, home: str) -> None:
        """See `Driver.delete_home`. What a broken copy into it has left goes first: that holds the volume."""
        with engine_errors("delete a home"):
            await self._copying_through.remove(home)
            try:
                await self._volumes.remove(home)
            except DockerError as error:
                if error.status == 409:
                    raise Conflict(f"The home {home} is in use by a sandbox: stop it first.") from error
                if error.status != 404:
                    raise

    def close(self) -> None:
        self._copying.close()

    @asynccontextmanager
    async def _over_home(self, home: str, image: ImageSource, command: Sequence[str]) -> AsyncIterator[DockerContainer]:
        """A container of the home's own image, as another's would be no better kept from the home than its agent is.

        It is labelled as a sandbox: what a crash leaves of it is removed as one.
        """
        sandbox_id = f"files-{uuid4().hex}"
        config: dict[str, Any] = {
            "Image": image.content or image.image,
            "Entrypoint": list(command),
            "User": "0:0",
            "Labels": own_labels(self._installation, sandbox_id),
            "HostConfig": {
                "NetworkMode": "none",
                "ReadonlyRootfs": True,
                "CapDrop": ["ALL"],
                "CapAdd": ["DAC_OVERRIDE", "FOWNER"],
                "SecurityOpt": ["no-new-privileges"],
                "Mounts": [home_mount(home, self._installation)],
            },
        }
        container = await self._client.containers.create(config, name=container_name(self._installation, sandbox_id))
        try:
            yield container
        finally:
            await finished(unless_gone(container.delete(force=True)))
