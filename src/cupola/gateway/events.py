"""Looking at an event stream while it passes, and changing only what must be changed.

Events that carry a whole response (`response.created` … `response.completed`) are shown to whoever keeps it, and go on
as that one says; all others pass untouched, as the very bytes that came. An event goes on when it is whole, which is
when a client could first read it, so that a stream that breaks off never ends in half an event. At most one is held
back, and of a large one that carries no response nothing but its beginning.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import orjson

ENDS = frozenset({"completed", "failed", "incomplete", "cancelled"})
"""`response.<one of these>` is the last word of a stream."""

MAX_HELD = 32 * 1024 * 1024
"""Bytes of one event that are held; a longer one passes as it is."""

MAX_UNKNOWN = 64 * 1024
"""Bytes of one event that are held before it has named its kind, or when that is of no interest."""

Rewrite = Callable[[str, Mapping[str, Any]], Awaitable[Mapping[str, Any]]]
"""Gets the kind (`created`, `completed`, …) and the response of an event, and returns what goes on in its place."""

_TELLING = re.compile(rb"response\.(?:created|queued|in_progress|completed|failed|incomplete|cancelled)\b")
_KIND = re.compile(r"response\.(created|queued|in_progress|completed|failed|incomplete|cancelled)")
_BLANK = re.compile(rb"(?:\r\n|\n|\r(?!\n))(?:\r\n|\n|\r)")
_LINE = re.compile(rb"\r\n|\n|\r")
_NUMBER = re.compile(rb'"sequence_number"\s*:\s*(\d+)')


class EventTap:
    """What `proxy.forward` calls with each piece of a stream; see `proxy.OnChunk` for what it returns."""

    def __init__(self, rewrite: Rewrite) -> None:
        self._rewrite = rewrite
        self._held = bytearray()
        self._passing: bytes | None = None  # the last bytes of a large event that passes as it is
        self._numbered = b""
        self.ended = False

    @property
    def next_number(self) -> int:
        """The `sequence_number` that an event added at the end should have."""
        numbers = _NUMBER.findall(self._numbered)
        return int(numbers[-1]) + 1 if numbers else 0

    def __call__(self, chunk: bytes) -> bytes | Awaitable[bytes]:
        if self._passing is not None:
            return self._pass_on(chunk)
        if self._held:
            known = max(0, len(self._held) - 3)
            self._held += chunk
            end = _last_boundary(self._held, known)
            if not end:
                return self._let_go_if_large()
            whole = bytes(self._held[:end])
            del self._held[:end]
        else:
            end = _last_boundary(chunk, 0)
            if end == len(chunk):
                whole = chunk
            else:
                whole = chunk[:end]
                self._held += chunk[end:]
                if not end:
                    return self._let_go_if_large()
        if _TELLING.search(whole) is None:
            if b'"sequence_number"' in whole:
                self._numbered = whole
            return whole
        return self._rewritten(whole)

    async def finish(self) -> bytes:
        """What is still held when the stream has ended without a blank line."""
        rest = bytes(self._held)
        self._held.clear()
        return await self._rewritten(rest) if rest else b""

    async def finish_or_none(self) -> bytes | None:
        """The same, as `proxy.forward` wants to be told that there is nothing."""
        return await self.finish() or None

    def drop(self) -> None:
        """Forgets the half event that a lost stream leaves behind: no client could read it."""
        self._held.clear()

    def _let_go_if_large(self) -> bytes:
        size = len(self._held)
        if size <= MAX_UNKNOWN or (size <= MAX_HELD and _TELLING.search(self._held, 0, MAX_UNKNOWN) is not None):
            return b""
        out = bytes(self._held)
        self._held.clear()
        self._passing = out[-3:]
        return out

    def _pass_on(self, chunk: bytes) -> bytes | Awaitable[bytes]:
        """The rest of a large event, and what comes after it as usual."""
        before = self._passing or b""
        found = _BLANK.search(before + chunk)
        if found is None:
            self._passing = (before + chunk)[-3:]
            return chunk
        self._passing = None
        end = max(0, found.end() - len(before))
        rest = self(chunk[end:]) if len(chunk) > end else b""
        return chunk[:end] + rest if isinstance(rest, bytes) else _after(chunk[:end], rest)

    async def _rewritten(self, data: bytes) -> bytes:
        out: list[bytes] = []
        start = 0
        for blank in _BLANK.finditer(data):
            out += (await self._seen(data[start : blank.start()]), blank.group())
            start = blank.end()
        if start < len(data):
            out.append(await self._seen(data[start:]))
        return b"".join(out)

    async def _seen(self, event: bytes) -> bytes:
        self._numbered = event if _NUMBER.search(event) is not None else self._numbered
        if _TELLING.search(event) is None:
            return event
        payload = _data_of(event)
        kind = _KIND.fullmatch(str(payload.get("type", "")))
        response = payload.get("response")
        if kind is None or not isinstance(response, dict):
            return event
        self.ended = self.ended or kind[1] in ENDS
        return _with_data(event, {**payload, "response": await self._rewrite(kind[1], response)})


async def _after(first: bytes, rest: Awaitable[bytes]) -> bytes:
    return first + await rest


def _last_boundary(data: bytes | bytearray, start: int) -> int:
    """Where the last whole event ends, its blank line included; 0 if none does behind `start`."""
    end = data.rfind(b"\n\n", start)
    if data.find(b"\r", start) < 0:
        return 0 if end < 0 else end + 2
    found = 0
    for blank in _BLANK.finditer(data, start):
        found = blank.end()
    return found


def _data_of(event: bytes) -> Mapping[str, Any]:
    lines = [line[5:].lstrip(b" ") for line in _LINE.split(event) if line.startswith(b"data:")]
    try:
        payload = orjson.loads(b"\n".join(lines))
    except orjson.JSONDecodeError:
        return {}
    return payload if isinstance(payload, dict) else {}


def _with_data(event: bytes, payload: Mapping[str, Any]) -> bytes:
    kept = [line for line in _LINE.split(event) if line and not line.startswith(b"data:")]
    rest_of_line_end = event[:1] if event.startswith(b"\n") else b""  # of a CR LF that was torn apart
    return rest_of_line_end + b"\n".join([*kept, b"data: " + orjson.dumps(payload)])
