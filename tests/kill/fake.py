"""Rounds on fake sandboxes: a seeded workload, a kill at a random point of it, a start, and a look at everything.

Some rounds share one state directory (a life), so that what one kill has left is there at the next. A seed draws the
same workload and the same kills again; how tasks and the writer's thread take turns is the machine's.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import Connection

from cupola.agents import VersionStatus
from cupola.drivers.fake import FakeSandbox
from cupola.gateway.background import Pauses
from cupola.installation import Installation
from cupola.settings import Settings
from cupola.store import agents as agent_rows
from cupola.store import sessions as session_rows
from tests.kill.agents import Keeper
from tests.kill.counts import Counts
from tests.kill.invariants_in_process import AGENTS, InvariantsInProcess
from tests.kill.mortal import Engine, MortalPlatform, Trap
from tests.kill.promises import Is, Promises, Session, Version
from tests.kill.workload import Step, Workload, own
from tests.support.platform import DEFINITION, PROJECT

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
    async with opened(folder, dice) as platform:
        life = _Life(platform, dice, counts)
        await life.begin()
        for number in rounds:
            await life.round(number)


@asynccontextmanager
async def opened(folder: Path, dice: random.Random) -> AsyncGenerator[MortalPlatform]:
    """A platform that can be killed, with its state in `folder`."""
    engine = Engine()
    engine.behaviour = Keeper().behaviour
    settings = Settings(state_dir=folder / "state", cache_dir=folder / "cache", **_SETTINGS)
    with Installation.open(settings.state_dir) as installation:
        platform = MortalPlatform(installation, settings, engine, Trap(dice))
        await platform.open()
        try:
            yield platform
        finally:
            await platform.aclose()
            await engine.aclose()


class InProcess(Workload):
    """What can be done to a platform in this process beside asking it: let time pass, make and delete versions."""

    def __init__(self, platform: MortalPlatform, promises: Promises, counts: Counts, dice: random.Random) -> None:
        super().__init__(platform, AGENTS, promises, counts, dice)
        self._platform = platform

    def steps(self) -> dict[Step, int]:
        return {
            **super().steps(),
            self.create_some_version: 1,
            self.delete_version: 1,
            self.move: 2,
            self.resize_pool: 1,
            self.fill_pools: 2,
            self.let_time_pass: 2,
            self.look_for_orphans: 1,
            self.look_for_unfinished: 1,
        }

    async def create_some_version(self) -> None:
        await self.create_version(self._dice.choice(AGENTS))

    async def create_version(self, agent: str) -> None:
        definition = {**DEFINITION, "container_configuration": {"image": f"agent:{self._next()}"}}
        asked = {"definition": definition, "metadata": {"warm_pool": str(self._dice.randint(0, 2))}}
        answer = await self.send("POST", f"{PROJECT}/agents/{agent}/versions", asked)
        if answer is not None and answer.status == 200:
            name = answer.json()["version"]
            self._promises.versions[(agent, name)] = Version(agent, name)

    async def delete_version(self) -> None:
        """An old one of which nobody uses a session now; its sessions and their files end with it."""
        agent = self._dice.choice(AGENTS)
        there = self._versions_of(agent)
        if len(there) < 3 or not self._promises.may_delete:
            return
        version = there[0]
        with self._promises.deleting():
            bound = await self._platform.under(self._bound_to(version))
            if bound is None or any(session.busy or session.held for session in bound):
                return
            version.state = Is.OPEN
            for session in bound:
                self._promises.to(Is.OPEN, session)
            answer = await self.send("DELETE", f"{PROJECT}/agents/{agent}/versions/{version.name}?force=true")
        if answer is not None and answer.status == 200:
            version.state = Is.GONE
            for session in bound:
                self._promises.to(Is.GONE, session)

    async def _bound_to(self, version: Version) -> list[Session] | None:
        """Its sessions; None while new ones might begin on it."""
        key = ("demo", version.agent)

        def question(conn: Connection) -> list[Session] | None:
            newest, *_ = agent_rows.newest_versions(conn, *key, include_drafts=False)
            if newest.status is not VersionStatus.ACTIVE or newest.version == version.name:
                return None
            ids = {row.id for row in session_rows.sessions_of_version(conn, *key, version.name)}
            return [one for one in self._promises.there() if one.agent == version.agent and one.id in ids]

        return await self._platform.store.read(question)

    async def move(self) -> None:
        """To the newest version that was promised, which is not deleted."""
        session = self._any()
        if session is None:
            return
        target = self._versions_of(session.agent)[-1]
        session.version = None
        with self._held(session):
            asked = {"agent_version": target.name, "force": self._dice.random() < 0.5}
            answer = await self.send("POST", f"{own(session)}:move", asked, session=session)
        if answer is not None and answer.status == 200:
            session.version = target.name

    async def resize_pool(self) -> None:
        version = self._versions_of(self._dice.choice(AGENTS))[-1]
        path = f"/cupola/projects/demo/agents/{version.agent}/versions/{version.name}:warm"
        await self.send("POST", path, {"warm_pool": self._dice.randint(0, 3)})

    async def fill_pools(self) -> None:
        """What the platform does whenever something has changed."""
        self._platform.platform.warm.reconsider()
        await self._platform.pass_of(self._platform.platform.warm.once())

    def _versions_of(self, agent: str) -> list[Version]:
        return [one for one in self._promises.versions.values() if one.agent == agent and one.state is Is.THERE]

    async def let_time_pass(self) -> None:
        """Sometimes so much that whatever rests goes idle; a clock that was set wrongly is mended before that."""
        self._platform.clock.now += self._dice.choice((1, 30) if self._platform.clock.jump else (1, 30, 1000))
        await self._platform.pass_of(self._platform.platform.reaper.once())

    async def look_for_orphans(self) -> None:
        await self._platform.pass_of(self._platform.platform.orphans.once())

    async def look_for_unfinished(self) -> None:
        await self._platform.pass_of(self._platform.platform.unfinished.once())


class _Life:
    """What is killed again and again."""

    def __init__(self, platform: MortalPlatform, dice: random.Random, counts: Counts) -> None:
        self._platform = platform
        self._trap = platform.trap
        self._dice = dice
        self._counts = counts
        promises = Promises()
        self._workload = InProcess(platform, promises, counts, dice)
        self._invariants = InvariantsInProcess(platform, promises, counts, dice)
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
        self._platform.clock.jump = 0
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
        """The machine's clock is set wrongly; it is mended before the look."""
        self._platform.clock.jump += self._dice.choice(_STEPS_OF_THE_CLOCK)
