"""Which driver runs a definition, and making its source startable there.

Images go to the container engine, code to child processes. An engine that was not there at the start is looked for
again when an image asks for it, so that `systemctl start docker` is enough to mend a failed deployment.
"""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import structlog

from cupola.agents import AgentVersion, Definition, Phase
from cupola.drivers.base import ImageSource, Source
from cupola.errors import DriverUnavailable, StartFailed
from cupola.sandboxes.build import build
from cupola.sandboxes.start import Place

log = structlog.get_logger()

OnPhase = Callable[[Phase], Awaitable[None]]
FindPlace = Callable[[], Awaitable[Place]]


@dataclass(frozen=True, slots=True)
class Prepared:
    """A source that its place can start, and what the caller should know about it."""

    source: Source
    warnings: tuple[str, ...] = ()


class Places:
    """The drivers of this installation. `images` and `code` connect to one, or raise DriverUnavailable."""

    def __init__(self, *, images: FindPlace, code: FindPlace, packages: Path, builds: Path, environments: Path) -> None:
        self._finders: Mapping[str, FindPlace] = {"images": images, "code": code}
        self._found: dict[str, Place] = {}
        self._packages = packages
        self._builds = builds
        self._environments = environments
        self._prepared: dict[str, Prepared] = {}

    async def of(self, definition: Definition) -> Place:
        """Where `definition` runs. Raises StartFailed in phase validate when nothing here can run it."""
        kind = "code" if definition.image is None else "images"
        try:
            return await self._find(kind)
        except DriverUnavailable as error:
            raise StartFailed(
                error.message,
                phase="validate",
                code="ImageError",
                details=[{"code": "CapabilityHostNotFound", "message": error.message}],
            ) from error

    async def images(self) -> Place:
        """Where images run. Raises DriverUnavailable."""
        return await self._find("images")

    async def keeping(self, definition: Definition) -> Place:
        """Where the homes of the sessions of `definition` are. Raises DriverUnavailable."""
        return await self._find("code" if definition.image is None else "images")

    async def _find(self, kind: str) -> Place:
        place = self._found.get(kind)
        if place is None:
            place = self._found[kind] = await self._finders[kind]()
        return place

    def found(self) -> list[Place]:
        """The places that were needed so far."""
        return list(self._found.values())

    async def all(self) -> list[Place]:
        """All places, each once. Raises DriverUnavailable when one cannot be reached."""
        places = [await self._find(kind) for kind in self._finders]
        return list({place.driver.name: place for place in places}.values())

    async def every(self) -> list[Place]:
        """All places that can be reached now, each once."""
        found: dict[str, Place] = {}
        for kind in self._finders:
            try:
                place = await self._find(kind)
            except DriverUnavailable as error:
                log.info("no driver", runs=kind, reason=error.message)
                continue
            found[place.driver.name] = place
        return list(found.values())

    async def prepare(self, version: AgentVersion, place: Place, on_phase: OnPhase | None = None) -> Prepared:
        """Pulls or builds what `version` runs, once per image or zip. Raises StartFailed."""
        definition = version.definition
        key = _key(version)
        known = self._prepared.get(key)
        if known is not None:
            return known
        report = log.bind(agent=version.agent, version=version.version).info
        if definition.image is not None:
            if on_phase is not None:
                await on_phase(Phase.PULL)
            wanted = ImageSource(definition.image, version.image_content)
            prepared = Prepared(await place.driver.prepare(wanted, report))
        else:
            assert definition.code is not None
            if on_phase is not None:
                await on_phase(Phase.BUILD)
            built = await build(
                self.package(definition.code.sha256),
                sha256=definition.code.sha256,
                runtime=definition.code.runtime,
                entry_point=definition.code.entry_point,
                dependency_resolution=definition.code.dependency_resolution,
                builds=self._builds,
                environments=self._environments,
                report=report,
            )
            prepared = Prepared(await place.driver.prepare(built.source, report), tuple(built.warnings))
        self._prepared[key] = prepared
        return prepared

    def forget(self, version: AgentVersion) -> None:
        """Prepares anew next time: what was prepared may have been removed behind our back."""
        self._prepared.pop(_key(version), None)

    async def identify(self, definition: Definition) -> str | None:
        """The engine's id of what the definition's image names now; None when that is not known here."""
        if definition.image is None:
            return None
        try:
            return await (await self.images()).driver.identify(definition.image)
        except DriverUnavailable:
            return None

    async def discard_code(self, sha256: str) -> None:
        """Removes an uploaded zip that no version runs any more, and what was unpacked from it."""
        await asyncio.to_thread(self.package(sha256).unlink, missing_ok=True)
        await asyncio.to_thread(shutil.rmtree, self._builds / sha256, ignore_errors=True)

    def package(self, sha256: str) -> Path:
        """Where the uploaded zip with that hash is kept."""
        return self._packages / f"{sha256}.zip"


def image_of(version: AgentVersion) -> ImageSource | None:
    """The very image that a version's sandboxes run; None for code."""
    image = version.definition.image
    return None if image is None else ImageSource(image, version.image_content)


def _key(version: AgentVersion) -> str:
    definition = version.definition
    if definition.image is not None:
        return f"{definition.image}@{version.image_content}"
    return f"{version.agent}:{definition.digest()}"
