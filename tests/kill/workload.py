"""A seeded client: does at random what clients of sessions do, several at once, and notes what it was promised."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import orjson

from tests.kill.counts import Counts
from tests.kill.promises import Is, Promises, Session, Snap, Talk
from tests.kill.receipt import Receipt
from tests.support.platform import PROJECT, Answer

_CROWD = 14
"""Sessions from which on more are deleted than made."""
_HONEST = frozenset({409, 424, 429, 502, 503})
"""Refusals that a client can make sense of while things die: try again, or see the reason."""
_CALM = frozenset({409, 429})
"""Those that may come although nothing has died: its session is being stopped, the house is full."""


def endpoint(agent: str) -> str:
    return f"{PROJECT}/agents/{agent}/endpoint"


def files(session: Session) -> str:
    return f"{endpoint(session.agent)}/sessions/{session.id}/files"


def own(session: Session) -> str:
    """What Cupola adds to a session, beside the wire."""
    return f"/cupola/projects/demo/agents/{session.agent}/sessions/{session.id}"


class Target(Protocol):
    """A platform that is asked. `sprung` once something has died in this round, `dead` while it is not there."""

    @property
    def dead(self) -> bool: ...

    @property
    def sprung(self) -> bool: ...

    async def request(self, method: str, path: str, body: Any = None) -> Receipt:
        """Whatever was heard of the answer, also when the platform dies over it."""
        ...


Step = Callable[[], Awaitable[None]]


class Workload:
    """`step` does one thing. What it finds wrong goes to `counts`, with `where` it happened."""

    def __init__(
        self, target: Target, agents: Sequence[str], promises: Promises, counts: Counts, dice: random.Random
    ) -> None:
        self._target = target
        self._agents = agents
        self._promises = promises
        self._counts = counts
        self._dice = dice
        self._made = 0
        self.where = ""

    def steps(self) -> dict[Step, int]:
        """What it does, and how often."""
        crowded = len(self._promises.there()) > _CROWD
        return {
            self.create_session: 0 if crowded else 3,
            self.create_named_session: 0 if crowded else 2,
            self.keep: 6,
            self.ask: 5,
            self.stream: 4,
            self.ask_in_background: 3,
            self.begin_talk: 2,
            self.stop_session: 2,
            self.delete_session: 4 if crowded else 1,
            self.upload: 4,
            self.erase: 1,
            self.snapshot: 3,
            self.delete_snapshot: 1,
            self.restore: 2,
            self.fork: 0 if crowded else 2,
        }

    async def actor(self, steps: int) -> None:
        """So many steps, one after the other, until the platform is dead."""
        for _ in range(steps):
            if self._target.dead:
                return
            weights = self.steps()
            (step,) = self._dice.choices(list(weights), weights=list(weights.values()))
            await step()

    # What clients do

    async def create_session(self) -> None:
        await self._create_session({})

    async def create_named_session(self) -> None:
        await self._create_session({"agent_session_id": f"s{self._next()}"})

    async def _create_session(self, body: dict[str, Any]) -> None:
        agent = self._dice.choice(self._agents)
        answer = await self.send("POST", f"{endpoint(agent)}/sessions", body)
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
            answer = await self.send("POST", path, {"keep": name}, session=session)
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
        agent = talk.agent if talk else session.agent if session else self._dice.choice(self._agents)
        body = {"input": text, "keep": text, **fields}
        if talk is not None:
            body["conversation"] = talk.id
            session = talk.session
        elif session is not None:
            body["agent_session_id"] = session.id
        path = f"{endpoint(agent)}/protocols/openai/v1/responses"
        with _busy(session), _busy(talk):
            receipt = await self._sent("POST", path, body, session)
        answer = receipt.answer
        if answer is None and receipt.status == 200 and "stream" in fields:
            self._begun(b"".join(receipt.chunks))
        if answer is not None and answer.status == 200:
            self._heard(agent, talk, answer, text, streamed="stream" in fields)

    def _heard(self, agent: str, talk: Talk | None, answer: Answer, text: str, *, streamed: bool) -> None:
        response = _last_of(answer.body) if streamed else answer.json()
        if response is not None and response.get("type") == "error":
            self._counts.answers[f"error event {response['code']}"] += 1
            self._begun(answer.body)
            return
        if response is None:
            self._counts.dishonest.append(f"{self.where}: a stream ended without a last event")
            return
        session = self._promises.session(agent, answer.headers["x-agent-session-id"])
        session.kept.add(text)
        if response["status"] == "in_progress":
            self._promises.begun.add(response["id"])
        else:
            self._promises.responses[response["id"]] = (response["status"], text)
        if talk is not None:
            if talk.session is not None and talk.session.state is Is.THERE and talk.session is not session:
                self._counts.losses.append(f"{self.where}: a conversation has changed its session")
            talk.session = session
            if response["status"] == "completed":
                talk.heard.append(text)

    def _begun(self, stream: bytes) -> None:
        """A stream that broke off after its first event: its response is there, and must end."""
        events = _events(stream)
        if events and "response" in events[0]:
            self._promises.begun.add(events[0]["response"]["id"])

    async def begin_talk(self) -> None:
        agent = self._dice.choice(self._agents)
        answer = await self.send("POST", f"{endpoint(agent)}/protocols/openai/v1/conversations", {})
        if answer is not None and answer.status == 200:
            made = answer.json()["id"]
            self._promises.talks[made] = Talk(made, agent)

    async def stop_session(self) -> None:
        session = self._any()
        if session is not None:
            with _busy(session):
                await self.send("POST", f"{endpoint(session.agent)}/sessions/{session.id}:stop", session=session)

    async def delete_session(self) -> None:
        session = self._promises.rested(self._dice)
        if session is None or not self._promises.may_delete:
            return
        self._promises.to(Is.OPEN, session)
        with self._promises.deleting():
            answer = await self.send("DELETE", f"{endpoint(session.agent)}/sessions/{session.id}")
        if answer is not None and answer.status == 204:
            self._promises.to(Is.GONE, session)

    # What clients do with homes

    async def upload(self) -> None:
        session = self._any()
        if session is None:
            return
        name = f"f{self._next()}"
        with _busy(session):
            answer = await self.send("PUT", f"{files(session)}/content?path={name}", "kept", session=session)
        if answer is not None and answer.status == 201:
            session.kept.add(name)

    async def erase(self) -> None:
        """Deletes a file."""
        session = self._promises.rested(self._dice)
        if session is None or not session.kept:
            return
        name = self._dice.choice(sorted(session.kept))
        session.kept.discard(name)
        with self._held(session):
            answer = await self.send("DELETE", f"{files(session)}?path={name}", session=session)
        if answer is not None and answer.status == 204:
            session.erased.add(name)

    async def snapshot(self) -> None:
        """Of a session at rest or as it runs."""
        session = self._any()
        if session is None:
            return
        kept = frozenset(session.kept)
        wanted = {"stop": self._dice.random() < 0.3, "force": self._dice.random() < 0.5}
        with _busy(session):
            answer = await self.send("POST", f"{own(session)}/snapshots", wanted, session=session)
        if answer is not None and answer.status == 201:
            made = answer.json()["id"]
            self._promises.snapshots[made] = Snap(session, made, kept)

    async def delete_snapshot(self) -> None:
        snap = self._some_snapshot()
        if snap is None:
            return
        snap.state = Is.OPEN
        with self._held(snap.session):
            answer = await self.send("DELETE", f"{own(snap.session)}/snapshots/{snap.id}", session=snap.session)
        if answer is not None and answer.status == 204:
            snap.state = Is.GONE

    async def restore(self) -> None:
        """Until the answer is heard, only what both homes hold is certain."""
        snap = self._some_snapshot()
        if snap is None or not self._promises.may_delete:
            return
        session = snap.session
        session.kept, session.erased = session.kept & snap.kept, set()
        with self._held(session), self._promises.deleting():
            asked = {"snapshot": snap.id, "force": True}
            answer = await self.send("POST", f"{own(session)}:restore", asked, session=session)
        if answer is not None and answer.status == 200:
            session.kept = set(snap.kept)

    async def fork(self) -> None:
        """A new session with the files of one, or of a snapshot."""
        snap = self._some_snapshot() if self._dice.random() < 0.4 else None
        session = snap.session if snap is not None else self._any()
        if session is None:
            return
        kept = set(session.kept if snap is None else snap.kept)
        with _busy(session):
            asked = {} if snap is None else {"snapshot": snap.id}
            answer = await self.send("POST", f"{own(session)}:fork", asked, session=session)
        if answer is not None and answer.status == 201:
            self._promises.session(session.agent, answer.json()["agent_session_id"]).kept |= kept

    @contextmanager
    def _held(self, session: Session) -> Iterator[None]:
        """Nobody begins anything with it meanwhile."""
        session.held = True
        try:
            with _busy(session):
                yield
        finally:
            session.held = False

    def _some_snapshot(self) -> Snap | None:
        """One of a session that nobody is asking for anything."""
        session = self._promises.rested(
            self._dice, [s for s in self._promises.there() if self._promises.snapshots_of(s)]
        )
        return self._dice.choice(self._promises.snapshots_of(session)) if session is not None else None

    # Sending, and what comes back

    async def send(self, method: str, path: str, body: Any = None, *, session: Session | None = None) -> Answer | None:
        """The answer, if all of it was heard."""
        return (await self._sent(method, path, body, session)).answer

    async def _sent(self, method: str, path: str, body: Any, session: Session | None) -> Receipt:
        receipt = await self._target.request(method, path, body)
        if receipt.answer is not None and receipt.answer.status >= 400:
            self._refused(method, path, receipt.answer, session)
        elif receipt.status and receipt.answer is None:
            self._counts.answers["broken off"] += 1
        return receipt

    def _refused(self, method: str, path: str, answer: Answer, session: Session | None) -> None:
        code = orjson.loads(answer.body).get("error", {}).get("code", "no code")
        self._counts.answers[f"{answer.status} {code}"] += 1
        told = f"{self.where}: {method} {path} was answered {answer.status} {answer.body[:300]!r}"
        if answer.status == 404 and (session is None or session.state is Is.THERE):
            self._counts.losses.append(told)
        elif answer.status != 404 and answer.status not in (_HONEST if self._target.sprung else _CALM):
            self._counts.dishonest.append(told)

    def _any(self) -> Session | None:
        there = [session for session in self._promises.there() if not session.held]
        return self._dice.choice(there) if there else None

    def _rested_talk(self) -> Talk | None:
        """One turn after the other, as people talk."""
        certain = not self._promises.deletions
        free = [talk for talk in self._promises.talks.values() if talk.session is None or not talk.session.held]
        rested = [talk for talk in free if not talk.busy and (certain or not talk.is_unbound)]
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


def _events(stream: bytes) -> list[dict[str, Any]]:
    """The whole events of a stream."""
    whole = stream.split(b"\n\n")[:-1]
    data = [line[6:] for event in whole for line in event.splitlines() if line.startswith(b"data: ")]
    return [orjson.loads(each) for each in data]


def _last_of(stream: bytes) -> dict[str, Any] | None:
    """The response in the last event of a stream, if that is a last word, or the event that says why there is none."""
    last = _events(stream)[-1] if _events(stream) else {}
    if last.get("type") == "error":
        return last
    ended = last.get("type", "") in ("response.completed", "response.failed", "response.incomplete")
    found: dict[str, Any] | None = last.get("response") if ended else None
    return found
