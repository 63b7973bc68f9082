"""Replies without an end: pieces go out as they come, and a caller who leaves is noticed though nothing is sent."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing

from starlette.types import Receive, Send


async def send_stream(receive: Receive, send: Send, media_type: str, pieces: AsyncGenerator[bytes]) -> None:
    """A 200 with `pieces`, until they end or the caller leaves; they are closed in either case."""
    sending = asyncio.ensure_future(_send(send, media_type, pieces))
    watching = asyncio.ensure_future(until_left(receive))
    try:
        await asyncio.wait({sending, watching}, return_when=asyncio.FIRST_COMPLETED)
        if sending.done():
            sending.result()
    finally:
        for task in (sending, watching):
            task.cancel()
        await asyncio.wait({sending, watching})


async def _send(send: Send, media_type: str, pieces: AsyncGenerator[bytes]) -> None:
    headers = [
        (b"content-type", media_type.encode()),
        (b"cache-control", b"no-cache"),
        (b"x-accel-buffering", b"no"),  # asks proxies on the way to pass on each piece
    ]
    async with aclosing(pieces):
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        async for piece in pieces:
            await send({"type": "http.response.body", "body": piece, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})


async def until_left(receive: Receive) -> None:
    """Ends when the caller has gone; what it still sends is passed over."""
    while (await receive())["type"] != "http.disconnect":
        pass
