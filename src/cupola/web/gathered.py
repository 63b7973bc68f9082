"""Replies in one piece: what is written in one turn of the event loop goes out together.

uvicorn writes the head of a reply and its body one after the other, and over TLS each write is a record of its own with
all that belongs to it. Gathered, a short reply costs one, and the gateway carries a seventh more of them. Nothing waits
for more than the loop's next turn, so a stream is as quick as before.
"""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

AT_ONCE = 32 * 1024
"""Bytes from which on nothing more is waited for: whoever writes without a pause is to notice a slow reader."""


class GatheredTransport(asyncio.Transport):
    """A transport that gathers what is written to it. It has what uvicorn and websockets ask of one."""

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__()
        self._transport = transport
        self._loop = loop
        self._waiting: list[bytes] = []
        self._size = 0

    def write(self, data: bytes | bytearray | memoryview) -> None:
        if not self._waiting:
            self._loop.call_soon(self._flush)
        self._waiting.append(bytes(data))  # whoever wrote a buffer may fill it again before it is sent
        self._size += len(data)
        if self._size >= AT_ONCE:
            self._flush()

    def _flush(self) -> None:
        if self._waiting:
            data = self._waiting[0] if len(self._waiting) == 1 else b"".join(self._waiting)
            self._waiting.clear()
            self._size = 0
            if not self._transport.is_closing():
                self._transport.write(data)

    def close(self) -> None:
        """Once what was written is out."""
        self._flush()
        self._transport.close()

    def abort(self) -> None:
        self._waiting.clear()
        self._size = 0
        self._transport.abort()

    def is_closing(self) -> bool:
        return self._transport.is_closing()

    def get_write_buffer_size(self) -> int:
        return self._size + self._transport.get_write_buffer_size()

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return self._transport.get_extra_info(name, default)

    def pause_reading(self) -> None:
        self._transport.pause_reading()

    def resume_reading(self) -> None:
        self._transport.resume_reading()

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self._transport.set_protocol(protocol)

    def get_protocol(self) -> asyncio.BaseProtocol:
        return self._transport.get_protocol()


class GatheringProtocol(HttpToolsProtocol):
    """uvicorn's HTTP over a gathered transport, which a WebSocket inherits."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(GatheredTransport(transport, self.loop))
