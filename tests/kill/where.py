"""The real places where sandboxes run, from outside: what runs there, whose it is, and what its home holds."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from cupola.drivers.base import LABEL_INSTALLATION, LABEL_SANDBOX, LABEL_SESSION
from tests.support.multipart import upload
from tests.support.processes import marked
from tests.support.served import built_image

AGENT = Path(__file__).parent / "agent"
MARK = "KILL_MARK"


@dataclass(frozen=True, slots=True)
class Seen:
    """A sandbox that runs: which session's, its own id, and how to kill it."""

    session: str
    id: str
    handle: str


class Where(Protocol):
    """A place."""

    name: str

    def upload(self, agent: str, definition: Mapping[str, Any]) -> dict[str, Any]:
        """The arguments of the call that creates `agent`."""

    async def seen(self) -> list[Seen]:
        """The sandboxes of the platform that run now."""

    async def kill(self, sandbox: Seen) -> None:
        """SIGKILL, behind the platform's back."""

    def kept(self, state: Path) -> set[str] | None:
        """The names of all files in all homes; None where they cannot be seen from outside."""


class AsProcesses:
    """Child processes, known by a variable of their environment."""

    name = "process"

    def __init__(self, mark: str) -> None:
        self._mark = mark

    def upload(self, agent: str, definition: Mapping[str, Any]) -> dict[str, Any]:
        return upload(agent, definition, (AGENT / "main.py").read_text())

    async def seen(self) -> list[Seen]:
        found: dict[tuple[str, str], list[int]] = defaultdict(list)
        for process, environment in marked(MARK, self._mark):
            found[(environment["FOUNDRY_AGENT_SESSION_ID"], environment["IDENTITY_HEADER"])].append(process.pid)
        return [Seen(session, header[:12], str(max(pids))) for (session, header), pids in found.items()]

    async def kill(self, sandbox: Seen) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(int(sandbox.handle), signal.SIGKILL)

    def kept(self, state: Path) -> set[str] | None:
        return {path.name for path in (state / "process" / "homes").glob("*/f*")} | {
            path.name for path in (state / "process" / "homes").glob("*/t*")
        }


class AsContainers:
    """Containers, known by their labels."""

    name = "docker"

    def __init__(self, state: Path) -> None:
        self._state = state

    def upload(self, agent: str, definition: Mapping[str, Any]) -> dict[str, Any]:
        return {"json": {"name": agent, "definition": {**definition, "image": built_image("kill", AGENT)}}}

    async def seen(self) -> list[Seen]:
        installation = (self._state / "id").read_text().strip()
        shown = f'{{{{.Label "{LABEL_SESSION}"}}}} {{{{.Label "{LABEL_SANDBOX}"}}}} {{{{.ID}}}}'
        label = f"label={LABEL_INSTALLATION}={installation}"
        lines = await _docker("ps", "--no-trunc", "--filter", label, "--format", shown)
        return [Seen(*line.split()) for line in lines.splitlines()]

    async def kill(self, sandbox: Seen) -> None:
        await _docker("kill", sandbox.handle)

    def kept(self, state: Path) -> set[str] | None:
        return None


async def _docker(*arguments: str) -> str:
    """What the engine's command printed; one that failed printed nothing: what it was about is gone."""
    done = await asyncio.to_thread(
        subprocess.run, ["docker", *arguments], capture_output=True, text=True, timeout=60, check=False
    )
    return done.stdout
