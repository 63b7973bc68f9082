"""What must be true after any kill, seen as a client sees it; each place adds what can be seen there."""

from __future__ import annotations

import asyncio
import random
from abc import ABC, abstractmethod
from collections.abc import Sequence

from tests.kill.counts import Counts
from tests.kill.promises import Is, Promises, Session
from tests.kill.workload import Target, endpoint, own
from tests.support.platform import PROJECT, Answer

_PATIENCE = 60.0
"""Seconds after which whatever was running must have ended, one way or the other."""
_FINAL = ("completed", "failed", "cancelled")


class Invariants(ABC):
    """Looks, and says what is lost or owned by nobody. `served` sessions of each round are asked for something."""

    served = 3
    tells_homes_apart = True
    """False where only the names of files in all homes are seen: what is deleted in one may lie in a copy of it."""

    def __init__(
        self, target: Target, agents: Sequence[str], promises: Promises, counts: Counts, dice: random.Random
    ) -> None:
        self._target = target
        self._agents = agents
        self._promises = promises
        self._counts = counts
        self._dice = dice
        self._where = ""

    async def look(self, where: str) -> None:
        """After the passes that a platform makes within a minute: everything that was promised."""
        self._where = where
        await self.settle()
        await self._look_at_versions()
        await self._look_at_responses()
        await self._look_at_sessions()
        await self._look_at_snapshots()
        await self._look_at_talks()
        await self._serve_some()
        await self.look_at_sandboxes()

    # What a place knows better

    @abstractmethod
    async def settle(self) -> None:
        """Lets the platform make its passes."""

    @abstractmethod
    async def is_starting(self, session: Session) -> bool:
        """Whether a session that says so really comes up."""

    @abstractmethod
    async def files_of(self, session: Session) -> set[str] | None:
        """The files in its home, seen without asking its agent; None where they cannot be seen."""

    @abstractmethod
    async def look_at_sandboxes(self) -> None:
        """One for each session at most, and none that nobody owns."""

    async def _look_at_versions(self) -> None:
        for version in list(self._promises.versions.values()):
            answer = await self.get(f"{PROJECT}/agents/{version.agent}/versions/{version.name}")
            self._counts.kept["versions"] += 1
            if version.state is Is.THERE and answer.status != 200:
                self.lost(f"version {version.agent}:{version.name} was made and is answered {answer.status}")
            if version.state is Is.GONE and answer.status != 404:
                self.lost(f"version {version.agent}:{version.name} was deleted and is answered {answer.status}")
            if version.state is Is.OPEN:
                version.state = Is.THERE if answer.status == 200 else Is.GONE

    async def _look_at_sessions(self) -> None:
        for session in list(self._promises.sessions.values()):
            answer = await self.get(f"{endpoint(session.agent)}/sessions/{session.id}")
            self._counts.kept["sessions"] += 1
            if session.state is Is.THERE and answer.status != 200:
                self.lost(f"session {session.id} was there and is answered {answer.status}")
            if session.state is Is.GONE and answer.status != 404:
                self.lost(f"session {session.id} was deleted and is answered {answer.status}")
            session.state = Is.THERE if answer.status == 200 else Is.GONE
            if session.state is Is.GONE:
                del self._promises.sessions[(session.agent, session.id)]
                continue
            await self._look_at_home(session)
            bound = answer.json()["version_indicator"]["agent_version"]
            if session.version not in (None, bound):
                self.lost(f"session {session.id} was moved to {session.version} and is on {bound}")
            if answer.json()["status"] == "creating" and not await self.is_starting(session):
                self.lost(f"session {session.id} is being created, and nobody is at it")

    async def _look_at_snapshots(self) -> None:
        """A deleted session has taken its own along."""
        shown: dict[tuple[str, str], set[str]] = {}
        for session in {snap.session for snap in self._promises.snapshots.values()}:
            answer = await self.get(f"{own(session)}/snapshots?limit=100")
            items = answer.json()["data"] if answer.status == 200 else []
            shown[(session.agent, session.id)] = {item["id"] for item in items if item["status"] == "ready"}
        for snap in list(self._promises.snapshots.values()):
            self._counts.kept["snapshots"] += 1
            there = snap.id in shown[(snap.session.agent, snap.session.id)]
            if (snap.state, there) in ((Is.THERE, False), (Is.GONE, True)):
                self.lost(f"snapshot {snap.id} of session {snap.session.id} is to be {snap.state}, and there: {there}")
            snap.state = Is.THERE if there else Is.GONE
            if not there:
                del self._promises.snapshots[snap.id]

    async def _look_at_home(self, session: Session) -> None:
        files = await self.files_of(session)
        if files is None:
            return
        self._counts.kept["files"] += len(session.kept)
        if missing := session.kept - files:
            self.lost(f"session {session.id} has lost {len(missing)} of {len(session.kept)} files")
        if self.tells_homes_apart and (back := session.erased & files):
            self.lost(f"session {session.id} has {len(back)} files that were deleted")

    async def _look_at_talks(self) -> None:
        for talk in self._promises.talks.values():
            answer = await self.get(f"{endpoint(talk.agent)}/protocols/openai/v1/conversations/{talk.id}")
            self._counts.kept["conversations"] += 1
            if answer.status != 200:
                self.lost(f"conversation {talk.id} is answered {answer.status}")
                continue
            path = f"{endpoint(talk.agent)}/protocols/openai/v1/conversations/{talk.id}/items?limit=100&order=desc"
            items = (await self.get(path)).json()["data"]
            said = {part.get("text") for item in items for part in item.get("content", ())}
            lost = [text for text in talk.heard[-20:] if not {text, f"You said: {text}"} <= said]
            if lost:
                self.lost(f"conversation {talk.id} has lost {len(lost)} turns")

    async def _look_at_responses(self) -> None:
        for response_id, (status, _) in self._promises.responses.items():
            answer = await self._response(response_id)
            self._counts.kept["responses"] += 1
            if answer.status != 200 or answer.json()["status"] != status:
                self.lost(f"response {response_id} was {status} and is answered {answer.status}")
        self._promises.responses.clear()
        for response_id in list(self._promises.begun):
            self._counts.kept["responses"] += 1
            await self._look_at_begun(response_id)
            self._promises.begun.discard(response_id)

    async def _look_at_begun(self, response_id: str) -> None:
        """It has ended, or ends now; if it failed, it says why."""
        deadline = asyncio.get_running_loop().time() + _PATIENCE
        while True:
            answer = await self._response(response_id)
            body = answer.json() if answer.status == 200 else {}
            if body.get("status") in _FINAL:
                break
            if answer.status != 200 or asyncio.get_running_loop().time() > deadline:
                self.lost(f"response {response_id} had begun and is answered {answer.status} {body.get('status')}")
                return
            await self.settle()
            await asyncio.sleep(0.01)
        if body["status"] == "failed" and not body["error"]["message"]:
            self.lost(f"response {response_id} failed without a reason")

    async def _response(self, response_id: str) -> Answer:
        """The answer of the agent that has it: a response is seen at its own only."""
        for agent in self._agents:
            answer = await self.get(f"{endpoint(agent)}/protocols/openai/v1/responses/{response_id}")
            if answer.status != 404:
                break
        return answer

    async def _serve_some(self) -> None:
        there = self._promises.there()
        for session in self._dice.sample(there, min(self.served, len(there))):
            path = f"{endpoint(session.agent)}/protocols/invocations?agent_session_id={session.id}"
            answer = (await self._target.request("POST", path, {})).answer
            self._counts.kept["requests"] += 1
            if answer is None or answer.status != 200:
                told = "not at all" if answer is None else f"{answer.status} {answer.body[:300]!r}"
                self.lost(f"session {session.id} is asked and answered {told}")
            elif missing := session.kept - set(answer.json()["files"]):
                self.lost(f"the sandbox of session {session.id} does not see {len(missing)} of its files")

    async def get(self, path: str) -> Answer:
        """An answer to a question, which nothing disturbs."""
        answer = (await self._target.request("GET", path)).answer
        if answer is None:
            raise AssertionError(f"{self._where}: GET {path} was not answered")
        return answer

    def lost(self, what: str) -> None:
        self._counts.losses.append(f"{self._where}: {what}")

    def orphan(self, what: str) -> None:
        self._counts.orphans.append(f"{self._where}: {what}")
