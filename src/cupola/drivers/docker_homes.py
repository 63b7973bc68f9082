"""Homes in an engine: volumes, made as the first start would make them, and the way to their files.

An engine that has this host's kernel and this process's powers keeps its volumes where this process reaches them.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any
from uuid import uuid4

from aiodocker import Docker, DockerError
from aiodocker.volumes import DockerVolume

from cupola.drivers.base import ImageSource
from cupola.drivers.docker_container import container_name, home_mount, home_name, home_volume, own_labels
from cupola.drivers.docker_engine import EngineTraits
from cupola.drivers.docker_errors import engine_errors, unless_gone
from cupola.drivers.host_files import HostFiles


class DockerHomes:
    """The homes of one installation in one engine."""

    def __init__(self, client: Docker, installation: str) -> None:
        self._client = client
        self._installation = installation

    async def make(self, home: str, image: ImageSource | None, traits: EngineTraits) -> None:
        """As `Driver.make_home`: what the image has at HOME is copied into the new volume, by Docker on creation."""
        with engine_errors("make a home"):
            if await self._show(home) is not None:
                return
            if image is None or traits.podman or not await self._mount_once(home, image):
                await self._client.volumes.create(home_volume(home, self._installation))  # type: ignore[no-untyped-call]  # aiodocker

    async def _mount_once(self, home: str, image: ImageSource) -> bool:
        """Creates a container that is never started, as the engine fills new volumes then; False without the image.

        It is labelled as a sandbox: what a crash leaves of it is removed as one.
        """
        sandbox_id = f"home-{uuid4().hex}"
        config: dict[str, Any] = {
            "Image": image.content or image.image,
            "Cmd": ["none"],
            "Labels": own_labels(self._installation, sandbox_id),
            "HostConfig": {"NetworkMode": "none", "Mounts": [home_mount(home, self._installation)]},
        }
        try:
            container = await self._client.containers.create(
                config, name=container_name(self._installation, sandbox_id)
            )
        except DockerError as error:
            if error.status != 404:
                raise
            return False
        await container.delete(force=True)
        return True

    async def files(self, home: str, traits: EngineTraits) -> HostFiles | None:
        """As `Driver.home_files`."""
        with engine_errors("look for a home"):
            volume = await self._show(home)
        if volume is None:
            return None
        directory = Path(volume["Mountpoint"])
        return HostFiles(directory, directory.parent, shared=True)

    async def _show(self, home: str) -> Mapping[str, Any] | None:
        volume = DockerVolume(self._client, home_name(self._installation, home))  # type: ignore[no-untyped-call]  # aiodocker
        return await unless_gone(volume.show())  # type: ignore[no-untyped-call]  # aiodocker
