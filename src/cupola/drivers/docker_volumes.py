"""Homes as volumes of a container engine: made, copied, deleted.

Where this process is root on the engine's own machine it copies the directory of the volume (`home_copy.py`), sharing
blocks where it can. Elsewhere (Docker Desktop, a rootless engine, a user of the docker group) the engine hands the
files over as an archive and takes them back: through a container that is made for it and never runs, so that any image
will do, one without a shell too.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path, PurePosixPath

import aiohttp
from aiodocker import Docker, DockerError
from aiodocker.containers import DockerContainer
from aiodocker.volumes import DockerVolume

from cupola.drivers.docker_connect import ANSWER_TIMEOUT
from cupola.drivers.docker_container import (
    SOURCE_HOME,
    TARGET_HOME,
    container_name,
    copying_config,
    home_name,
    labelled_home,
)
from cupola.drivers.docker_errors import engine_errors, unless_gone
from cupola.drivers.home_archive import ArchiveBroken, HomeArchive
from cupola.drivers.home_copy import Copying
from cupola.errors import Conflict, DriverUnavailable

PIECE = 1 << 18
"""Bytes of an archive that are passed on at once."""

_TIMEOUT = aiohttp.ClientTimeout(total=None, sock_connect=ANSWER_TIMEOUT, sock_read=None)
"""For a transfer, which takes as long as it takes: the engine may think for long before it sends anything."""


class HomeVolumes:
    """The volumes of one installation's homes."""

    def __init__(self, client: Docker, installation: str, *, reaching: bool = True) -> None:
        """Without `reaching`, directories of volumes are left alone even where this process could reach them."""
        self._client = client
        self._installation = installation
        self._reaching = reaching
        self._copying = Copying()

    async def make(self, home: str) -> None:
        """Makes the volume, labelled as ours; one that exists stays as it is."""
        await self._client.volumes.create(labelled_home(home, self._installation))  # type: ignore[no-untyped-call]  # aiodocker

    async def directory(self, home: str) -> Path | None:
        """Where the volume lies on the engine's machine; None when there is no such volume."""
        volume = self._volume(home)
        shown = await unless_gone(volume.show())  # type: ignore[no-untyped-call]  # aiodocker
        return None if shown is None else Path(shown["Mountpoint"])

    async def delete(self, home: str) -> None:
        """Removes the volume, and what a copy into it that was broken off has left. Unknown names are done."""
        volume = self._volume(home)
        with engine_errors("delete a home"):
            await self._remove_copier(home)
            try:
                await volume.delete()  # type: ignore[no-untyped-call]  # aiodocker
            except DockerError as error:
                if error.status == 409:
                    raise Conflict(f"The home {home} is in use by a sandbox: stop it first.") from error
                if error.status != 404:
                    raise

    async def copy(self, source: str, target: str, *, here: bool) -> int:
        """See `Driver.copy_home`. `here` says that the engine runs on this machine's own kernel."""
        await self.delete(target)
        with engine_errors("copy a home"):
            whence = await self.directory(source)
            if whence is None:
                return 0
            await self.make(target)
            whither = await self.directory(target)
            if whither is not None and here and self._reaching and await asyncio.to_thread(_reachable, whence, whither):
                return await self._copying.copy(whence, whither)
            return await self._copy_through_engine(source, target)

    def _volume(self, home: str) -> DockerVolume:
        return DockerVolume(self._client, home_name(self._installation, home))  # type: ignore[no-untyped-call]  # aiodocker

    def close(self) -> None:
        self._copying.close()

    async def _copy_through_engine(self, source: str, target: str) -> int:
        container = await self._make_copier(source, target)
        try:
            return await self._pass_archive(container)
        except ArchiveBroken as error:
            raise Conflict(
                f"The home {source} changed while it was copied: stop its session first, or try again ({error})."
            ) from error
        finally:
            await asyncio.shield(self._remove_copier(target))

    async def _make_copier(self, source: str, target: str) -> DockerContainer:
        images = await self._client.images.list()
        if not images:
            raise DriverUnavailable("The container engine holds no image, and to copy a home it needs any: pull one.")
        names = [home_name(self._installation, home) for home in (source, target)]
        config = copying_config(str(images[0]["Id"]), *names)
        return await self._client.containers.create(config, name=self._copier(target))

    def _copier(self, target: str) -> str:
        """By its name a container that a crash has left is found when its target is copied again or deleted."""
        return container_name(self._installation, f"copy-{target}")

    async def _remove_copier(self, target: str) -> None:
        await unless_gone(self._client.containers.container(self._copier(target)).delete(force=True))

    async def _pass_archive(self, container: DockerContainer) -> int:
        archive, path = HomeArchive(), f"containers/{container.id}/archive"
        taking = self._client._query(path, params={"path": SOURCE_HOME}, timeout=_TIMEOUT)
        async with taking as taken:
            giving = self._client._query(
                path,
                "PUT",
                params={"path": str(PurePosixPath(TARGET_HOME).parent)},
                data=_filtered(archive, taken),
                headers={"content-type": "application/x-tar"},
                timeout=_TIMEOUT,
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


def _reachable(*directories: Path) -> bool:
    """Whether this process may do with volumes what the engine may: another user would lose their owners."""
    return hasattr(os, "geteuid") and os.geteuid() == 0 and all(map(Path.is_dir, directories))
