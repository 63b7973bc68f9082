"""The process driver as a place for the contract tests, each way it keeps sandboxes apart."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from uuid import uuid4

from cupola.drivers.base import LABEL_INSTALLATION, LABEL_SANDBOX, CodeSource, Driver, SandboxSpec, Source
from cupola.drivers.fork_server import FORK
from cupola.drivers.process import ProcessDriver
from tests.contract.place import MIB, SCRIPTS, Agent

FORKED = "forked"

SERVE_AND_SAY_SO = """
    told = []
    server.service_actions = lambda: told or told.append(print("listening", flush=True))
    server.serve_forever()
"""


@dataclass(slots=True)
class Processes:
    """The place."""

    root: Path
    installation: str
    driver: Driver
    names_out_of_memory: bool
    variant: str
    name: str = "process"
    opened: list[Driver] = field(default_factory=list)

    @property
    def forks(self) -> bool:
        return self.variant.endswith(FORKED)

    async def restart(self) -> Driver:
        driver = make_driver(self.root, self.installation, self.variant)
        self.opened.append(driver)
        return driver

    def source(self, agent: Agent) -> Source:
        directory = self.root / "code" / agent
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "main.py").write_text(in_main_thread(SCRIPTS[agent]) if self.forks else SCRIPTS[agent])
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
            environment={**(environment or {}), **({FORK: "1"} if self.forks else {})},
            cpu=1.0,
            memory=memory,
            home=home,
            labels={LABEL_INSTALLATION: self.installation, LABEL_SANDBOX: sandbox_id, **(labels or {})},
            ca_bundle=bundle,
        )


def in_main_thread(script: str) -> str:
    """The agent as one that can be forked: it serves in its main thread, and asks for HOME when it needs it."""
    script = script.replace("HOME / ", 'pathlib.Path(os.environ["HOME"]) / ')
    script = script.replace('HOME = pathlib.Path(os.environ["HOME"])\n', "")
    return script.replace("threading.Thread(target=server.serve_forever, daemon=True).start()", SERVE_AND_SAY_SO)


def make_driver(root: Path, installation: str, variant: str) -> ProcessDriver:
    """The driver as it is here; `bare` without a box, `meagre` also without control groups, `forked` from a parent."""
    variant = variant.removesuffix(FORKED).rstrip("-")
    return ProcessDriver(
        root / "state",
        installation,
        bubblewrap=None if variant else "auto",
        groups=None if variant == "meagre" else "auto",
    )


@asynccontextmanager
async def open_place(tmp_path: Path, installation: str, variant: str = "") -> AsyncIterator[Processes]:
    """Everything that a test has left running is stopped at the end."""
    driver = make_driver(tmp_path, installation, variant)
    surroundings = await driver.surroundings()
    place = Processes(tmp_path, installation, driver, "memory" in surroundings.limits, variant, opened=[driver])
    try:
        yield place
    finally:
        for found in await driver.list():
            await driver.stop(found.handle, 0)
        for one in place.opened:
            await one.aclose()
