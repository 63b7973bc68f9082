"""A seeded client: does at random what clients of sessions do, several at once, and notes what it was promised."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any

import orjson
from sqlalchemy import Connection

from cupola.agents import VersionStatus
from cupola.store import agents as agent_rows
from cupola.store import sessions as session_rows
from tests.kill.counts import Counts
from tests.kill.mortal import MortalPlatform
from tests.kill.promises import Is, Promises, Session, Talk, Version
from tests.support.platform import DEFINITION, PROJECT, Answer

AGENTS = ("a1", "a2")
_HONEST = frozenset({409, 424, 429, 502, 503})
"""Refusals that a client can make sense of while things die: try again, or see the reason."""
_CALM = frozenset({409, 429})
"""Those that may come although nothing has died: its session is being stopped, the house is full."""


def endpoint(agent: str) -> str:
    return f"{PROJECT}/agents/{agent}/endpoint"


def definition(number: int) -> dict[str, Any]:
    return {**DEFINITION, "container_configuration": {"image": f"agent:{number}"}}


class Workload:
    """`step` does one thing. What it finds wrong goes to `counts`, with `where` it happened."""

    def __init__(self, platform: MortalPlatform, promises: Promises, counts: Counts, dice: random.Random) -> None:
        self._platform = platform
        self._promises = promises
        self._counts = counts
        self._dice = dice
        self._made = 0
        self.where = ""
        self._steps: dict[Callable[[], Awaitable[None]], int] = {
            self.create_session: 3,
            self.create_named_session: 2,
            self.keep: 6,
            self.ask: 5,
            self.stream: 4,
            self.ask_in_background: 3,
            self.begin_talk: 2,
            self.stop_session: 2,
            self.delete_session: 1,
            self.create_version: 1,
            self.delete_version: 1,
            self.let_time_pass: 2,
            self.look_for_orphans: 1,
        }

    async def actor(self, steps: int) -> None:
        """So many steps, one after the other, until the platform is dead."""
        for _ in range(steps):
            if self._platform.trap.dead.is_set():
                return
            (step,) = self._dice.choices(list(self._steps), weights=list(self._steps.values()))
            await step()

    # What clients do

    async def create_version(self, agent: str | None = None) -> None:
        agent = agent or self._dice.choice(AGENTS)
        body = {"definition": definition(self._next())}
        answer = await self._send("POST", f"{PROJECT}/agents/{agent}/versions", body)
        if answer is not None and answer.status == 200:
            name = answer.json()["version"]
            self._promises.versions[(agent, name)] = Version(agent, name)

    async def delete_version(self) -> None:
        """An old one of which nobody uses a session now; its sessions and their files end with it."""
        agent = self._dice.choice(AGENTS)
        there = [one for one in self._promises.versions.values() if one.agent == agent and one.state is Is.THERE]
        if len(there) < 3:
            return
        version = there[0]
        bound = await self._platform.under(self._bound_to(version))
        if bound is None or any(session.busy for session in bound):
            return
        version.state = Is.OPEN
        for session in bound:
            session.state = Is.OPEN
        answer = await self._send("DELETE", f"{PROJECT}/agents/{agent}/versions/{version.name}?force=true")
        if answer is not None and answer.status == 200:
            version.state = Is.GONE
            for session in bound:
                session.state = Is.GONE

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

    async def create_session(self) -> None:
        await self._create_session({})

    async def create_named_session(self) -> None:
        await self._create_session({"agent_session_id": f"s{self._next()}"})

    async def _create_session(self, body: dict[str, Any]) -> None:
        agent = self._dice.choice(AGENTS)
        answer = await self._send("POST", f"{endpoint(agent)}/sessions", body)
        if answer is not None and answer.status == 201:
            self._promises.session(agent, answer.json()["agent_session_id"])

    async def keep(self) -> None:
        """Has a file written to a session's home."""
        session = self._promises.rested(self._dice) if self._dice.random() < 0.5 else self._any()
        if session is None:
            return
        name = f"f{self._next()}"
        path = f"{endpoint(session.agent)}/protocols/invocations?agent_session_id={session.id}"
        with _busy(session):
            answer = await self._send("POST", path, {"keep": name}, session=session)
        if answer is not None and answer.status == 200:
            session.kept.add(name)

    async def ask(self) -> None:
        await self._ask({})

    async def stream(self) -> None:
        await self._ask({"stream": True})

    async def ask_in_background(self) -> None:
        await self._ask({"background": True})

    async def _ask(self, fields: dict[str, Any]) -> None:
        text = f"t{self._next()}"
        chosen = self._dice.random()
        talk, session = None, None
        if chosen < 0.3:
            talk = self._rested_talk()
        elif chosen < 0.8:
            session = self._any()
        agent = talk.agent if talk else session.agent if session else self._dice.choice(AGENTS)
        body = {"input": text, "keep": text, **fields}
        if talk is not None:
            body["conversation"] = talk.id
            session = talk.session
        elif session is not None:
            body["agent_session_id"] = session.id
        with _busy(session), _busy(talk):
            answer = await self._send("POST", f"{endpoint(agent)}/protocols/openai/v1/responses", body, session=session)
        if answer is not None and answer.status == 200:
            self._heard(agent, talk, answer, text, streamed="stream" in fields)

    def _heard(self, agent: str, talk: Talk | None, answer: Answer, text: str, *, streamed: bool) -> None:
        response = _last_of(answer.body) if streamed else answer.json()
        if response is None:
            self._counts.dishonest.append(f"{self.where}: a stream ended without a last event")
            return
        session = self._promises.session(agent, answer.headers["x-agent-session-id"])
        session.kept.add(text)
        if response["status"] == "in_progress":
            self._promises.begun[response["id"]] = session
        else:
            self._promises.responses[response["id"]] = (response["status"], text)
        if talk is not None:
            if talk.session is not None and talk.session.state is Is.THERE and talk.session is not session:
                self._counts.losses.append(f"{self.where}: a conversation has changed its session")
            talk.session = session
            if response["status"] == "completed":
                talk.heard.append(text)

    async def begin_talk(self) -> None:
        agent = self._dice.choice(AGENTS)
        answer = await self._send("POST", f"{endpoint(agent)}/protocols/openai/v1/conversations", {})
        if answer is not None and answer.status == 200:
            made = answer.json()["id"]
            self._promises.talks[made] = Talk(made, agent)

    async def stop_session(self) -> None:
        session = self._any()
        if session is not None:
            with _busy(session):
                await self._send("POST", f"{endpoint(session.agent)}/sessions/{session.id}:stop", session=session)

    async def delete_session(self) -> None:
        session = self._promises.rested(self._dice)
        if session is None:
            return
        session.state = Is.OPEN
        answer = await self._send("DELETE", f"{endpoint(session.agent)}/sessions/{session.id}")
        if answer is not None and answer.status == 204:
            session.state = Is.GONE

    # What time does

    async def let_time_pass(self) -> None:
        """Sometimes so much that whatever rests goes idle."""
        self._platform.clock.now += self._dice.choice((1, 30, 1000))
        await self._platform.pass_of(self._platform.platform.reaper.once())

    async def look_for_orphans(self) -> None:
        await self._platform.pass_of(self._platform.platform.orphans.once())

    # Sending, and what comes back

    async def _send(self, method: str, path: str, body: Any = None, *, session: Session | None = None) -> Answer | None:
        receipt = await self._platform.request(method, path, body)
        answer = receipt.answer
        self._counts.answers["cut off"] += receipt.cut
        if answer is not None and answer.status >= 400:
            self._refused(method, path, answer, session)
        return answer

    def _refused(self, method: str, path: str, answer: Answer, session: Session | None) -> None:
        code = orjson.loads(answer.body).get("error", {}).get("code", "no code")
        self._counts.answers[f"{answer.status} {code}"] += 1
        told = f"{self.where}: {method} {path} was answered {answer.status} {answer.body[:300]!r}"
        if answer.status == 404 and (session is None or session.state is Is.THERE):
            self._counts.losses.append(told)
        elif answer.status != 404 and answer.status not in (_HONEST if self._platform.trap.sprung else _CALM):
            self._counts.dishonest.append(told)

    def _any(self) -> Session | None:
        there = self._promises.there()
        return self._dice.choice(there) if there else None

    def _rested_talk(self) -> Talk | None:
        """One turn after the other, as people talk."""
        rested = [talk for talk in self._promises.talks.values() if not talk.busy]
        return self._dice.choice(rested) if rested else None

    def _next(self) -> int:
        self._made += 1
        return self._made


@contextmanager
def _busy(thing: Session | Talk | None) -> Iterator[None]:
    if thing is not None:
        thing.busy += 1
    try:
        yield
    finally:
        if thing is not None:
            thing.busy -= 1


def _last_of(stream: bytes) -> dict[str, Any] | None:
    """The response in the last event of a stream, if that is a last word."""
    lines = [line[6:] for line in stream.splitlines() if line.startswith(b"data: ")]
    last = orjson.loads(lines[-1]) if lines else {}
    ended = last.get("type", "") in ("response.completed", "response.failed", "response.incomplete")
    found: dict[str, Any] | None = last.get("response") if ended else None
    return found
