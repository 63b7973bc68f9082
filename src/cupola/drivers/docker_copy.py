"""Copies of homes through the engine, for where this process does not reach their volumes.

The engine hands the files over as an archive and takes them back: through a container that is made for it and never
runs, so that any image will do, one without a shell too.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import PurePosixPath

import aiohttp
from aiodocker import Docker
from aiodocker.containers import DockerContainer

from cupola.drivers.docker_connect import TRANSFER
from cupola.drivers.docker_container import SOURCE_HOME, TARGET_HOME, container_name, copying_config, home_name
from cupola.drivers.docker_errors import unless_gone
from cupola.drivers.home_archive import ArchiveBroken, HomeArchive
from cupola.errors import Conflict, DriverUnavailable

PIECE = 1 << 18
"""Bytes of an archive that are passed on at once."""


class EngineCopy:
    """Copies of one installation's homes, volume to volume."""

    def __init__(self, client: Docker, installation: str) -> None:
        self._client = client
        self._installation = installation

    async def copy(self, source: str, target: str) -> int:
        """Both volumes are there, and the target's is empty. Returns the bytes of the files."""
        container = await self.begin(source, target)
        try:
            return await self._pass_archive(container)
        except ArchiveBroken as error:
            raise Conflict(
                f"The home {source} changed while it was copied: stop its session first, or try again ({error})."
            ) from error
        finally:
            await asyncio.shield(self.remove(target))

    async def begin(self, source: str, target: str) -> DockerContainer:
        """The container through which the files go: made, never started."""
        images = await self._client.images.list()
        if not images:
            raise DriverUnavailable("The container engine holds no image, and to copy a home it needs any: pull one.")
        names = [home_name(self._installation, home) for home in (source, target)]
        config = copying_config(str(images[0]["Id"]), *names)
        return await self._client.containers.create(config, name=self._name(target))

    def _name(self, target: str) -> str:
        """By its name a container that a crash has left is found when its target is copied again or deleted."""
        return container_name(self._installation, f"copy-{target}")

    async def remove(self, target: str) -> None:
        """Removes what a copy into `target` that was broken off has left."""
        await unless_gone(self._client.containers.container(self._name(target)).delete(force=True))

    async def _pass_archive(self, container: DockerContainer) -> int:
        archive, path = HomeArchive(), f"containers/{container.id}/archive"
        taking = self._client._query(path, params={"path": SOURCE_HOME}, timeout=TRANSFER)
        async with taking as taken:
            giving = self._client._query(
                path,
                "PUT",
                params={"path": str(PurePosixPath(TARGET_HOME).parent)},
                data=_filtered(archive, taken),
                headers={"content-type": "application/x-tar"},
                timeout=TRANSFER,
            )
            async with giving:
                return archive.size


async def _filtered(archive: HomeArchive, taken: aiohttp.ClientResponse) -> AsyncIterator[bytes]:
    try:
        async for piece in taken.content.iter_chunked(PIECE):
            for passed in archive.feed(piece):
                yield passed
    except aiohttp.ClientPayloadError as error:
        raise ArchiveBroken(str(error)) from error
    yield archive.end()
