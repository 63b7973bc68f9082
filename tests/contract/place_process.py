"""The process driver as a place for the contract tests, in the three ways in which it can keep sandboxes apart."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal
from uuid import uuid4

from cupola.drivers.base import LABEL_INSTALLATION, LABEL_SANDBOX, CodeSource, Driver, SandboxSpec, Source
from cupola.drivers.process import ProcessDriver
from tests.contract.place import MIB, SCRIPTS, Agent


@dataclass(slots=True)
class Processes:
    """The place."""

    root: Path
    installation: str
    driver: Driver
    names_out_of_memory: bool
    bubblewrap: Path | Literal["auto"] | None
    name: str = "process"
    opened: list[Driver] = field(default_factory=list)

    async def restart(self) -> Driver:
        driver = ProcessDriver(self.root / "state", self.installation, bubblewrap=self.bubblewrap)
        self.opened.append(driver)
        return driver

    def source(self, agent: Agent) -> Source:
        directory = self.root / "code" / agent
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "main.py").write_text(SCRIPTS[agent])
        return CodeSource(directory, (), (sys._base_executable, "-s", "main.py"))  # type: ignore[attr-defined]  # absent from the stubs

    def spec(
        self,
        source: Source,
        *,
        home: str = "h1",
        memory: int = 256 * MIB,
        environment: Mapping[str, str] | None = None,
        labels: Mapping[str, str] | None = None,
    ) -> SandboxSpec:
        sandbox_id = uuid4().hex
        bundle = self.root / "ca.pem"
        bundle.write_text("certificates")
        return SandboxSpec(
            sandbox_id=sandbox_id,
            source=source,
            environment=environment or {},
            cpu=1.0,
            memory=memory,
            home=home,
            labels={LABEL_INSTALLATION: self.installation, LABEL_SANDBOX: sandbox_id, **(labels or {})},
            ca_bundle=bundle,
        )


@asynccontextmanager
async def open_place(
    tmp_path: Path, installation: str, bubblewrap: Path | Literal["auto"] | None = "auto"
) -> AsyncIterator[Processes]:
    """Everything that a test has left running is stopped at the end."""
    driver = ProcessDriver(tmp_path / "state", installation, bubblewrap=bubblewrap)
    surroundings = await driver.surroundings()
    place = Processes(
        tmp_path, installation, driver, "memory" in surroundings.limits, bubblewrap, opened=[driver]
    )
    try:
        yield place
    finally:
        for found in await driver.list():
            await driver.stop(found.handle, 0)
        for one in place.opened:
            await one.aclose()
