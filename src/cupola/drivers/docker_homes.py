"""Homes in an engine: volumes, made as the first start would make them, and the way to their files.

An engine that shares this host's kernel keeps its volumes where root reaches them (`host_files`). Elsewhere the engine
itself reads and writes them (`engine_files`).
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any
from uuid import uuid4

from aiodocker import Docker, DockerError
from aiodocker.containers import DockerContainer
from aiodocker.volumes import DockerVolume

from cupola.drivers.base import HomeFiles, ImageSource
from cupola.drivers.docker_container import (
    container_name,
    home_mount,
    home_name,
    labelled_home,
    own_labels,
)
from cupola.drivers.docker_engine import EngineTraits
from cupola.drivers.docker_errors import engine_errors, unless_gone
from cupola.drivers.engine_files import EngineFiles
from cupola.drivers.host_files import HostFiles
from cupola.drivers.threads import finished


class DockerHomes:
    """The homes of one installation in one engine. Without `reaching`, volumes are never touched directly."""

    def __init__(self, client: Docker, installation: str, *, reaching: bool = True) -> None:
        self._client = client
        self._installation = installation
        self._reaching = reaching

    async def make(self, home: str, image: ImageSource | None, traits: EngineTraits) -> None:
        """See `Driver.make_home`. Docker copies what the image has at HOME when it mounts a new volume."""
        with engine_errors("make a home"):
            if await self._volume(home) is not None:
                return
            if image is not None and not traits.podman:
                try:
                    async with self._over_home(home, image, ["never"]):
                        return
                except DockerError as error:
                    if error.status != 404:  # an image that is gone has nothing to copy
                        raise
            await self._client.volumes.create(labelled_home(home, self._installation))  # type: ignore[no-untyped-call]  # aiodocker

    async def files(self, home: str, image: ImageSource | None, traits: EngineTraits) -> HomeFiles | None:
        """See `Driver.home_files`."""
        with engine_errors("look for a home"):
            volume = await self._volume(home)
        if volume is None:
            return None
        directory = Path(volume["Mountpoint"])
        if self._reaching and traits.shares_kernel and await asyncio.to_thread(_reachable, directory):
            return HostFiles(directory, directory.parent, shared=True)
        assert image is not None, "code does not run in an engine"
        return EngineFiles(self._client, partial(self._over_home, home, image))

    async def _volume(self, home: str) -> Mapping[str, Any] | None:
        volume = DockerVolume(self._client, home_name(self._installation, home))  # type: ignore[no-untyped-call]  # aiodocker
        return await unless_gone(volume.show())  # type: ignore[no-untyped-call]  # aiodocker

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


def _reachable(directory: Path) -> bool:
    """Whether this process may do with a volume what the engine may: who is not root would lose the owners."""
    return hasattr(os, "geteuid") and os.geteuid() == 0 and directory.is_dir()
