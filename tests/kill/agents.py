"""The agent of the rounds on fake sandboxes: keeps what it is told in its home; the background takes its time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import orjson

from cupola.drivers.fake import Behaviour, FakeSandbox, Reply, Request
from tests.support.agents import EVENTS, event, response_body

JSON = {"content-type": "application/json"}


class Keeper:
    """`POST /invocations` with `{"keep": name}` writes a file before it answers; every answer lists what is there."""

    def __init__(self) -> None:
        self._background: dict[str, tuple[dict[str, Any], int]] = {}

    @property
    def behaviour(self) -> Behaviour:
        return Behaviour(handler=self._answer)

    async def _answer(self, sandbox: FakeSandbox, request: Request) -> Reply:
        if request.method == "GET":
            return self._asked_after(sandbox, request.path.rpartition("/")[2])
        asked = orjson.loads(request.body)
        if "keep" in asked:
            sandbox.files[asked["keep"]] = b"kept"
        if request.path.startswith("/invocations"):
            return Reply(200, JSON, orjson.dumps({"files": sorted(sandbox.files)}))
        text = f"You said: {asked['input']}"
        if asked.get("stream"):
            return Reply(200, EVENTS, _words(request, text))
        if asked.get("background"):
            body = response_body(request, "", "in_progress")
            self._background[f"{sandbox.spec.sandbox_id}/{body['id']}"] = (response_body(request, text), 2)
            return Reply(200, JSON, orjson.dumps(body))
        return Reply(200, JSON, orjson.dumps(response_body(request, text)))

    def _asked_after(self, sandbox: FakeSandbox, response_id: str) -> Reply:
        """Finished when it is asked for the third time; only the sandbox that runs it knows it."""
        key = f"{sandbox.spec.sandbox_id}/{response_id}"
        if key not in self._background:
            return Reply(404)
        body, pending = self._background[key]
        self._background[key] = (body, pending - 1)
        if pending > 0:
            return Reply(200, JSON, orjson.dumps({**body, "status": "in_progress", "output": []}))
        return Reply(200, JSON, orjson.dumps(body))


async def _words(request: Request, text: str) -> AsyncIterator[bytes]:
    yield event(0, "response.created", response=response_body(request, "", "in_progress"))
    for number, word in enumerate(text.split(), start=1):
        await asyncio.sleep(0)
        yield event(number, "response.output_text.delta", delta=word + " ")
    yield event(99, "response.completed", response=response_body(request, text))
