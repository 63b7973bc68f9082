"""A fake agent that keeps one note in its home, and the requests that write and read it."""

from __future__ import annotations

import orjson

from cupola.drivers.fake import Behaviour, FakeSandbox, Reply, Request
from tests.support.platform import PROJECT, PlatformUnderTest

INVOKE = f"{PROJECT}/agents/a1/endpoint/protocols/invocations"


async def keep_note(sandbox: FakeSandbox, request: Request) -> Reply:
    """`{"note": …}` writes it; the answer is the note as it is, and the version that answers."""
    asked = orjson.loads(request.body)
    if "note" in asked:
        sandbox.files["note"] = asked["note"].encode()
    kept = sandbox.files.get("note", b"").decode()
    answer = {"note": kept, "version": sandbox.spec.labels["cupola.version"]}
    return Reply(200, {"content-type": "application/json"}, orjson.dumps(answer))


WRITER = Behaviour(handler=keep_note)


async def write(platform: PlatformUnderTest, session: str, text: str) -> None:
    answer = await platform.call("POST", f"{INVOKE}?agent_session_id={session}", {"note": text})
    assert answer.status == 200, answer.body


async def note(platform: PlatformUnderTest, session: str) -> str:
    return str((await _ask(platform, session))["note"])


async def answering_version(platform: PlatformUnderTest, session: str) -> str:
    return str((await _ask(platform, session))["version"])


async def _ask(platform: PlatformUnderTest, session: str) -> dict[str, str]:
    answer = await platform.call("POST", f"{INVOKE}?agent_session_id={session}", {})
    assert answer.status == 200, answer.body
    found: dict[str, str] = answer.json()
    return found
