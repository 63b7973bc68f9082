"""Keeping what a response was, while its bytes pass by untouched.

Containers on the current adapters store their responses themselves (`callbacks/storage.py`); a plain container stores
nothing. So the gateway keeps a copy of the beginning and the end of every stored response, and steps back wherever
the container has written its own. The last event of a stream goes on only when it is kept: what a caller has seen
finished survives a crash.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import orjson

from cupola.conversations import FINAL_STATUSES, StoredResponse
from cupola.store import Store
from cupola.store import responses as rows

_MAX_EVENT = 32 * 1024 * 1024
_TELLING = {
    b"response.created": False,
    b"response.completed": True,
    b"response.failed": True,
    b"response.incomplete": True,
    b"response.cancelled": True,
}
"""Events that carry a whole response, and whether it is the last word."""


@dataclass(frozen=True, slots=True)
class Asked:
    """What a response answers: whose it is and what it was given."""

    project: str
    user: str
    agent: str
    session: str
    response_id: str
    conversation: str | None
    previous: str | None
    background: bool
    input_items: Sequence[Mapping[str, Any]]


class Recorder:
    """Writes responses as the gateway saw them. `clock` gives unix seconds."""

    def __init__(self, store: Store, clock: Callable[[], float] = time.time) -> None:
        self._store = store
        self._clock = clock

    async def keep(self, asked: Asked, body: Mapping[str, Any]) -> None:
        """Keeps `body`, unless the container has stored its own last word already; returns when it is committed."""
        now = self._clock()
        response_id = body.get("id") if isinstance(body.get("id"), str) else asked.response_id
        assert isinstance(response_id, str)

        def change(conn: Any) -> None:
            known = rows.get_response(conn, asked.project, response_id)
            if known is not None and (known.is_final or body.get("status") not in FINAL_STATUSES):
                return
            if known is None:
                known = self._new(conn, asked, response_id, body, now)
                rows.create_response(conn, known, asked.input_items)
            rows.save_response(conn, replace(known, body=body))

        await self._store.write(change)

    def _new(self, conn: Any, asked: Asked, response_id: str, body: Mapping[str, Any], now: float) -> StoredResponse:
        history: tuple[str, ...] = ()
        if asked.previous is not None:
            history = rows.history_of_response(conn, asked.project, asked.previous) or ()
        elif asked.conversation is not None:
            history = tuple(rows.history_of_conversation(conn, asked.project, asked.conversation))
        return StoredResponse(
            project=asked.project,
            id=response_id,
            user=asked.user,
            agent=asked.agent,
            session=asked.session,
            body=body,
            created_at=now,
            conversation=asked.conversation,
            input_item_ids=tuple(str(item["id"]) for item in asked.input_items),
            history_item_ids=history,
            background=asked.background,
        )


class EventTap:
    """Looks at a passing event stream and calls `keep` with the responses that begin and end it.

    Bytes are gathered only up to the next blank line, and only events that matter are parsed.
    """

    def __init__(self, keep: Callable[[Mapping[str, Any]], Awaitable[None]]) -> None:
        self._keep = keep
        self._pending = b""
        self.last: Mapping[str, Any] | None = None
        self.ended = False
        self.next_number = 0

    def __call__(self, chunk: bytes) -> Awaitable[None] | None:
        data = self._pending + chunk if self._pending else chunk
        data = data.replace(b"\r\n", b"\n") if b"\r" in data else data
        cut = data.rfind(b"\n\n")
        if cut < 0:
            self._pending = data if len(data) <= _MAX_EVENT else b""
            return None
        self._pending = data[cut + 2 :]
        telling = [event for event in data[:cut].split(b"\n\n") if self._tells(event)]
        return self._take(telling) if telling else None

    def _tells(self, event: bytes) -> bool:
        if event.startswith(b":"):
            return False
        self.next_number += 1
        head = event[:160]
        return any(name in head for name in _TELLING)

    async def _take(self, events: Sequence[bytes]) -> None:
        for event in events:
            payload = _data_of(event)
            kind = str(payload.get("type", "")).encode()
            response = payload.get("response")
            if kind not in _TELLING or not isinstance(response, dict):
                continue
            self.last = response
            self.ended = self.ended or _TELLING[kind]
            await self._keep(response)


def _data_of(event: bytes) -> Mapping[str, Any]:
    lines = [line[5:].lstrip(b" ") for line in event.split(b"\n") if line.startswith(b"data:")]
    try:
        payload = orjson.loads(b"\n".join(lines))
    except orjson.JSONDecodeError:
        return {}
    return payload if isinstance(payload, dict) else {}
