"""Sends what `bad_requests.py` makes to a whole platform on fake sandboxes, and looks at what comes back.

Found wrong is: a 5xx other than 501, an answer that takes longer than `PATIENCE`, an error without Foundry's envelope,
a refused create that has left something behind, and a platform that afterwards does not answer a good request.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import orjson
from sqlalchemy import func, select

from cupola.drivers.fake import Behaviour, FakeSandbox, Reply, Request
from cupola.store import Store, tables
from tests.fuzz.bad_requests import Sent
from tests.support.agents import echo
from tests.support.platform import OPENAI, PROJECT, Answer, PlatformUnderTest

PATIENCE = 10.0
"""Seconds; a fake agent answers at once."""
_SERVED_BY_AGENTS = ("/invocations",)
"""Whose errors are the agent's own, in the agent's own form."""


@dataclass(slots=True)
class Found:
    """What a run has seen: `statuses` counts answers, `wrong` holds a sentence each."""

    statuses: Counter[int] = field(default_factory=Counter)
    kinds: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)

    @property
    def sent(self) -> int:
        return sum(self.statuses.values())


async def agent(sandbox: FakeSandbox, request: Request) -> Reply:
    """An agent that answers anything it is asked for, as a good one does: what it cannot take it refuses."""
    if request.path.partition("?")[0] == "/responses":
        asked = orjson.loads(request.body)
        if not isinstance(asked.get("input"), str):
            return _refusal(400, "'input' must be text.")
        return await echo(sandbox, request)
    if request.path.startswith("/responses/"):
        return _refusal(404, "This agent remembers no response.")
    return await echo(sandbox, request)


def _refusal(status: int, message: str) -> Reply:
    error = {"error": {"code": "refused", "message": message, "type": "invalid_request_error", "param": None}}
    return Reply(status, {"content-type": "application/json"}, orjson.dumps(error))


AGENT = Behaviour(handler=agent)
A2A = {"agent_card": {"version": "1.0"}, "agent_endpoint": {"protocol_configuration": {"responses": {}, "a2a": {}}}}


class Fuzzed:
    """A platform with one of each thing, made anew when a request has taken it away."""

    def __init__(self, platform: PlatformUnderTest, start: int) -> None:
        self._platform = platform
        self._dice = random.Random(start)
        self._names: Mapping[str, list[str]] = {}
        self.found = Found()

    async def prepare(self) -> None:
        """Makes what requests may name."""
        call = self._platform.call
        await self._platform.create_version("a1")
        await call("POST", f"{PROJECT}/agents/a1:enable")
        await call("PATCH", f"{PROJECT}/agents/a1", {"agent_endpoint": None, "agent_card": None})
        await call("PATCH", f"{PROJECT}/agents/a1", A2A)
        await call("DELETE", f"{PROJECT}/agents/a1/endpoint/sessions/s1")
        conversation = await self._platform.conversation()
        response = await self._platform.hear(agent_session_id="s1", conversation=conversation)
        items = (await call("GET", f"{OPENAI}/conversations/{conversation}/items")).json()["data"]
        newest = (await call("GET", f"{PROJECT}/agents/a1/versions?limit=1")).json()["data"][0]["version"]
        self._names = {
            "project": ["demo"],
            "agent": ["a1", "a1", "a1", "a1", "no-such-agent"],
            "version": [newest, "999", "draft-1"],
            "session": ["s1", "s2"],
            "response": [response["id"], "caresp_" + "0" * 50],
            "task": [response["id"], "caresp_" + "0" * 50],
            "conversation": [conversation, "conv_" + "0" * 50],
            "item": [items[0]["id"], "msg_0"],
            "invocation": ["inv_0"],
            "document": ["openapi.json"],
        }

    async def send_all(self, requests: Iterable[Sent]) -> None:
        """One after the other, so that whatever goes wrong is the last one's doing."""
        for sent in requests:
            named = sent.naming(self._names, self._dice)
            answer = await self._send(named)
            if answer is not None and answer.status < 300 and _takes_away(named):
                await self.prepare()

    async def _send(self, sent: Sent) -> Answer | None:
        before = await _kept(self._platform.store)
        try:
            async with asyncio.timeout(PATIENCE):
                answer = await self._platform.call(sent.method, sent.target, raw=sent.body, headers=sent.headers)
        except TimeoutError:
            self.found.statuses[0] += 1
            self.found.wrong.append(f"no answer within {PATIENCE:g} s: {sent}")
            return None
        self.found.statuses[answer.status] += 1
        self.found.kinds[sent.about.rpartition(", ")[2]] += 1
        complaint = _complaint(sent, answer)
        if complaint is None and answer.status >= 400:
            after = await _kept(self._platform.store)
            left = [name for name, count in after.items() if count > before[name]]
            complaint = f"refused with {answer.status}, and has made {' and '.join(left)}" if left else None
        if complaint is not None:
            self.found.wrong.append(f"{complaint}: {sent}\n    answered {answer.status} {answer.body[:500]!r}")
        return answer

    async def answers_still(self) -> None:
        """After everything, a good request to a good agent works."""
        made = await self._platform.create_version("still-good")
        if made["status"] != "active":
            self.found.wrong.append(f"afterwards a good version ended {made['status']}: {made['error']}")


def _takes_away(sent: Sent) -> bool:
    """Whether what requests name may be gone, or changed, after this one."""
    return sent.method in ("DELETE", "PATCH") or ":disable" in sent.target


def _complaint(sent: Sent, answer: Answer) -> str | None:
    if answer.status >= 500 and answer.status != 501:
        return f"a {answer.status}"
    if answer.status < 400 or sent.method == "HEAD" or any(part in sent.target for part in _SERVED_BY_AGENTS):
        return None
    try:
        error = orjson.loads(answer.body)["error"]
        shaped = isinstance(error["code"], str) and isinstance(error["message"], str) and len(error["message"]) > 10
    except (orjson.JSONDecodeError, KeyError, TypeError):
        shaped = False
    if not shaped:
        return "an error without code and sentence"
    if len(error["message"]) > 1500:
        return f"a sentence of {len(error['message'])} characters"
    return None


async def _kept(store: Store) -> Mapping[str, int]:
    """How many there are of what only a successful request may make."""
    made = (tables.agents, tables.versions, tables.conversations, tables.conversation_items)
    return await store.read(
        lambda conn: {each.name: conn.execute(select(func.count()).select_from(each)).scalar_one() for each in made}
    )
