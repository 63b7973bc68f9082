"""Event streams while they pass: what is changed, what is not, and what is held back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cupola.gateway.events import MAX_HELD, MAX_UNKNOWN, EventTap

DELTA = b'event: response.output_text.delta\ndata: {"type":"response.output_text.delta","delta":"a\\n\\nb"}\n\n'
COMMENT = b": keep-alive\n\n"
NAMING = b'data: {"type":"response.output_text.delta","sequence_number":4,"delta":"response.completed"}\n\n'


def whole(kind: str, number: int = 0, end: bytes = b"\n") -> bytes:
    payload = {"type": f"response.{kind}", "sequence_number": number, "response": {"id": "r", "status": kind}}
    return b"event: response.%b" % kind.encode() + end + b"data: " + orjson.dumps(payload) + end + end


class Keeper:
    """Marks what it is shown."""

    def __init__(self) -> None:
        self.seen: list[str] = []
        self.tap = EventTap(self.rewrite)

    async def rewrite(self, kind: str, response: Mapping[str, Any]) -> Mapping[str, Any]:
        self.seen.append(kind)
        return {**response, "marked": True}

    async def hear(self, *chunks: bytes) -> list[bytes]:
        """What goes on for each chunk, and at the end."""
        out = []
        for chunk in chunks:
            made = self.tap(chunk)
            out.append(made if isinstance(made, bytes) else await made)
        return [*out, await self.tap.finish()]


def marked(event: bytes) -> bytes:
    """An event of `whole` as it goes on."""
    return event.replace(b'"}}', b'","marked":true}}')


def cut(data: bytes, places: Sequence[int]) -> list[bytes]:
    edges = [0, *sorted(place % (len(data) + 1) for place in places), len(data)]
    return [data[begin:end] for begin, end in pairwise(edges)]


async def test_other_events_pass_as_the_bytes_that_came() -> None:
    """The very object, not a copy: nothing is made for them."""
    keeper = Keeper()
    assert keeper.tap(DELTA) is DELTA
    assert keeper.tap(COMMENT) is COMMENT
    assert keeper.seen == []


@given(
    events=st.lists(st.sampled_from([DELTA, COMMENT, NAMING, whole("created"), whole("in_progress")]), max_size=6),
    last=st.sampled_from(["completed", "failed", "incomplete", "cancelled"]),
    places=st.lists(st.integers(0, 2000), max_size=8),
)
async def test_wherever_the_chunks_end(events: list[bytes], last: str, places: list[int]) -> None:
    """The same comes out, in whole events only, and those that carry a response were shown."""
    keeper = Keeper()
    sent = [*events, whole(last)]
    out = await keeper.hear(*cut(b"".join(sent), places))
    assert b"".join(out) == b"".join(
        marked(event) if event.startswith(b"event: response.") else event for event in sent
    )
    assert all(piece.endswith(b"\n\n") for piece in out if piece)
    assert keeper.seen[-1] == last
    assert keeper.tap.ended


@pytest.mark.parametrize("end", [b"\r\n", b"\r"])
@pytest.mark.parametrize("size", [1, 2, 3, 7, 10_000])
async def test_any_line_ends(end: bytes, size: int) -> None:
    """CR LF and CR end lines as well, wherever the chunks end."""
    keeper = Keeper()
    data = whole("created", end=end) + DELTA.replace(b"\n", end) + whole("completed", end=end)
    out = await keeper.hear(*(data[at : at + size] for at in range(0, len(data), size)))
    joined = b"".join(out)
    assert keeper.seen == ["created", "completed"]
    assert joined.count(b'"marked":true') == 2
    assert DELTA.replace(b"\n", end) in joined


async def test_an_event_without_its_name_in_front() -> None:
    """The payload's own `type` counts, wherever it stands."""
    keeper = Keeper()
    payload = {"response": {"text": "x" * 1000}, "type": "response.completed"}
    out = await keeper.hear(b"data: " + orjson.dumps(payload) + b"\n\n")
    assert keeper.seen == ["completed"]
    assert b'"marked":true' in out[0]


@pytest.mark.parametrize(
    "event",
    [
        b"event: response.completed\ndata: no json\n\n",
        b"event: response.completed\ndata: [1]\n\n",
        b'data: {"type":"response.completed"}\n\n',
        b'data: {"type":"response.completed","response":"r"}\n\n',
        b'data: {"type":5,"response":{"x":"response.completed"}}\n\n',
        b'data: {"type":"response.code_interpreter_call.completed"}\n\n',
    ],
)
async def test_what_only_looks_like_one_passes(event: bytes) -> None:
    """No response in it: untouched."""
    keeper = Keeper()
    assert (await keeper.hear(event))[0] == event
    assert (keeper.seen, keeper.tap.ended) == ([], False)


async def test_half_an_event_is_held() -> None:
    """Nobody could read it; it is dropped when the stream is lost."""
    keeper = Keeper()
    assert keeper.tap(DELTA + DELTA[:20]) == DELTA
    assert keeper.tap(DELTA[20:30]) == b""
    keeper.tap.drop()
    assert await keeper.tap.finish() == b""


async def test_a_large_event_is_not_gathered() -> None:
    """Its bytes go on when it is clear that it carries no response, and what follows is looked at again."""
    keeper = Keeper()
    large = b'data: {"type":"response.image.partial","b64":"' + b"x" * (2 * MAX_UNKNOWN) + b'"}\n\n'
    first, rest = large[: MAX_UNKNOWN + 100], large[MAX_UNKNOWN + 100 :]
    assert keeper.tap(first) == first
    assert keeper.tap(rest[:-1]) == rest[:-1]
    out = await keeper.hear(rest[-1:] + whole("completed"))
    assert out[0] == rest[-1:] + marked(whole("completed"))
    assert keeper.seen == ["completed"]


async def test_a_large_response_is_gathered_up_to_a_limit() -> None:
    """One that is larger passes as it is, and is not taken for the end."""
    keeper = Keeper()
    head, tail = b'event: response.completed\ndata: {"type":"response.completed","response":{"x":"', b'"}}\n\n'
    fits = [head, *[b"x" * MAX_UNKNOWN] * 20, tail]
    out = await keeper.hear(*fits)
    assert keeper.seen == ["completed"]
    assert len(b"".join(out)) > len(b"".join(fits))
    other = Keeper()
    out = await other.hear(head, b"x" * MAX_HELD, b"y", tail)
    assert b"".join(out) == head + b"x" * MAX_HELD + b"y" + tail
    assert other.seen == []


async def test_the_last_event_may_lack_its_blank_line() -> None:
    """It is looked at when the stream has ended."""
    keeper = Keeper()
    event = whole("completed").rstrip(b"\n")
    assert await keeper.hear(event) == [b"", marked(event)]
    assert keeper.tap.ended


async def test_numbers_go_on() -> None:
    """After the last number that was sent; from 0 if there was none."""
    keeper = Keeper()
    assert keeper.tap.next_number == 0
    await keeper.hear(whole("created", 3), COMMENT, b'data: {"sequence_number": 7}\n\n', COMMENT)
    assert keeper.tap.next_number == 8
