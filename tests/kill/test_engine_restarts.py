"""The container engine goes away under a platform, twice, and comes back without the containers."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import orjson
import pytest

from tests.kill.engine import complaint, private_engine
from tests.kill.served import ServedPlatform, served
from tests.kill.where import AGENT
from tests.support.platform import OPENAI, PROJECT
from tests.support.served import built_image, require_engine

pytestmark = [pytest.mark.e2e, pytest.mark.engine]

ENDPOINT = f"{PROJECT}/agents/a1/endpoint"
KEEP = f"{ENDPOINT}/protocols/invocations?agent_session_id=s"
_PATIENCE = 60.0


async def asked(platform: ServedPlatform, method: str, path: str, body: Any = None) -> tuple[int, Any]:
    answer = (await platform.request(method, path, body)).answer
    assert answer is not None
    return answer.status, orjson.loads(answer.body)


async def test_an_engine_that_starts_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Refusals say so; afterwards the session is there with its files, in one container, and nothing is left over."""
    await asyncio.to_thread(require_engine)
    if reason := complaint():
        pytest.skip(reason)
    image = await asyncio.to_thread(built_image, "kill", AGENT)
    with private_engine() as engine:
        engine.take_image(image)
        monkeypatch.setenv("DOCKER_HOST", engine.address)
        async with served(tmp_path, "docker") as platform:
            await platform.deploy("a1")
            platform.sprung = True
            kept: list[str] = []
            for _ in range(2):
                kept.append(f"f{len(kept)}")
                assert await asked(platform, "POST", KEEP, {"keep": kept[-1]}) == (200, {"files": kept})
                begun = {"input": "x", "background": True, "agent_session_id": "s"}
                _, response = await asked(platform, "POST", f"{OPENAI}/responses", begun)
                await asyncio.to_thread(engine.end)
                status, refusal = await asked(platform, "POST", KEEP, {})
                assert (status, refusal["error"]["code"]) in ((503, "driver_unavailable"), (502, "sandbox_lost"))
                await asyncio.to_thread(engine.start)
                async with asyncio.timeout(_PATIENCE):
                    while (await asked(platform, "POST", KEEP, {}))[0] != 200:
                        await asyncio.sleep(0.2)
                    assert await asked(platform, "POST", KEEP, {}) == (200, {"files": kept})
                    while (await ended(platform, response["id"])) == "in_progress":
                        await asyncio.sleep(0.2)
                    while sorted(one.session for one in await platform.where.seen()) != sorted(
                        await platform.running()
                    ):
                        await asyncio.sleep(0.2)


async def ended(platform: ServedPlatform, response_id: str) -> str:
    _, body = await asked(platform, "GET", f"{OPENAI}/responses/{response_id}")
    return str(body["status"])
