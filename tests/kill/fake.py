"""Rounds on fake sandboxes: a seeded workload, a kill at a random point of it, a start, and a look at everything.

Some rounds share one state directory (a life), so that what one kill has left is there at the next. A seed draws the
same workload and the same kills again; how tasks and the writer's thread take turns is the machine's.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from cupola.drivers.fake import FakeSandbox
from cupola.gateway.background import Pauses
from cupola.installation import Installation
from cupola.settings import Settings
from tests.kill.agents import Keeper
from tests.kill.counts import Counts
from tests.kill.invariants import Invariants
from tests.kill.mortal import Engine, MortalPlatform, Trap
from tests.kill.promises import Promises
from tests.kill.workload import AGENTS, Workload

ROUNDS_IN_A_LIFE = 20
_SETTINGS: Mapping[str, Any] = {"stop_grace": 1, "max_sandboxes": 12}
_ACTORS = 4
_STEPS = 4
_MOST_POINTS = 400
_MOST_POINTS_OF_A_START = 40
_PAUSES = Pauses(first=0.001, longest=0.005)
_STEPS_OF_THE_CLOCK = (3600, -3600, 40 * 86400, -40 * 86400, 0.5, -0.5)


async def kill_on_fake(folder: Path, seed: int, rounds: int, counts: Counts) -> None:
    """So many rounds; what is found goes to `counts`."""
    dice = random.Random(seed)
    for first in range(0, rounds, ROUNDS_IN_A_LIFE):
        await _life(folder / str(first), dice, range(first, min(first + ROUNDS_IN_A_LIFE, rounds)), counts)


async def _life(folder: Path, dice: random.Random, rounds: range, counts: Counts) -> None:
    engine = Engine()
    engine.behaviour = Keeper().behaviour
    settings = Settings(state_dir=folder / "state", cache_dir=folder / "cache", **_SETTINGS)
    with Installation.open(settings.state_dir) as installation:
        platform = MortalPlatform(installation, settings, engine, Trap(dice))
        await platform.open()
        try:
            life = _Life(platform, dice, counts)
            await life.begin()
            for number in rounds:
                await life.round(number)
        finally:
            await platform.aclose()
            await engine.aclose()


class _Life:
    """What is killed again and again."""

    def __init__(self, platform: MortalPlatform, dice: random.Random, counts: Counts) -> None:
        self._platform = platform
        self._trap = platform.trap
        self._dice = dice
        self._counts = counts
        promises = Promises()
        self._workload = Workload(platform, promises, counts, dice)
        self._invariants = Invariants(platform, promises, counts, dice)
        self._kinds: Mapping[str, Callable[[], None]] = {
            "server": self._trap.kill,
            "sandbox": self._crash_a_sandbox,
            "memory": self._run_out_of_memory,
            "engine": self._restart_the_engine,
            "disk": self._fill_the_disk,
            "clock": self._step_the_clock,
        }

    async def begin(self) -> None:
        """One version of each agent, which nothing disturbs."""
        for agent in AGENTS:
            await self._workload.create_version(agent)
            await self._platform.settled(agent, "1")

    async def round(self, number: int) -> None:
        """One kill in the middle of everything, and a look at what is left."""
        (kind,) = self._dice.choices(list(self._kinds), weights=[10, 2, 1, 3, 2, 2])
        after = int(_MOST_POINTS ** self._dice.random())
        self._workload.where = f"round {number} ({kind} at point {after})"
        self._platform.platform.background.pauses = _PAUSES
        self._trap.set(after, self._kinds[kind])
        await self._work()
        self._trap.spring()
        self._counts.rounds["fake"] += 1
        self._counts.kills[kind] += 1
        if kind == "server" or self._dice.random() < 0.3:
            await self._restart(kind)
        self._trap.revive()
        self._platform.platform.background.pauses = _PAUSES
        await self._invariants.look(self._workload.where)

    async def _work(self) -> None:
        async with asyncio.TaskGroup() as actors:
            for _ in range(_ACTORS):
                actors.create_task(self._workload.actor(_STEPS))

    async def _restart(self, kind: str) -> None:
        """Starts again; sometimes that is killed as well."""
        if not self._trap.dead.is_set():
            self._counts.kills["server"] += kind != "server"
            self._trap.kill()
        await self._platform.crash()
        self._trap.revive()
        while self._dice.random() < 0.3:
            self._trap.set(self._dice.randint(1, _MOST_POINTS_OF_A_START), self._trap.kill)
            if await self._platform.start_again():
                self._trap.kill()
            self._counts.kills["server while it began"] += 1
            await self._platform.crash()
            self._trap.revive()
        await self._platform.open()

    # Kinds of kill

    def _crash_a_sandbox(self) -> None:
        for sandbox in self._some_sandbox():
            sandbox.exit(1)

    def _run_out_of_memory(self) -> None:
        for sandbox in self._some_sandbox():
            sandbox.run_out_of_memory()

    def _some_sandbox(self) -> list[FakeSandbox]:
        there = list(self._platform.engine.sandboxes.values())
        return [self._dice.choice(there)] if there else []

    def _restart_the_engine(self) -> None:
        """Away for a while; half the time it comes back without the sandboxes."""
        self._trap.away = self._dice.choice((0, 1, 3, 10, 30))
        if self._dice.random() < 0.6:
            self._platform.engine.restart()

    def _fill_the_disk(self) -> None:
        self._trap.disk_full = self._dice.choice((1, 2, 5, 20))

    def _step_the_clock(self) -> None:
        self._platform.clock.now += self._dice.choice(_STEPS_OF_THE_CLOCK)
