"""Reading bodies."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Mapping
from typing import Annotated

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, Field
from starlette.requests import Request
from starlette.types import Message

from cupola.errors import BadRequest, PayloadTooLarge
from cupola.web import body
from cupola.web.body import MAX_DEPTH, Upload, parse_object, read_model, read_object, read_pieces, read_upload
from tests.support.multipart import as_azd, code_zip, encoded

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=40,
)


def request_of(chunks: list[bytes], headers: Mapping[str, str] | None = None, *, leaves: bool = False) -> Request:
    """A request whose body comes in these chunks; its caller may leave before the last."""
    messages: list[Message] = [{"type": "http.request", "body": chunk, "more_body": True} for chunk in chunks]
    messages.append(
        {"type": "http.disconnect"} if leaves else {"type": "http.request", "body": b"", "more_body": False}
    )

    async def receive() -> Message:
        return messages.pop(0)

    raw = [(name.encode(), value.encode()) for name, value in (headers or {}).items()]
    # `app` in the scope is what makes Starlette raise HTTPException, as under our edge.
    return Request({"type": "http", "method": "POST", "path": "/", "headers": raw, "app": None}, receive)


@given(st.dictionaries(st.text(), JSON, max_size=5))
def test_objects_are_read_as_they_are(sent: dict[str, object]) -> None:
    """Brackets and quotes within texts are no structure."""
    assert parse_object(orjson.dumps(sent)) == sent


@pytest.mark.parametrize("depth", [2, MAX_DEPTH, MAX_DEPTH + 1, 250])
def test_depth_is_limited(depth: int) -> None:
    """What may be read can be written again, also within the objects around it."""
    raw = b'{"a":' + b"[" * (depth - 1) + b"]" * (depth - 1) + b"}"
    if depth > MAX_DEPTH:
        with pytest.raises(BadRequest, match="within each other"):
            parse_object(raw)
    else:
        orjson.dumps([[parse_object(raw)]])


def test_many_brackets_are_not_deep() -> None:
    """A long list of small objects is fine, as are brackets in a text, after quotes and backslashes."""
    parse_object(orjson.dumps({"input": [{"content": [{"text": "x"}]}] * 500}))
    parse_object(orjson.dumps({"a": "[" * 500, "b": 'x"\\' + "{" * 500}))


async def test_a_caller_who_leaves() -> None:
    """It is his doing, not a failure of ours."""
    with pytest.raises(BadRequest, match="left before"):
        await read_object(request_of([b'{"a":'], leaves=True))


async def test_a_body_beyond_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is not read to its end, announced or not."""
    monkeypatch.setattr(body, "MAX_JSON", 10)
    with pytest.raises(PayloadTooLarge):
        await read_object(request_of([b'{"a": 1', b"234567890}", b"never read"]))


class _Model(BaseModel):
    name: Annotated[str, Field(max_length=3)]
    environment_variables: dict[str, str] = Field(default_factory=dict)


@pytest.mark.parametrize(
    ("sent", "param", "said"),
    [
        ({}, "definition.name", "required"),
        ({"name": "long"}, "definition.name", "at most 3 characters. It is 'long'"),
        ({"name": "a", "environment_variables": {"A": 5}}, "definition.environment_variables.A", "may be a secret"),
        ("text", "definition", "It is 'text'"),
    ],
)
def test_the_field_at_fault_is_named(sent: object, param: str, said: str) -> None:
    """With its value, unless that may be a secret."""
    with pytest.raises(BadRequest, match=said) as caught:
        read_model(_Model, sent, prefix="definition.")
    assert caught.value.param == param


async def test_an_upload() -> None:
    """Both parts, however they are cut into pieces."""
    package = code_zip()
    sent = encoded(as_azd(package))
    pieces = [sent["raw"][start : start + 37] for start in range(0, len(sent["raw"]), 37)]
    upload = await read_upload(request_of(pieces, sent["headers"]), 10_000)
    assert isinstance(upload, Upload)
    assert hashlib.sha256(upload.code).hexdigest() == sent["headers"]["x-ms-code-zip-sha256"]
    assert upload.metadata["definition"]["kind"] == "hosted"


async def test_an_upload_without_announced_length_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody fills the disk by leaving out the length; what was spooled is closed."""
    monkeypatch.setattr(body, "_MAX_FIELD", 0)
    sent = encoded(as_azd(b"x" * 3_000_000))
    with pytest.raises(PayloadTooLarge, match="most a zip may have"):
        await read_upload(request_of([sent["raw"][:2_000_000], sent["raw"][2_000_000:]], sent["headers"]), 1_500_000)


async def test_a_zip_beyond_the_limit_within_a_smaller_upload() -> None:
    """What stands beside the zip does not make room for it."""
    sent = encoded(as_azd(b"x" * 1000))
    with pytest.raises(PayloadTooLarge):
        await read_upload(request_of([sent["raw"]], sent["headers"]), 999)


async def test_a_caller_who_leaves_during_an_upload() -> None:
    """What was spooled is closed; the answer would be a 400."""
    sent = encoded(as_azd(b"x" * 2_000_000))
    with pytest.raises(BadRequest, match="left before"):
        await asyncio.wait_for(
            read_upload(request_of([sent["raw"][:1_500_000]], sent["headers"], leaves=True), 10**7), 5
        )


async def test_pieces_come_as_they_are() -> None:
    """A body of any kind, which need not say how long it is."""
    pieces = read_pieces(request_of([b"ab", b"c"]), 3, "it")
    assert [piece async for piece in pieces if piece] == [b"ab", b"c"]


@pytest.mark.parametrize("headers", [{}, {"content-length": "4"}, {"content-length": "2"}])
async def test_too_many_pieces(headers: Mapping[str, str]) -> None:
    """The limit holds whatever was announced, and what was announced is believed if it is too much."""
    pieces = read_pieces(request_of([b"ab", b"cd"], headers), 3, "a file")
    if headers.get("content-length") != "4":
        assert await anext(pieces) == b"ab"
    with pytest.raises(PayloadTooLarge, match="the most that a file may have"):
        await anext(pieces)


async def test_pieces_that_break_off() -> None:
    """A caller who leaves has sent no whole body."""
    with pytest.raises(BadRequest, match="before the body was complete"):
        [piece async for piece in read_pieces(request_of([b"ab"], leaves=True), 3, "it")]
