"""Reading JSON bodies."""

from __future__ import annotations

from typing import Any

import orjson
from starlette.requests import Request

from cupola.errors import BadRequest, PayloadTooLarge

MAX_JSON = 32 * 1024 * 1024
"""Bytes of a JSON body; images travel inline in responses requests, hence not less."""


def parse_object(raw: bytes) -> dict[str, Any]:
    """A JSON object; no bytes at all are an empty one. Raises BadRequest."""
    if not raw.strip():
        return {}
    try:
        body = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        raise BadRequest(f"The body is not valid JSON: {error}.", code="invalid_payload") from error
    if not isinstance(body, dict):
        raise BadRequest("The body must be a JSON object.", code="invalid_payload")
    return body


async def read_object(request: Request) -> dict[str, Any]:
    """The request's body as a JSON object. Raises BadRequest, or PayloadTooLarge."""
    return parse_object(await read_bytes(request))


async def read_bytes(request: Request) -> bytes:
    """The request's body. Raises PayloadTooLarge."""
    chunks = bytearray()
    async for chunk in request.stream():
        chunks += chunk
        if len(chunks) > MAX_JSON:
            raise PayloadTooLarge(f"The body is larger than {MAX_JSON // 1024**2} MB.")
    return bytes(chunks)
