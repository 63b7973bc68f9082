"""Rounds on real sandboxes: the server in a process of its own, killed at random times under a seeded client.

Everything is seen from outside: over HTTPS, in the process table or the engine, in the homes. One state directory and
one deployed agent last for all rounds; only the first start pays for deploying.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import signal
import ssl
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import psutil

from tests.kill.counts import Counts
from tests.kill.disk import full, small_disk
from tests.kill.invariants import Invariants
from tests.kill.promises import Promises, Session
from tests.kill.receipt import Receipt
from tests.kill.where import MARK, AsContainers, AsProcesses, Seen, Where
from tests.kill.workload import Step, Workload
from tests.support.platform import PROJECT
from tests.support.processes import marked
from tests.support.served import Platform, client_token, forget, free_port, in_engine, tls_context

AGENTS = ("a1",)
_ACTORS = 3
_STEPS = 4
_LONGEST = 0.8
"""Seconds into the workload up to which a kill comes."""
_LONGEST_START = 0.6
_PATIENCE = 60.0
_MEAL = 18
"""Portions of 64 MiB: a little more than the sandboxes may use."""
_SETTINGS = {
    "CUPOLA_MAX_SANDBOXES": "6",
    "CUPOLA_IDLE_TIMEOUT": "4",
    "CUPOLA_ORPHAN_GRACE": "2",
    "CUPOLA_STOP_GRACE": "1",
    "CUPOLA_LOG_FORMAT": "json",
}


class ServedPlatform:
    """The server, and the client that asks it. `dead` from the moment in which it is about to be killed."""

    def __init__(self, folder: Path, kind: str) -> None:
        self.state = folder / "disk" / "state"
        self.disk: Path | None = None
        self.log = folder / "log"
        self.mark = uuid4().hex
        self.where: Where = AsProcesses(self.mark) if kind == "process" else AsContainers(self.state)
        self.dead = True
        self.sprung = False
        self.pid = 0
        self._port = free_port()
        self._launcher: asyncio.subprocess.Process | None = None
        self._http: httpx.AsyncClient | None = None
        self._token = ""
        self._trusted: ssl.SSLContext | None = None

    async def open(self) -> None:
        arguments = ["up", "--state-dir", str(self.state), "--port", str(self._port), "--driver", self.where.name]
        with self.log.open("ab") as output:
            self._launcher = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "tests.kill.launcher",
                *arguments,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=output,
                env={**os.environ, **_SETTINGS},
            )
        await self.start()

    async def begin(self) -> int:
        """Begins to start, and does not wait."""
        assert self._launcher is not None
        assert self._launcher.stdin is not None
        assert self._launcher.stdout is not None
        self._launcher.stdin.write(b"\n")
        self.pid = int(await self._launcher.stdout.readline())
        return self.pid

    async def start(self) -> None:
        """Returns when it serves."""
        await self.begin()
        async with asyncio.timeout(_PATIENCE):
            while not self._serves():
                await asyncio.sleep(0.01)
        if self._trusted is None:
            await self._sign_in()
        self._http = httpx.AsyncClient(
            base_url=f"https://localhost:{self._port}",
            verify=self._trusted or True,
            headers={"Authorization": f"Bearer {self._token}"},
            timeout=_PATIENCE / 2,
        )
        self.dead = False

    def _serves(self) -> bool:
        if not psutil.pid_exists(self.pid):
            raise AssertionError(f"the platform has ended by itself:\n{self.log.read_text()[-2000:]}")
        with contextlib.suppress(OSError, ValueError):
            return bool(json.loads((self.state / "running.json").read_bytes())["pid"] == self.pid)
        return False

    async def _sign_in(self) -> None:
        command = [sys.executable, "-m", "cupola", "env", "--format", "json", "--state-dir", str(self.state)]
        shown = await asyncio.create_subprocess_exec(*command, stdout=subprocess.PIPE)
        variables, _ = await shown.communicate()
        platform = Platform(self.state, json.loads(variables))
        self._token = await asyncio.to_thread(client_token, platform)
        self._trusted = tls_context(platform)

    async def kill(self) -> None:
        """SIGKILL; returns when the kernel is done with it."""
        self.dead = True
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)
        while psutil.pid_exists(self.pid):
            await asyncio.sleep(0.002)
        if self._http is not None:
            await self._http.aclose()

    async def terminate(self) -> None:
        """SIGTERM, as `cupola down` does."""
        self.dead = True
        os.kill(self.pid, signal.SIGTERM)
        async with asyncio.timeout(_PATIENCE):
            while psutil.pid_exists(self.pid):
                await asyncio.sleep(0.01)

    async def request(self, method: str, path: str, body: Any = None) -> Receipt:
        """Whatever was heard of the answer, also when the platform dies over it."""
        receipt = Receipt()
        http = self._http
        if self.dead or http is None:
            return receipt
        try:
            async with http.stream(method, path, json=body) as reply:
                receipt.status = reply.status_code
                receipt.headers = dict(reply.headers)
                async for chunk in reply.aiter_bytes():
                    receipt.chunks.append(chunk)
                receipt.whole = True
        except (httpx.TransportError, RuntimeError) as error:  # RuntimeError: the client was closed under it
            if not self.dead and not self.sprung:
                raise AssertionError(f"{method} {path} was broken off, and nothing has died: {error!r}") from error
        return receipt

    async def deploy(self, agent: str) -> None:
        """One agent, active."""
        assert self._http is not None
        definition = {
            "kind": "hosted",
            "protocol_versions": [{"protocol": name, "version": "2.0.0"} for name in ("responses", "invocations")],
            "environment_variables": {MARK: self.mark},
            "cpu": "0.5",
            "memory": "1Gi",
        }
        created = await self._http.post(f"{PROJECT}/agents", **self.where.upload(agent, definition))
        assert created.status_code in (200, 201), created.text
        async with asyncio.timeout(_PATIENCE):
            while (version := await self._version(agent))["status"] == "creating":
                await asyncio.sleep(0.05)
        assert version["status"] == "active", version

    async def _version(self, agent: str) -> Mapping[str, Any]:
        assert self._http is not None
        found: Mapping[str, Any] = (await self._http.get(f"{PROJECT}/agents/{agent}/versions/1")).json()
        return found

    async def running(self) -> list[str]:
        """The sessions whose sandboxes the platform says it runs, warm ones too."""
        assert self._http is not None
        status = (await self._http.get("/cupola/status")).json()
        return [live["session"] for live in status["running"]]

    async def aclose(self) -> None:
        """Leaves nothing behind, whatever state it is in."""
        if self.pid:
            await self.kill()
        if self._launcher is not None and self._launcher.stdin is not None:
            self._launcher.stdin.close()
            await self._launcher.wait()
        for process, _ in marked(MARK, self.mark):
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        forget(self.state)

    def left(self) -> list[str]:
        """What is there outside the state directory after a clean end."""
        installation = (self.state / "id").read_text().strip()
        kinds = ("container", "network") if self.where.name == "docker" else ()
        return [f"{kind} {name}" for kind in kinds for name in in_engine(kind, installation)] + [
            f"process {process.pid}" for process, _ in marked(MARK, self.mark)
        ]


class InvariantsServed(Invariants):
    """What can be seen of real sandboxes."""

    tells_homes_apart = False

    served = 2

    def __init__(self, platform: ServedPlatform, promises: Promises, counts: Counts, dice: random.Random) -> None:
        super().__init__(platform, AGENTS, promises, counts, dice)
        self._platform = platform

    async def settle(self) -> None:
        """The platform makes its passes by itself."""
        await asyncio.sleep(0.01)

    async def is_starting(self, session: Session) -> bool:
        """It comes to something within a minute."""
        deadline = asyncio.get_running_loop().time() + _PATIENCE
        path = f"{PROJECT}/agents/{session.agent}/endpoint/sessions/{session.id}"
        while (await self.get(path)).json()["status"] == "creating":
            if asyncio.get_running_loop().time() > deadline:
                return False
            await asyncio.sleep(0.05)
        return True

    async def files_of(self, session: Session) -> set[str] | None:
        """Names of files are unique: that one is in any home is enough; its agent is asked whether it sees it."""
        return self._platform.where.kept(self._platform.state)

    async def look_at_sandboxes(self) -> None:
        """They are those that the platform says it runs; what is not is gone after the grace."""
        deadline = asyncio.get_running_loop().time() + _PATIENCE / 4
        while True:
            says = Counter(await self._platform.running())
            seen = await self._platform.where.seen()
            count = Counter(one.session for one in seen)
            for session, sandboxes in count.items():
                if sandboxes > 1:
                    self.lost(f"session {session} has {sandboxes} sandboxes")
                    return
            if count == says:
                self._counts.kept["sandboxes"] += len(seen)
                return
            if asyncio.get_running_loop().time() > deadline:
                self.orphan(f"what runs is {sorted(count)}, and the platform says {sorted(says)}")
                return
            await asyncio.sleep(0.05)


class ServedWorkload(Workload):
    """The client's steps; requests come without a pause, so real sandboxes are fewer."""

    def steps(self) -> dict[Step, int]:
        return {**super().steps(), self.create_session: 1, self.create_named_session: 1}


async def kill_on_served(folder: Path, kind: str, seed: int, rounds: int, counts: Counts) -> None:
    """So many rounds on `process` or `docker`; what is found goes to `counts`."""
    dice = random.Random(seed)
    async with served(folder, kind) as platform:
        if not platform.disk:
            counts.left_out.append(f"full disks on {kind}: a small file system cannot be mounted here")
        await platform.deploy(AGENTS[0])
        life = _Life(platform, dice, counts)
        for number in range(rounds):
            await life.round(number)
        await life.end()


@asynccontextmanager
async def served(folder: Path, kind: str) -> AsyncGenerator[ServedPlatform]:
    """A platform that serves, with its state on a small disk of its own where one can be had."""
    with small_disk(folder / "disk") as is_small:
        platform = ServedPlatform(folder, kind)
        platform.disk = folder / "disk" if is_small else None
        try:
            await platform.open()
            yield platform
        finally:
            await platform.aclose()


class _Life:
    """What is killed again and again."""

    def __init__(self, platform: ServedPlatform, dice: random.Random, counts: Counts) -> None:
        self._platform = platform
        self._dice = dice
        self._counts = counts
        self._promises = Promises()
        self._workload = ServedWorkload(platform, AGENTS, self._promises, counts, dice)
        self._invariants = InvariantsServed(platform, self._promises, counts, dice)
        self._kinds: Mapping[str, Callable[[], Any]] = {
            "server": self._kill_server,
            "sandbox": self._kill_sandbox,
            "engine": self._kill_all,
            "server and engine": self._kill_both,
            "memory": self._exhaust_memory,
            "disk": self._fill_disk,
        }

    async def round(self, number: int) -> None:
        """One kill in the middle of everything, and a look at what is left."""
        (kind,) = self._dice.choices(list(self._kinds), weights=[12, 3, 2, 2, 1, 2 if self._platform.disk else 0])
        after = self._dice.random() * _LONGEST
        where = f"{self._platform.where.name} round {number} ({kind} after {after:.3f} s)"
        self._workload.where = where
        self._platform.sprung = False
        async with asyncio.TaskGroup() as tasks:
            for _ in range(_ACTORS):
                tasks.create_task(self._workload.actor(_STEPS))
            tasks.create_task(self._kill_after(after, kind))
        self._counts.rounds[self._platform.where.name] += 1
        self._counts.kills[kind] += 1
        if self._platform.dead:
            await self._start_again()
        await self._invariants.look(where)

    async def _kill_after(self, seconds: float, kind: str) -> None:
        await asyncio.sleep(seconds)
        self._platform.sprung = True
        await self._kinds[kind]()

    async def _start_again(self) -> None:
        """Sometimes that is killed as well."""
        while self._dice.random() < 0.2:
            await self._platform.begin()
            await asyncio.sleep(self._dice.random() * _LONGEST_START)
            await self._platform.kill()
            self._counts.kills["server while it began"] += 1
        await self._platform.start()

    async def _kill_server(self) -> None:
        await self._platform.kill()

    async def _kill_sandbox(self) -> None:
        if seen := await self._platform.where.seen():
            await self._platform.where.kill(self._dice.choice(sorted(seen, key=_by_session)))

    async def _kill_all(self) -> None:
        """What an engine that starts again does to sandboxes."""
        for sandbox in await self._platform.where.seen():
            await self._platform.where.kill(sandbox)

    async def _kill_both(self) -> None:
        await self._platform.kill()
        await self._kill_all()

    async def _exhaust_memory(self) -> None:
        """One sandbox eats more than it may."""
        for session in self._promises.there()[:1]:
            path = f"{PROJECT}/agents/{session.agent}/endpoint/protocols/invocations?agent_session_id={session.id}"
            await self._platform.request("POST", path, {"eat": _MEAL})

    async def _fill_disk(self) -> None:
        """No room for a while."""
        assert self._platform.disk is not None
        with full(self._platform.disk):
            await asyncio.sleep(self._dice.random() * _LONGEST)

    async def end(self) -> None:
        """Every session that is left serves and sees its files; after a clean end nothing is left outside."""
        self._invariants.served = len(self._promises.there())
        await self._invariants.look(f"{self._platform.where.name} at the end")
        await self._platform.terminate()
        self._counts.orphans += [f"{self._platform.where.name} at the end: {left}" for left in self._platform.left()]


def _by_session(sandbox: Seen) -> str:
    return sandbox.session
