"""The volumes of homes in an engine, and whether this process reaches them itself.

An engine that shares this host's kernel keeps its volumes where root reaches them. Elsewhere (Docker Desktop, a
rootless engine, a user of the docker group) only the engine does.
"""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

from aiodocker import Docker
from aiodocker.volumes import DockerVolume

from cupola.drivers.docker_container import home_name, labelled_home
from cupola.drivers.docker_engine import EngineTraits
from cupola.drivers.docker_errors import unless_gone


class HomeVolumes:
    """The volumes of one installation's homes. Without `reaching`, they are never touched directly."""

    def __init__(self, client: Docker, installation: str, *, reaching: bool) -> None:
        self._client = client
        self._installation = installation
        self._reaching = reaching

    async def make(self, home: str) -> None:
        """Makes the volume, labelled as ours; one that exists stays as it is."""
        await self._client.volumes.create(labelled_home(home, self._installation))  # type: ignore[no-untyped-call]  # aiodocker

    async def directory(self, home: str) -> Path | None:
        """Where the volume lies on the engine's machine; None when there is no such volume."""
        shown = await unless_gone(self._volume(home).show())  # type: ignore[no-untyped-call]  # aiodocker
        return None if shown is None else Path(shown["Mountpoint"])

    async def remove(self, home: str) -> None:
        """Removes the volume. Raises `DockerError`: 404 for an unknown one, 409 for one in use."""
        await self._volume(home).delete()  # type: ignore[no-untyped-call]  # aiodocker

    async def reaches(self, traits: EngineTraits, *directories: Path) -> bool:
        """Whether this process may do with these what the engine may: who is not root would lose their owners."""
        return (
            self._reaching and traits.shares_kernel and _is_root() and await asyncio.to_thread(_are_here, directories)
        )

    def _volume(self, home: str) -> DockerVolume:
        return DockerVolume(self._client, home_name(self._installation, home))  # type: ignore[no-untyped-call]  # aiodocker


def _is_root() -> bool:
    return hasattr(os, "geteuid") and os.geteuid() == 0


def _are_here(directories: tuple[Path, ...]) -> bool:
    return all(map(Path.is_dir, directories))
