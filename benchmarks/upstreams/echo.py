"""The agent under the benchmarks: a server that costs next to nothing, so that what is before it shows.

It runs as a bare process, as a code deployment and as an image, with nothing but the standard library (uvloop
where it is installed). It answers any `POST` with one kilobyte of JSON, or, for a body of `{"events": N,
"gap": SECONDS}`, with N server-sent events that carry the time at which they were written (CLOCK_MONOTONIC,
one for all processes of a machine). It understands only the tame requests of a benchmark: one at a time, with
a content-length.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import time
from typing import cast

PAYLOAD = json.dumps({"output": "x" * 1000}).encode()
ANSWER = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b" % (
    len(PAYLOAD),
    PAYLOAD,
)
STREAM_HEAD = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncache-control: no-cache\r\n"
    b"transfer-encoding: chunked\r\n\r\n"
)


class EchoAgent(asyncio.Protocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.buffer = b""
        self.stream: asyncio.Task[None] | None = None

    def connection_lost(self, exc: Exception | None) -> None:
        if self.stream is not None:
            self.stream.cancel()

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        while (end := self.buffer.find(b"\r\n\r\n")) >= 0:
            whole = end + 4 + content_length(self.buffer[:end])
            if len(self.buffer) < whole:
                return
            last = b"\r\nconnection: close" in self.buffer[:end].lower()
            body, self.buffer = self.buffer[end + 4 : whole], self.buffer[whole:]
            if body.startswith(b'{"events"'):
                self.stream = asyncio.get_running_loop().create_task(self.write_events(json.loads(body)))
            else:
                self.transport.write(ANSWER)
                if last:
                    self.transport.close()

    async def write_events(self, wish: dict[str, float]) -> None:
        self.transport.write(STREAM_HEAD)
        for _ in range(int(wish["events"])):
            await asyncio.sleep(wish["gap"])
            event = b"data: %d %b\n\n" % (time.monotonic_ns(), b"x" * 80)
            self.transport.write(b"%x\r\n%b\r\n" % (len(event), event))
        self.transport.write(b"0\r\n\r\n")


def content_length(head: bytes) -> int:
    lowered = head.lower()
    start = lowered.find(b"\r\ncontent-length:")
    if start < 0:
        return 0
    return int(lowered[start + 17 :].split(b"\r\n", 1)[0])


async def serve(host: str, port: int) -> None:
    loop = asyncio.get_running_loop()
    stopped = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped.set)
    server = await loop.create_server(EchoAgent, host, port)
    await stopped.wait()
    server.close()


def main() -> None:
    with contextlib.suppress(ImportError):
        import uvloop

        asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())
    asyncio.run(serve(os.environ.get("HOST", "0.0.0.0"), int(os.environ.get("PORT", "8088"))))


if __name__ == "__main__":
    main()
