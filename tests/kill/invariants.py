"""What must be true after any kill, once the platform has had its passes."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection

from cupola.agents import VersionStatus
from cupola.drivers.base import LABEL_SANDBOX, LABEL_SESSION, Life
from cupola.sessions import Sandbox
from cupola.sessions import Session as SessionRow
from cupola.store import agents as agent_rows
from cupola.store import responses as response_rows
from cupola.store import sandboxes as sandbox_rows
from cupola.store import sessions as session_rows
from tests.kill.counts import Counts
from tests.kill.mortal import MortalPlatform
from tests.kill.promises import Is, Promises, Session
from tests.kill.workload import endpoint
from tests.support.platform import PROJECT, Answer

AGENTS = ("a1", "a2")
_SERVED = 3
"""Sessions of each round that are asked for something; all others are looked at."""
_PATIENCE = 10.0


class Invariants:
    """Looks, and says what is lost or owned by nobody."""

    def __init__(self, platform: MortalPlatform, promises: Promises, counts: Counts, dice: random.Random) -> None:
        self._platform = platform
        self._promises = promises
        self._counts = counts
        self._dice = dice
        self._where = ""

    async def look(self, where: str) -> None:
        """The passes that a platform makes within a minute, and then everything that was promised."""
        self._where = where
        await self._pass()
        await self._look_at_versions()
        await self._look_at_responses()
        await self._look_at_sessions()
        await self._look_at_talks()
        await self._serve_some()
        await self._look_at_sandboxes()

    async def _pass(self) -> None:
        platform = self._platform.platform
        for _ in range(3):
            await platform.reaper.once()
            await platform.orphans.once()
            await platform.unfinished.once()
            self._platform.clock.now += self._platform.settings.orphan_grace / 2 + 1
        await self._versions_settle()

    async def _versions_settle(self) -> None:
        for version in await self._platform.store.read(
            lambda conn: agent_rows.versions_in(conn, [VersionStatus.CREATING, VersionStatus.DELETING])
        ):
            settled = await self._platform.platform.versions.settled(version, _PATIENCE)
            if settled is not None and settled.status in (VersionStatus.CREATING, VersionStatus.DELETING):
                self._lost(f"version {version.agent}:{version.version} is {settled.status} for ever")

    async def _look_at_versions(self) -> None:
        for version in list(self._promises.versions.values()):
            answer = await self._get(f"{PROJECT}/agents/{version.agent}/versions/{version.name}")
            self._counts.kept["versions"] += 1
            if version.state is Is.THERE and answer.status != 200:
                self._lost(f"version {version.agent}:{version.name} was made and is answered {answer.status}")
            if version.state is Is.GONE and answer.status != 404:
                self._lost(f"version {version.agent}:{version.name} was deleted and is answered {answer.status}")
            if version.state is Is.OPEN:
                version.state = Is.THERE if answer.status == 200 else Is.GONE

    async def _look_at_sessions(self) -> None:
        for session in list(self._promises.sessions.values()):
            answer = await self._get(f"{endpoint(session.agent)}/sessions/{session.id}")
            self._counts.kept["sessions"] += 1
            if session.state is Is.THERE and answer.status != 200:
                self._lost(f"session {session.id} was there and is answered {answer.status}")
            if session.state is Is.GONE and answer.status != 404:
                self._lost(f"session {session.id} was deleted and is answered {answer.status}")
            if session.state is Is.OPEN:
                session.state = Is.THERE if answer.status == 200 else Is.GONE
            if session.state is Is.THERE:
                await self._look_at_home(session)
                starting = self._platform.platform.sandboxes.is_at_work_on(("demo", session.agent, session.id))
                if answer.json()["status"] == "creating" and not starting:
                    self._lost(f"session {session.id} is being created, and nobody is at it")
            else:
                del self._promises.sessions[(session.agent, session.id)]

    async def _look_at_home(self, session: Session) -> None:
        row = await self._row(session)
        files = self._platform.place.homes.get(row.home, {}) if row is not None else {}
        self._counts.kept["files"] += len(session.kept)
        missing = session.kept - set(files)
        if missing:
            self._lost(f"session {session.id} has lost {len(missing)} of {len(session.kept)} files")

    async def _look_at_talks(self) -> None:
        for talk in self._promises.talks.values():
            answer = await self._get(f"{endpoint(talk.agent)}/protocols/openai/v1/conversations/{talk.id}")
            self._counts.kept["conversations"] += 1
            if answer.status != 200:
                self._lost(f"conversation {talk.id} is answered {answer.status}")
                continue
            path = f"{endpoint(talk.agent)}/protocols/openai/v1/conversations/{talk.id}/items?limit=100&order=desc"
            items = (await self._get(path)).json()["data"]
            said = {part.get("text") for item in items for part in item.get("content", ())}
            lost = [text for text in talk.heard[-20:] if not {text, f"You said: {text}"} <= said]
            if lost:
                self._lost(f"conversation {talk.id} has lost {len(lost)} turns")

    async def _look_at_responses(self) -> None:
        for response_id, (status, _) in self._promises.responses.items():
            answer = await self._get(f"{endpoint('a1')}/protocols/openai/v1/responses/{response_id}", either=True)
            self._counts.kept["responses"] += 1
            if answer.status != 200 or answer.json()["status"] != status:
                self._lost(f"response {response_id} was {status} and is answered {answer.status}")
        self._promises.responses.clear()
        deadline = asyncio.get_running_loop().time() + _PATIENCE / 5
        while unfinished := await self._unfinished():
            if lost := [response for response in unfinished if not self._runs(response.session)]:
                self._lost(f"response {lost[0].id} is in progress, and its sandbox is dead")
                break
            if asyncio.get_running_loop().time() > deadline:
                self._lost(f"response {unfinished[0].id} is in progress, and nobody is at it")
                break
            await asyncio.sleep(0.002)
        for response_id in list(self._promises.begun):
            answer = await self._get(f"{endpoint('a1')}/protocols/openai/v1/responses/{response_id}", either=True)
            self._counts.kept["responses"] += 1
            body = answer.json() if answer.status == 200 else {}
            if body.get("status") not in ("completed", "failed", "cancelled"):
                self._lost(f"background response {response_id} is answered {answer.status} {body.get('status')}")
            elif body["status"] == "failed" and not body["error"]["message"]:
                self._lost(f"background response {response_id} failed without a reason")
            self._promises.begun.discard(response_id)

    async def _unfinished(self) -> Sequence[Any]:
        return await self._platform.store.read(lambda conn: response_rows.in_progress_responses(conn, None))

    def _runs(self, session_id: str | None) -> bool:
        return any(
            one.spec.labels[LABEL_SESSION] == session_id
            and one.observation is not None
            and one.observation.life is Life.RUNNING
            for one in self._platform.place.sandboxes.values()
        )

    async def _serve_some(self) -> None:
        there = self._promises.there()
        for session in self._dice.sample(there, min(_SERVED, len(there))):
            path = f"{endpoint(session.agent)}/protocols/invocations?agent_session_id={session.id}"
            answer = (await self._platform.request("POST", path, {})).answer
            self._counts.kept["requests"] += 1
            if answer is None or answer.status != 200:
                told = "not at all" if answer is None else f"{answer.status} {answer.body[:300]!r}"
                self._lost(f"session {session.id} is asked and answered {told}")
            elif missing := session.kept - set(answer.json()["files"]):
                self._lost(f"the sandbox of session {session.id} does not see {len(missing)} of its files")

    async def _look_at_sandboxes(self) -> None:
        engine = self._platform.engine
        self._counts.losses += [f"{self._where}: {twin}" for twin in engine.twins]
        engine.twins.clear()
        rows = {row.id: row for row in await self._platform.store.read(sandbox_rows.all_sandboxes)}
        owned = Counter(one.spec.labels[LABEL_SESSION] for one in engine.sandboxes.values())
        self._counts.kept["sandboxes"] += len(engine.sandboxes)
        for sandbox in engine.sandboxes.values():
            labels = sandbox.spec.labels
            if labels[LABEL_SANDBOX] not in rows:
                self._orphan(f"sandbox {labels[LABEL_SANDBOX]} of session {labels[LABEL_SESSION]} has no row")
        for session_id, count in owned.items():
            if count > 1:
                self._lost(f"session {session_id} has {count} sandboxes")
        for row in rows.values():
            if row.id not in engine.sandboxes:
                self._orphan(f"row {row.id} names a sandbox that is not there")
        await self._look_for_homes(rows.values())

    async def _look_for_homes(self, rows: Any) -> None:
        def sessions(conn: Connection) -> set[str]:
            return {
                row.home
                for agent in AGENTS
                for version in agent_rows.newest_versions(conn, "demo", agent, include_drafts=True)
                for row in session_rows.sessions_of_version(conn, "demo", agent, version.version)
            }

        owned = await self._platform.store.read(sessions)
        warm: list[Sandbox] = [row for row in rows if row.session is None]
        for home in self._platform.place.homes.keys() - owned - {row.home for row in warm}:
            self._orphan(f"home {home} belongs to nobody")

    async def _row(self, session: Session) -> SessionRow | None:
        key = ("demo", session.agent, session.id)
        return await self._platform.store.read(lambda conn: session_rows.get_session(conn, *key))

    async def _get(self, path: str, *, either: bool = False) -> Answer:
        """An answer; with `either`, of the one agent or the other: a response is seen at its own only."""
        answer = (await self._platform.request("GET", path)).answer
        assert answer is not None
        if either and answer.status == 404:
            return await self._get(path.replace("/a1/", "/a2/"))
        return answer

    def _lost(self, what: str) -> None:
        self._counts.losses.append(f"{self._where}: {what}")

    def _orphan(self, what: str) -> None:
        self._counts.orphans.append(f"{self._where}: {what}")
