"""A disk that is full: who is refused and how, what is kept, and that all goes on once there is room."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path
from typing import Any

import orjson
import pytest

from cupola.sandboxes.unfinished import PASSES
from tests.kill.disk import full
from tests.kill.fake import opened
from tests.kill.served import ServedPlatform, served
from tests.support.agents import slow
from tests.support.platform import OPENAI, PROJECT

ENDPOINT = f"{PROJECT}/agents/a1/endpoint"
SESSION = f"{ENDPOINT}/sessions/s"
WRITES: list[tuple[str, str, Any]] = [
    ("POST", f"{ENDPOINT}/sessions", {"agent_session_id": "s2"}),
    ("POST", f"{OPENAI}/responses", {"input": "x", "agent_session_id": "s"}),
    ("POST", f"{OPENAI}/conversations", {}),
    ("POST", f"{SESSION}:stop", None),
]
KEEP = f"{ENDPOINT}/protocols/invocations?agent_session_id=s"


def events(stream: bytes) -> list[dict[str, Any]]:
    return [orjson.loads(line[6:]) for line in stream.splitlines() if line.startswith(b"data: ")]


async def test_a_stream_whose_end_cannot_be_kept_says_so(tmp_path: Path) -> None:
    """Its last event is an error with the reason; the response, which had begun, then ends failed."""
    gate, begun = asyncio.Event(), asyncio.Event()
    async with opened(tmp_path, random.Random(1)) as platform:
        platform.engine.behaviour = slow(gate)
        await platform.create_version()
        asking = asyncio.create_task(platform.ask(stream=True, agent_session_id="s", on_chunk=begun))
        await begun.wait()
        platform.trap.disk_full = 1
        gate.set()
        first, *_, last = events((await asking).body)
        assert (last["type"], last["code"]) == ("error", "storage_full")
        assert "No space is left" in last["message"]
        for _ in range(PASSES):
            await platform.platform.unfinished.once()
        kept = (await platform.call("GET", f"{OPENAI}/responses/{first['response']['id']}")).json()
        assert kept["status"] == "failed"


@pytest.mark.e2e
async def test_every_refusal_gives_the_reason(tmp_path: Path) -> None:
    """What would have to be kept is refused; what is only read works; with room again everything does."""
    async with served(tmp_path, "process") as platform:
        if platform.disk is None:
            pytest.skip("a small file system cannot be mounted here")
        await platform.deploy("a1")
        assert await answered(platform, "POST", KEEP, {"keep": "f1"}) == (200, None)
        with full(platform.disk):
            platform.sprung = True
            assert await answered(platform, "GET", SESSION) == (200, None)
            assert await answered(platform, "POST", KEEP, {}) == (200, None)
            for method, path, body in WRITES:
                assert await answered(platform, method, path, body) == (503, "storage_full")
        for method, path, body in WRITES:
            status, code = await answered(platform, method, path, body)
            assert (status // 100, code) == (2, None)
        assert await answered(platform, "POST", KEEP, {"keep": "f2"}) == (200, None)
        await platform.kill()
        await platform.start()
        kept = await platform.request("POST", KEEP, {})
        assert orjson.loads(b"".join(kept.chunks)) == {"files": ["f1", "f2"]}


async def answered(platform: ServedPlatform, method: str, path: str, body: Any = None) -> tuple[int, str | None]:
    """Status and error code of an answer."""
    answer = (await platform.request(method, path, body)).answer
    assert answer is not None
    return answer.status, answer.error["code"] if answer.status >= 400 else None
